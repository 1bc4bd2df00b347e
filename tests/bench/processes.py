"""Processes and their memory, from /proc."""

import os
from pathlib import Path


def pss_kib(pid):
    """Proportional set size of a process in KiB: its own memory and its share of what it shares."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1])
    raise ValueError(f"process {pid} has no Pss line")


def parent(pid):
    """Parent of a process."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(text.rsplit(")", 1)[1].split()[1])


def command(pid):
    """Arguments of a process; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def children(pid):
    """Children of a process, of any of its threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
    return found


def descendants(pid):
    """A process and everything below it."""
    found = [pid]
    for child in children(pid):
        found += descendants(child)
    return found


def alive(pid):
    """The process runs, and is no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rsplit(")", 1)[1].split()[0] != "Z"


def numbered():
    """All processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def pid_namespace(pid):
    """Pid namespace of a process; none when it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def namespace_pids(pid):
    """Numbers of a process, from this pid namespace inwards."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = [line for line in lines if line.startswith("NSpid:")]
    return [int(number) for number in found[0].split()[1:]] if found else []


def ancestor_in(pid, namespace):
    """The parent of a process lives in the pid namespace."""
    return pid_namespace(parent(pid)) == namespace

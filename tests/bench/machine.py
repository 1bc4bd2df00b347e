"""What the figures were measured on."""

import os
import subprocess
import time
from pathlib import Path

from clock import load

PEERS = (("dockerd", ["dockerd", "--version"]), ("containerd", ["containerd", "--version"]))
RUNTIMES = (("runc", ["runc", "--version"]), ("crun", ["crun", "--version"]))


def facts(repository, binary):
    """Machine, versions, commit and load."""
    found = {
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": output(["git", "-C", str(repository), "rev-parse", "--short=12", "HEAD"]),
        "binary": f"{binary.stat().st_size / 2**20:.1f} MiB, built {stamp(binary)}{age(repository, binary)}",
        "processors": os.cpu_count(),
        "processor": processor(),
        "memory": f"{memory_kib() / 2**20:.1f} GiB",
        "kernel": os.uname().release,
        "load before": load(),
    }
    found.update({name: first_line(command) for name, command in PEERS + RUNTIMES})
    return found


def stamp(file):
    """When a file was written."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(file.stat().st_mtime))


def age(repository, binary):
    """Says so when the binary cannot hold the commit."""
    committed = output(["git", "-C", str(repository), "log", "-1", "--format=%ct"])
    return " and so OLDER than that commit" if committed and binary.stat().st_mtime < int(committed) else ""


def processor():
    """Model of the processors."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return os.uname().machine


def memory_kib():
    """Memory of the machine."""
    return int(Path("/proc/meminfo").read_text(encoding="utf-8").split()[1])


def first_line(command):
    """First line that a command says; nothing when it is not installed."""
    return output(command).partition("\n")[0]


def output(command):
    """What a command says."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""

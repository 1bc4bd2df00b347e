"""What containers leave behind on a node, and how long it stays: control groups, mounts and network links."""

from pathlib import Path

from clock import Late, now, wait

HIERARCHIES = Path("/sys/fs/cgroup")


def count(node):
    """(control groups, mounts, links) of a node."""
    mounts = Path(f"/proc/{node.daemon()}/mountinfo").read_text(encoding="utf-8").count("\n")
    links = Path(f"/proc/{node.daemon()}/net/dev").read_text(encoding="utf-8").count("\n")
    return groups_below(node.cgroup), mounts, links


def settled(node):
    """The count of a node that is at rest: the same over a second."""
    last = [count(node), now()]

    def rests():
        found = count(node)
        if found != last[0]:
            last[:] = [found, now()]
        return now() - last[1] > 1

    wait(f"{node.name} is at rest", rests, every=0.05)
    return last[0]


def groups_below(path):
    """Control groups below a path, in all hierarchies."""
    found = 0
    for hierarchy in [HIERARCHIES, *HIERARCHIES.iterdir()]:
        directory = hierarchy / path
        if directory.is_dir():
            found += sum(entry.is_dir() for entry in directory.rglob("*"))
    return found


def seconds_until_gone(node, before):
    """Time until a node holds no more than it did before."""
    began = now()

    def gone():
        return all(left <= had for left, had in zip(count(node), before))

    try:
        wait(f"the leftovers of {node.name} are gone", gone, within=60, every=0.005)
    except Late as late:
        raise Late(f"{late}; (control groups, mounts, links) are {count(node)} and were {before}") from late
    return now() - began

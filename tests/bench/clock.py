"""Waiting for a condition, and what is said about a list of times."""

import time

now = time.monotonic


class Late(Exception):
    """A condition did not come true in time."""


def wait(what, condition, within=120, every=0.02):
    """Waits until the condition holds and returns what it gave."""
    deadline = now() + within
    while True:
        value = condition()
        if value:
            return value
        if now() > deadline:
            raise Late(f"{what}: not within {within} s")
        time.sleep(every)


def answers(condition):
    """The condition, taken as false while it raises what a server that is starting or dying raises."""

    def tried():
        try:
            return condition()
        except Exception:
            return None

    return tried


def percentile(values, part):
    """A percentile of a list; the middle of two for the median of an even number."""
    ordered = sorted(values)
    if part == 50:
        middle = len(ordered) // 2
        return (ordered[middle] + ordered[(len(ordered) - 1) // 2]) / 2
    return ordered[min(len(ordered) - 1, int(len(ordered) * part / 100))]


def load():
    """Load average of the last minute."""
    with open("/proc/loadavg", encoding="ascii") as file:
        return float(file.read().split()[0])

"""One container's life over the API: create, start, exit and remove, on the default bridge."""

import image
import leftovers
from clock import now

STEPS = ("create", "start", "exit seen", "remove")


def life(engine):
    """Seconds of each step of one container."""
    marks = [now()]
    config = {"Image": image.NAME, "Cmd": ["true"], "HostConfig": {"NetworkMode": "bridge"}}
    created = engine.call("POST", "/containers/create", config)["Id"]
    marks.append(now())
    engine.call("POST", f"/containers/{created}/start")
    marks.append(now())
    status = engine.call("POST", f"/containers/{created}/wait")["StatusCode"]
    marks.append(now())
    engine.call("DELETE", f"/containers/{created}?force=1")
    marks.append(now())
    if status:
        raise RuntimeError(f"`true` ended with {status}")
    return [later - earlier for earlier, later in zip(marks, marks[1:])]


def measure(nodes, count, warm_up=5):
    """Times of whole lives and of their steps, the nodes in turn."""
    engines = [node.engine() for node in nodes]
    for engine in engines:
        for _ in range(warm_up):
            life(engine)
    # The first containers make what stays: parents of control groups, for example.
    before = [leftovers.settled(node) for node in nodes]
    lives = [[] for _ in nodes]
    for _ in range(count):
        for engine, times in zip(engines, lives):
            times.append(life(engine))
    gone = [leftovers.seconds_until_gone(node, had) for node, had in zip(nodes, before)]
    return [
        {
            "whole": [sum(steps) for steps in times],
            **{name: [steps[place] for steps in times] for place, name in enumerate(STEPS)},
            "nothing left": [left],
        }
        for times, left in zip(lives, gone)
    ]

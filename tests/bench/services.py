"""A service's start on one node: from the request until the API shows all its tasks running."""

import image
import leftovers
from clock import now, wait
from engine_api import running, service


def start(engine, name, replicas, every):
    """Creates a service; returns its id and the seconds until all its tasks run."""
    began = now()
    created = engine.call("POST", "/services/create", service(name, image.NAME, replicas))["ID"]
    wait(f"{replicas} tasks run", lambda: running(engine, created) >= replicas, every=every)
    return created, now() - began


def remove(engine, created):
    """Removes a service; seconds until none of its containers is left."""
    began = now()
    engine.call("DELETE", f"/services/{created}")
    wait("the service's containers are gone", lambda: not engine.call("GET", "/containers/json?all=1"))
    return now() - began


def measure(nodes, replicas, rounds, every):
    """Times to running, to removed and to nothing left, the nodes in turn."""
    found = [{"running": [], "removed": [], "nothing left": []} for _ in nodes]
    engines = [node.engine() for node in nodes]
    for number in range(rounds):
        for node, engine, times in zip(nodes, engines, found):
            before = leftovers.settled(node)
            created, seconds = start(engine, f"bench-{replicas}-{number}", replicas, every)
            times["running"].append(seconds)
            times["removed"].append(remove(engine, created))
            times["nothing left"].append(times["removed"][-1] + leftovers.seconds_until_gone(node, before))
    return found

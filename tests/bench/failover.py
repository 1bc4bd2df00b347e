"""Loss of a leader and of a worker: kill -9, and the same after the node's link was cut, so that no packet tells of it."""

import itertools
import threading
import time

import image
from clock import Late, answers, now, wait
from engine_api import running, service, tasks

# Attempts overlap, so that one that hangs on the dead leader does not hide the recovery.
ATTEMPT_EVERY_S = 0.02
# Rest of a repaired cluster before the next loss.
REST_S = 1
# Time for a cluster to be whole again when the lost node was started.
READY_WITHIN_S = {"Muster": 10, "dockerd": 120}
NAMES = itertools.count()


def leader(cluster):
    """The controller that leads."""
    for node in cluster.controllers:
        listed = answers(lambda node=node: node.engine(10).call("GET", "/nodes"))() or []
        for entry in listed:
            if (entry.get("ManagerStatus") or {}).get("Leader"):
                address = entry["ManagerStatus"]["Addr"].split(":")[0]
                return next(other for other in cluster.controllers if other.address() == address)
    return None


def all_ready(cluster):
    """Every node is ready and every controller is reachable, as each controller sees it."""
    for node in cluster.controllers:
        listed = answers(lambda node=node: node.engine(10).call("GET", "/nodes"))() or []
        reachable = sum((entry.get("ManagerStatus") or {}).get("Reachability") == "reachable" for entry in listed)
        ready = sum(entry["Status"]["State"] == "ready" for entry in listed)
        if reachable != len(cluster.controllers) or ready != len(cluster.nodes):
            return False
    return True


class Attempts:
    """Writes tried at one survivor until one is accepted."""

    def __init__(self, node, began):
        self.node = node
        self.began = began
        self.accepted = None
        self.created = []
        self.lock = threading.Lock()

    def run(self):
        """Tries until accepted, or for a minute."""
        threads = []
        while self.accepted is None and now() - self.began < 60:
            threads.append(threading.Thread(target=self.attempt))
            threads[-1].start()
            time.sleep(ATTEMPT_EVERY_S)
        for thread in threads:
            thread.join()

    def attempt(self):
        """One write."""
        spec = service(f"write-{next(NAMES)}", image.NAME, 0)
        created = answers(lambda: self.node.engine(20).call("POST", "/services/create", spec)["ID"])()
        if created:
            with self.lock:
                self.created.append(created)
                self.accepted = self.accepted or now() - self.began


def lose_leader(cluster, cut):
    """Seconds from the leader's loss until the first and until every survivor accepted a write."""
    lost = wait("a leader", lambda: leader(cluster))
    survivors = [node for node in cluster.controllers if node is not lost]
    began = now()
    if cut:
        cluster.cut(lost)
    cluster.kill(lost)
    attempts = [Attempts(node, began) for node in survivors]
    threads = [threading.Thread(target=attempt.run) for attempt in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    accepted = [attempt.accepted for attempt in attempts if attempt.accepted is not None]
    if len(accepted) < len(survivors):
        raise Late("a survivor accepted no write within a minute")
    back = repair(cluster, lost, cut, [created for attempt in attempts for created in attempt.created])
    return {"first": min(accepted), "every": max(accepted), "back": back}


def repair(cluster, lost, cut, services):
    """Brings the lost node back and removes services; seconds until all are ready, or nothing where they were not in
    time and the cluster was made anew."""
    began = now()
    if cut:
        cluster.heal()
    cluster.start(lost)
    try:
        wait("all nodes are ready", lambda: all_ready(cluster), READY_WITHIN_S[cluster.product], 0.1)
    except Late:
        print(f"{cluster.product}: not all nodes were ready in time after {lost.name} came back; making the cluster anew")
        cluster.rebuild()
        return None
    back = now() - began
    survivor = next(node for node in cluster.controllers if node is not lost)
    for created in services:
        answers(lambda created=created: survivor.engine().call("DELETE", f"/services/{created}"))()
    time.sleep(REST_S)
    return back


def lose_worker(cluster, cut, replicas=10):
    """Seconds from a worker's loss until it counts as down, its first replica and all of them run elsewhere."""
    engine = wait("a leader", lambda: leader(cluster)).engine()
    spec = service(f"spread-{next(NAMES)}", image.NAME, replicas, ["node.role==worker"])
    created = engine.call("POST", "/services/create", spec)["ID"]
    wait("the service runs", lambda: running(engine, created) >= replicas)
    lost = cluster.workers[next(NAMES) % len(cluster.workers)]
    identity = lost.engine().call("GET", "/info")["Swarm"]["NodeID"]
    held = sum(task["NodeID"] == identity for task in tasks(engine, created))
    time.sleep(REST_S)
    began = now()
    if cut:
        cluster.cut(lost)
    cluster.kill(lost)
    times = watch_replacement(engine, created, identity, replicas - held, replicas, began)
    return times | {"back": repair(cluster, lost, cut, [created])}


def watch_replacement(engine, created, identity, others, replicas, began):
    """Watches the tasks until all run on other nodes than the lost one."""
    times = {}

    def replaced():
        if "down" not in times and engine.call("GET", f"/nodes/{identity}")["Status"]["State"] == "down":
            times["down"] = now() - began
        elsewhere = sum(
            task["Status"]["State"] == "running" and task["NodeID"] != identity for task in tasks(engine, created)
        )
        if elsewhere > others:
            times.setdefault("first", now() - began)
        return elsewhere >= replicas

    wait("the replicas run elsewhere", replaced, 120, 0.01)
    times["all"] = now() - began
    return times

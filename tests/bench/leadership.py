"""Changes of the leader while every controller starts containers as fast as it can."""

import http.client
import subprocess
import sys
import threading

import containers
from clock import now

TERM = "muster_raft_term "


def term(node):
    """The controller's Raft term, as its metrics say in its network. Every election that somebody wins raises it."""
    inside = ["nsenter", f"--net=/proc/{node.init()}/ns/net", sys.executable, __file__]
    return int(subprocess.run(inside, capture_output=True, text=True, check=True).stdout)


def term_here():
    """The Raft term of the controller of this network namespace."""
    connection = http.client.HTTPConnection("127.0.0.1", 9323, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return int(float(next(line.removeprefix(TERM) for line in lines if line.startswith(TERM))))


def latest_term(cluster):
    """The newest term of all controllers."""
    return max(term(node) for node in cluster.controllers)


def measure(cluster, seconds):
    """How often the leader changed while containers were started on every controller, and how many containers."""
    until, counts, failures = now() + seconds, [], []

    def start_containers(node):
        engine, count = node.engine(), 0
        try:
            while now() < until:
                containers.life(engine)
                count += 1
        except Exception as failure:
            failures.append(failure)
        counts.append(count)

    before = latest_term(cluster)
    threads = [threading.Thread(target=start_containers, args=(node,)) for node in cluster.controllers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return {"changes": latest_term(cluster) - before, "containers": sum(counts), "seconds": seconds}


if __name__ == "__main__":
    print(term_here())

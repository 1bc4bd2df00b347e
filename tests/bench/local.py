"""One node as a container engine of its own: the real CLI, many containers at once, exec, logs, a thousand containers."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import image
import leftovers
import memory
import processes
from clock import now, wait
from engine_api import VERSION

# As many requests at once as the measures of parallel work send.
CLIENTS = 8
LINE = "x" * 99
SLEEP = {"Image": image.NAME, "Cmd": ["sleep", "1d"], "HostConfig": {"NetworkMode": "bridge"}}
TICKS = os.sysconf("SC_CLK_TCK")


def in_turn(nodes, once, rounds, warm_up=3):
    """Seconds of one operation on each node, the nodes in turn."""
    times = [[] for _ in nodes]
    for number in range(rounds + warm_up):
        for node, found in zip(nodes, times):
            began = now()
            once(node)
            if number >= warm_up:
                found.append(now() - began)
    return times


def cli_runs(nodes, rounds):
    """`docker run --rm` of `true` with the real CLI."""
    docker = shutil.which("docker")

    def run(node):
        command = [docker, "-H", f"unix://{node.socket}", "run", "--rm", image.NAME, "true"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)

    return in_turn(nodes, run, rounds)


def cli_alone(rounds):
    """What the CLI costs by itself: `docker --version`, which asks no engine."""
    return in_turn([None], lambda _: subprocess.run(["docker", "--version"], check=True, capture_output=True), rounds)[0]


def execs(nodes, rounds):
    """`exec` of `true` in a running container: create, start, end of its streams."""
    engines = {node.name: node.engine() for node in nodes}
    containers = {node.name: started(engines[node.name]) for node in nodes}

    def run(node):
        body = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
        created = engines[node.name].call("POST", f"/containers/{containers[node.name]}/exec", body)["Id"]
        hijacked(node.socket, f"/exec/{created}/start")

    times = in_turn(nodes, run, rounds)
    for node in nodes:
        engines[node.name].call("DELETE", f"/containers/{containers[node.name]}?force=1")
    return times


def hijacked(path, target):
    """Starts an exec and reads its streams to their end."""
    body = json.dumps({"Detach": False, "Tty": False}).encode()
    head = (
        f"POST {VERSION}{target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(head.encode() + body)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    if not answer.startswith(b"HTTP/1.1 101"):
        raise RuntimeError(f"{target}: {answer[:200]!r}")


def started(engine, config=None):
    """Makes and starts a container."""
    created = engine.call("POST", "/containers/create", config or SLEEP)["Id"]
    engine.call("POST", f"/containers/{created}/start")
    return created


class Clients:
    """Several clients, each with a connection of its own."""

    def __init__(self, node):
        self.node = node
        self.own = threading.local()

    def engine(self):
        """The calling thread's client."""
        if not hasattr(self.own, "engine"):
            self.own.engine = self.node.engine()
        return self.own.engine

    def each(self, call, items):
        """Results of a call of each item, and the seconds of all."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            began = now()
            found = list(pool.map(lambda item: call(self.engine(), item), items))
            return found, now() - began


def bursts(nodes, count, rounds):
    """Many containers at once: seconds until all are started, and until all are removed by force."""
    found = [{"start": [], "remove": [], "nothing left": []} for _ in nodes]
    for _ in range(rounds):
        for node, times in zip(nodes, found):
            before, clients = leftovers.settled(node), Clients(node)
            ids, seconds = clients.each(lambda engine, _: started(engine), range(count))
            times["start"].append(seconds)
            times["remove"].append(remove_all(clients, ids))
            times["nothing left"].append(times["remove"][-1] + leftovers.seconds_until_gone(node, before))
    return found


def remove_all(clients, ids):
    """Seconds until all are removed by force."""
    return clients.each(lambda engine, one: engine.call("DELETE", f"/containers/{one}?force=1"), ids)[1]


def cpu_s(pids):
    """CPU seconds of processes and of their children that ended."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def logged(nodes, megabytes, rounds):
    """A container that writes lines of 100 bytes as fast as they are taken: seconds, and CPU seconds of the engine's own
    processes for each gigabyte."""
    found = [{"seconds per GB": [], "cpu seconds per GB": []} for _ in nodes]
    script = f"busybox yes {LINE} | busybox head -c {megabytes * 1_000_000}; echo last; exec sleep 1d"
    config = {"Image": image.NAME, "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}}
    for _ in range(rounds):
        for node, times in zip(nodes, found):
            engine = node.engine()
            created = engine.call("POST", "/containers/create", config)["Id"]
            before, began = cpu_s(node.own_processes()), now()
            engine.call("POST", f"/containers/{created}/start")
            wait("the log is written", lambda: last_line(node, created).endswith(b"last\n"), 600, 0.2)
            seconds = now() - began
            spent = cpu_s(node.own_processes()) - before
            engine.call("DELETE", f"/containers/{created}?force=1")
            times["seconds per GB"].append(seconds * 1000 / megabytes)
            times["cpu seconds per GB"].append(spent * 1000 / megabytes)
    return found


def last_line(node, container):
    """The newest line of a log, as a frame of the API."""
    engine = node.engine()
    connection = engine.connection
    connection.request("GET", f"{VERSION}/containers/{container}/logs?stdout=1&tail=1")
    try:
        return connection.getresponse().read()
    except http.client.HTTPException:
        return b""
    finally:
        connection.close()


def census(node):
    """What a node holds: (control groups, mounts, links), descriptors, processes, files."""
    own = node.own_processes()
    descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in own)
    files = sum(len(names) for place in node.directories() for _, _, names in os.walk(place))
    return {"groups, mounts, links": leftovers.count(node), "descriptors": descriptors, "processes": len(own), "files": files}


def thousand(node, count):
    """A node with so many containers: start, list, memory, removal, and what is left."""
    clients, engine = Clients(node), node.engine()
    remove_all(clients, clients.each(lambda engine, _: started(engine), range(CLIENTS))[0])
    leftovers.settled(node)
    before, held, small = census(node), memory.own_mib(node)[0], memory.without_daemon_kib(node)
    ids, start = clients.each(lambda engine, _: started(engine), range(count))
    time.sleep(memory.REST_S)
    grown, grown_small = memory.own_mib(node)[0] - held, memory.without_daemon_kib(node) - small
    lists = in_turn([node], lambda _: engine.call("GET", "/containers/json"), 20)[0]
    listed = len(engine.call("GET", "/containers/json"))
    remove = remove_all(clients, ids)
    gone = leftovers.seconds_until_gone(node, before["groups, mounts, links"])
    time.sleep(memory.REST_S)
    return {
        "count": listed,
        "start": start,
        "list": lists,
        "remove": remove,
        "gone": gone,
        "KiB each": grown * 1024 / count,
        "KiB each, monitors": grown_small / count,
        "before": before,
        "after": census(node),
    }

"""Muster's side: clusters made with `muster lab`, a real daemon per node in namespaces of its own."""

import json
import subprocess
from pathlib import Path

import processes
from clock import answers, wait
from engine_api import Engine

LABS = Path("/var/lib/muster-lab")


class Node:
    """A node of a lab."""

    def __init__(self, lab, name):
        self.lab = lab
        self.name = name
        self.socket = LABS / lab.name / name / "docker.sock"
        self.cgroup = f"muster-lab/{lab.name}/{name}"

    def engine(self, timeout=120):
        """A client of its engine."""
        return Engine(self.socket, timeout)

    def record(self):
        """What the lab remembers of it."""
        nodes = json.loads((LABS / self.lab.name / "lab.json").read_text(encoding="utf-8"))["nodes"]
        return next(node for node in nodes if node["name"] == self.name)

    def address(self):
        """Its address in the lab's network."""
        return self.record()["address"]

    def init(self):
        """First process of its pid namespace. It belongs to the lab and not to Muster's node."""
        return self.record()["init"][0]

    def daemon(self):
        """Its daemon."""
        found = [pid for pid in processes.children(self.init()) if processes.command(pid)[1:2] == ["daemon"]]
        return found[0]

    def directories(self):
        """Where it keeps files."""
        return [self.socket.parent, Path(f"/proc/{self.daemon()}/root/run/muster")]

    def own_processes(self):
        """Daemon, launcher and monitors: what runs in the node's pid namespace; containers have theirs."""
        init = self.init()
        namespace = processes.pid_namespace(init)
        return [pid for pid in processes.numbered() if pid != init and processes.pid_namespace(pid) == namespace]


class Cluster:
    """A lab."""

    product = "Muster"

    def __init__(self, binary, name, nodes, controllers, archive):
        self.binary = str(binary)
        self.name = name
        self.archive = archive
        self.up(nodes, controllers)
        self.nodes = [Node(self, f"node-{number + 1}") for number in range(nodes)]
        self.controllers = self.nodes[:controllers]
        self.workers = self.nodes[controllers:]
        self.load_image()

    def up(self, nodes, controllers):
        """Makes the lab."""
        self.lab("up", "--nodes", str(nodes), "--controllers", str(controllers))

    def load_image(self):
        """Loads the image on every node."""
        for node in self.nodes:
            node.engine().load(self.archive)

    def rebuild(self):
        """Removes the lab and makes it again."""
        self.down()
        self.up(len(self.nodes), len(self.controllers))
        self.load_image()

    def lab(self, *arguments, binary=None):
        """Runs `muster lab`."""
        command = [binary or self.binary, "lab", arguments[0], "--name", self.name, *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def kill(self, node):
        """Ends a node with all its processes; returns when they are gone."""
        self.lab("kill", node.name)

    def cut(self, node):
        """Cuts a node's link, so that its peers get no word of its end."""
        others = [other.name for other in self.nodes if other is not node]
        self.lab("partition", node.name, ",".join(others))

    def heal(self):
        """Mends all links."""
        self.lab("heal")

    def start(self, node):
        """Turns a node on again and waits until its engine answers."""
        self.lab("start", node.name)
        wait(f"{node.name} answers", answers(lambda: node.engine(5).call("GET", "/info")))

    def restart_daemon_from(self, node, binary):
        """Starts a node's daemon again from another binary file."""
        self.lab("kill", node.name, "--daemon-only")
        self.lab("start", node.name, binary=str(binary))
        wait(f"{node.name} answers", answers(lambda: node.engine(5).call("GET", "/info")))

    def down(self):
        """Removes the lab."""
        self.lab("down")

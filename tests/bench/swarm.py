"""The other side: Debian's dockerd in Swarm mode. Each daemon has a network namespace of its own, which keeps its rules,
bridges and settings away from the machine's. nsenter and not `ip netns exec`, which hides /sys/fs/cgroup."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import processes
from clock import answers, wait
from engine_api import Engine

RUN = Path("/run/muster-bench")
SECOND = 1_000_000_000
# dockerd's children are found by name through the path.
BINARIES = ("dockerd", "containerd", "containerd-shim-runc-v2", "containerd-shim", "runc")


def shell(command):
    """Runs a command of the shell."""
    subprocess.run(["sh", "-ec", command], check=True, capture_output=True)


class Node:
    """One dockerd."""

    def __init__(self, cluster, number, directory):
        self.number = number
        self.name = f"{cluster.name}{number}"
        self.namespace = f"mb-{self.name}"
        self.run = RUN / self.name
        self.data = directory / "docker" / self.name
        self.socket = self.run / "docker.sock"
        self.cgroup = f"muster-bench/{self.name}"
        self.binaries = None
        self.process = None

    def engine(self, timeout=120):
        """A client of its engine."""
        return Engine(self.socket, timeout)

    def address(self):
        """Its address on the cluster's bridge."""
        return f"10.99.0.{self.number}"

    def daemon(self):
        """Its daemon."""
        return self.process.pid

    def own_processes(self):
        """dockerd, containerd and shims."""
        mine = str(self.run)
        shims = [pid for pid in processes.numbered() if is_shim(pid, mine)]
        daemons = [pid for pid in processes.descendants(self.daemon()) if pid not in shims]
        return daemons + shims

    def copy_binaries(self):
        """Gives the node files of its own, so that it shares no memory with another dockerd."""
        self.binaries = self.data.parent / f"{self.name}-binaries"
        self.binaries.mkdir(parents=True, exist_ok=True)
        for name in BINARIES:
            if shutil.which(name):
                shutil.copy(shutil.which(name), self.binaries / name)

    def start(self):
        """Starts the daemon and waits until it answers."""
        for directory in (self.run, self.data):
            directory.mkdir(parents=True, exist_ok=True)
        (self.run / "dockerd.pid").unlink(missing_ok=True)
        environment = dict(os.environ)
        if self.binaries:
            environment["PATH"] = f"{self.binaries}:{environment['PATH']}"
        with open(self.data.parent / f"{self.name}.log", "ab") as log:
            self.process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.namespace}", "dockerd"]
                + ["-H", f"unix://{self.socket}", "--data-root", str(self.data), "--exec-root", f"{self.run}/exec"]
                + ["--pidfile", f"{self.run}/dockerd.pid", "--storage-driver", "overlay2"]
                + ["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{self.cgroup}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        wait(f"{self.name} answers", answers(lambda: self.engine(5).call("GET", "/version")), 30)

    def end(self, how):
        """Ends the daemon and waits for it."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(30)


def is_shim(pid, run_directory):
    """The process is a shim of the node with this run directory."""
    arguments = processes.command(pid)
    return bool(arguments) and "containerd-shim" in arguments[0] and any(run_directory + "/" in part for part in arguments)


class Cluster:
    """Several dockerds on one bridge, joined into a swarm."""

    product = "dockerd"

    def __init__(self, directory, name, nodes, controllers, archive, heartbeat_s=5, own_binaries=False):
        self.name = name
        self.archive = archive
        self.heartbeat_s = heartbeat_s
        self.bridge = f"mb-{name}br"
        self.nodes = [Node(self, number + 1, directory) for number in range(nodes)]
        self.controllers = self.nodes[:controllers]
        self.workers = self.nodes[controllers:]
        self.own_binaries = own_binaries
        self.build()

    def build(self):
        """Starts the daemons on a bridge and joins them."""
        shell(f"ip netns add {self.bridge}; ip -n {self.bridge} link add br0 type bridge; ip -n {self.bridge} link set br0 up")
        for node in self.nodes:
            self.connect(node)
            if self.own_binaries:
                node.copy_binaries()
            node.start()
            node.engine().load(self.archive)
        self.join()
        self.heartbeat(self.heartbeat_s)

    def connect(self, node):
        """Makes a node's network namespace and link."""
        space, port = node.namespace, f"port{node.number}"
        shell(
            f"ip netns add {space}; ip -n {space} link set lo up;"
            f"ip link add name {port} netns {self.bridge} type veth peer name eth0 netns {space};"
            f"ip -n {space} addr add {node.address()}/24 dev eth0; ip -n {space} link set eth0 up;"
            f"ip -n {self.bridge} link set {port} master br0 up"
        )

    def join(self):
        """Makes the swarm."""
        first = self.nodes[0]
        engine = first.engine()
        listen = {"ListenAddr": f"{first.address()}:2377", "AdvertiseAddr": first.address()}
        engine.call("POST", "/swarm/init", listen)
        tokens = engine.call("GET", "/swarm")["JoinTokens"]
        for node in self.nodes[1:]:
            token = tokens["Manager" if node in self.controllers else "Worker"]
            join = {"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": node.address(), "JoinToken": token}
            node.engine().call("POST", "/swarm/join", join | {"RemoteAddrs": [f"{first.address()}:2377"]})

    def heartbeat(self, seconds):
        """Sets the period of the agents' heartbeats; Swarm's default is 5 s."""
        for node in self.controllers:
            swarm = answers(lambda node=node: node.engine(10).call("GET", "/swarm"))()
            if swarm:
                spec = swarm["Spec"]
                spec["Dispatcher"]["HeartbeatPeriod"] = seconds * SECOND
                node.engine().call("POST", f"/swarm/update?version={swarm['Version']['Index']}", spec)
                return
        raise RuntimeError("no manager answers")

    def rebuild(self):
        """Removes the swarm and makes it again."""
        self.down()
        self.build()

    def kill(self, node):
        """Ends a dockerd without warning; its containers go on, which makes its loss no slower to see."""
        node.end(signal.SIGKILL)

    def cut(self, node):
        """Cuts a node's link."""
        shell(f"ip -n {self.bridge} link set port{node.number} down")

    def heal(self):
        """Mends all links."""
        for node in self.nodes:
            shell(f"ip -n {self.bridge} link set port{node.number} up")

    def start(self, node):
        """Starts a dockerd again."""
        node.start()

    def down(self):
        """Ends the daemons and removes what they made."""
        for node in self.nodes:
            node.end(signal.SIGTERM)
        remove(self.nodes, [self.bridge] + [node.namespace for node in self.nodes])


def remove(nodes, namespaces):
    """Removes what ended daemons leave: containers that go on, mounts, namespaces, control groups, directories."""
    for node in nodes:
        for pid in [pid for pid in processes.numbered() if is_shim(pid, str(node.run))]:
            for child in processes.children(pid):
                os.kill(child, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
    for node in nodes:
        unmount_below(node.run, node.data)
    for name in namespaces:
        shell(f"ip netns del {name}")
    for node in nodes:
        for directory in (node.run, node.data, node.binaries):
            shutil.rmtree(directory or node.run, ignore_errors=True)
        shell(f"find /sys/fs/cgroup -depth -type d -path '*/{node.cgroup}*' -exec rmdir {{}} + 2>/dev/null || true")
    shell("find /sys/fs/cgroup -maxdepth 2 -depth -type d -name muster-bench -exec rmdir {} + 2>/dev/null || true")


def unmount_below(*directories):
    """Unmounts everything at and below the directories, the innermost first: dockerd mounts its data directory on itself."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split()[4] for line in file]
    for point in sorted(points, reverse=True):
        if any(f"{point}/".startswith(f"{directory}/") for directory in directories):
            subprocess.run(["umount", "--lazy", point], check=False)

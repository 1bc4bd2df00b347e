"""Images: load, pull, build, what they take of the disk, and one image from one node to many."""

import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import image
import layers
from clock import now, wait
from engine_api import query

PORT = 5000
DOCKERFILE = f"""FROM {image.NAME}
ENV A=1 B=2
COPY first /first
RUN cat /first/* > /out-1
RUN echo two > /out-2
COPY middle /middle
RUN cat /middle/* > /out-3
RUN mkdir /made && cp /out-1 /made/
COPY last /last
LABEL measured=yes
CMD ["sh"]
"""
# A link of the lab, as many real ones are.
LINK = "1gbit"


class Registry:
    """Debian's docker-registry in a node's network, where it is a registry of the same host."""

    def __init__(self, node, directory):
        self.node = node
        self.log = directory / f"registry-{node.name}.log"
        self.name = f"127.0.0.1:{PORT}"
        config = directory / "registry.yml"
        storage = directory / "registry"
        config.write_text(
            f"version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {storage}\nhttp:\n  addr: {self.name}\n",
            encoding="utf-8",
        )
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.inside("docker-registry", "serve", str(config)), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait("the registry listens", lambda: b"listening on" in self.log.read_bytes(), 30)

    def inside(self, *command):
        """A command in the node's network."""
        return ["nsenter", f"--net=/proc/{self.node.daemon()}/ns/net", *command]

    def fill(self, archives):
        """Copies images of archives into it, compressed as clients do."""
        for name, archive in archives.items():
            target = f"docker://{self.name}/{name}"
            run(self.inside("skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{archive}", target))

    def sent(self):
        """Bytes of blobs that it gave out."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if "response completed" in line and "method=GET" in line and "/blobs/" in line]
        return sum(int(re.search(r"http\.response\.written=(\d+)", line)[1]) for line in lines)

    def end(self):
        """Ends it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def run(command, **options):
    """Runs a command, which must succeed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()[-500:]}")
    return done.stdout


def docker(node, *arguments):
    """Runs the CLI."""
    return run([shutil.which("docker"), "-H", f"unix://{node.socket}", *map(str, arguments)])


def timed(node, *arguments):
    """Seconds of a command of the CLI, begun while no earlier write waits for the disk."""
    os.sync()
    began = now()
    docker(node, *arguments)
    return now() - began


def removed(node, name):
    """Removes an image with all that it alone has."""
    docker(node, "rmi", "-f", name)


def loads(nodes, archives, rounds):
    """Seconds of `docker load` of the large image."""
    found = [[] for _ in nodes]
    for _ in range(rounds):
        for node, times in zip(nodes, found):
            times.append(timed(node, "load", "-q", "-i", archives["big:1"]))
            removed(node, "big:1")
    return found


def pulls(nodes, registries, rounds):
    """Seconds and bytes of `docker pull` of the large image, and of one that differs in one of its layers."""
    found = [{"whole": [], "delta": [], "whole bytes": [], "delta bytes": []} for _ in nodes]
    for _ in range(rounds):
        for node, registry, figures in zip(nodes, registries, found):
            for key, tag in (("whole", "1"), ("delta", "2")):
                before = registry.sent()
                figures[key].append(timed(node, "pull", "-q", f"{registry.name}/big:{tag}"))
                figures[f"{key} bytes"].append(registry.sent() - before)
            for tag in ("1", "2"):
                removed(node, f"{registry.name}/big:{tag}")
    return found


def context(first, middle):
    """A context of three directories with many files, as an archive."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, word in (("first", first), ("middle", middle), ("last", "last")):
            for number in range(50):
                layers.add(tar, f"{name}/file-{number}", layers.content(f"{word}/{number}", 20_000))
        layers.add(tar, "Dockerfile", DOCKERFILE.encode())
    return made.getvalue()


def builds(nodes, rounds):
    """Seconds of a build over the API: nothing known of it, nothing changed, and other files in the middle."""
    found = [{"cold": [], "cached": [], "changed": []} for _ in nodes]
    for number in range(rounds):
        for node, times in zip(nodes, found):
            engine = node.engine(300)
            for key, middle in (("cold", 0), ("cached", 0), ("changed", 1)):
                archive = context(f"first-{node.name}-{number}", f"middle-{number}-{middle}")
                os.sync()
                began = now()
                engine.build(archive, "built:1")
                times[key].append(now() - began)
    for node in nodes:
        removed(node, "built:1")
    return found


def disk(nodes, registries):
    """Bytes on the disk of twenty images that share layers, pulled."""
    found = []
    for node, registry in zip(nodes, registries):
        before = used(node)
        for number in range(20):
            docker(node, "pull", "-q", f"{registry.name}/shared:{number}")
        os.sync()
        found.append(used(node) - before)
        for number in range(20):
            removed(node, f"{registry.name}/shared:{number}")
    return found


def used(node):
    """Bytes of the blocks of a node's files."""
    seen, total = set(), 0
    for place in node.directories()[:1] if hasattr(node, "lab") else [node.data]:
        for root, _, names in os.walk(place):
            for name in names:
                try:
                    status = os.lstat(Path(root) / name)
                except OSError:
                    continue
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    total += status.st_blocks * 512
    return total


def spread(cluster, archives, rounds):
    """Seconds until the large image runs on one other node, and until it runs on five, on links of a real network."""
    first, others = cluster.nodes[0], cluster.nodes[1:]
    for node in cluster.nodes:
        slow(node)
    docker(first, "load", "-q", "-i", archives["big:1"])
    found = {"one": [], "all": []}
    for _ in range(rounds):
        for key, nodes in (("one", others[:1]), ("all", others)):
            os.sync()
            began = now()
            create = ["service", "create", "-d", "-q", "--name", "spread", "--mode", "global", "--no-resolve-image"]
            where = ["--constraint", f"node.hostname=={nodes[0].name}" if key == "one" else f"node.hostname!={first.name}"]
            docker(first, *create, *where, "big:1")
            listed = lambda count=len(nodes): running(first) == count
            wait(f"the image runs on {len(nodes)} nodes", listed, 600, 0.02)
            found[key].append(now() - began)
            docker(first, "service", "rm", "spread")
            wait("its containers are gone", lambda: not any(containers(node) for node in nodes), 60)
            for node in nodes:
                removed(node, "big:1")
    return found


def slow(node):
    """Bounds what a node sends; its kernel has one link to the others."""
    space = f"--net=/proc/{node.init()}/ns/net"
    device = run(["nsenter", space, "ip", "-o", "addr", "show", "to", node.address()]).split()[1]
    run(["nsenter", space, "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", LINK, "burst", "256k", "latency", "50ms"])


def running(node):
    """How many tasks of the service run."""
    tasks = node.engine().call("GET", "/tasks?filters=" + query({"service": ["spread"], "desired-state": ["running"]}))
    return sum(task["Status"]["State"] == "running" for task in tasks)


def containers(node):
    """Containers of a node."""
    return node.engine().call("GET", "/containers/json?all=1")


def measure(nodes, directory, archives, quick):
    """Everything that both engines do on one node."""
    rounds = 1 if quick else 5
    registries = []
    try:
        registries = [Registry(node, directory) for node in nodes]
        registries[0].fill(archives)
        return {
            "load": loads(nodes, archives, rounds),
            "pull": pulls(nodes, registries, rounds),
            "build": builds(nodes, rounds),
            "disk": disk(nodes, registries),
        }
    finally:
        for registry in registries:
            registry.end()
        shutil.rmtree(directory / "registry", ignore_errors=True)

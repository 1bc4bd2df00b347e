"""What is measured, in stages. Each makes its engines, measures them in turn and removes them."""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import containers
import failover
import image
import images
import layers
import leadership
import local
import memory
import muster
import runtime
import services
import swarm
from clock import load, percentile


@dataclass
class Setting:
    """How to measure."""

    directory: Path
    binary: Path
    quick: bool
    with_dockerd: bool

    def times(self, quick, full):
        """Repetitions."""
        return quick if self.quick else full

    def binary_copy(self, name):
        """The binary as a file of its own, whose pages no other process shares."""
        copy = self.directory / f"muster-{name}"
        shutil.copy(self.binary, copy)
        return copy


def clusters(setting, stack, nodes, controllers, ours=True, **options):
    """A lab and a swarm of the same shape, with the image on every node."""
    archive, found = setting.directory / "image.tar", []
    if ours:
        found.append(muster.Cluster(setting.binary, "bench", nodes, controllers, archive))
        stack.callback(found[-1].down)
    if setting.with_dockerd:
        found.append(swarm.Cluster(setting.directory, "d", nodes, controllers, archive, **options))
        stack.callback(found[-1].down)
    return found


def told(label, cluster, times, unit="s", scale=1):
    """Prints a line about a list of times."""
    values = [value * scale for value in times]
    print(
        f"{cluster.product:8} {label}: p50 {percentile(values, 50):.4g} {unit}, "
        f"{min(values):.4g}-{max(values):.4g}, n={len(values)}, load {load()}"
    )


def single(setting):
    """Containers and services on one node."""
    with ExitStack() as stack:
        both = clusters(setting, stack, 1, 1)
        nodes = [cluster.nodes[0] for cluster in both]
        figures = {"container": containers.measure(nodes, setting.times(10, 60))}
        figures["service 1"] = services.measure(nodes, 1, setting.times(3, 7), 0.005)
        figures["service 100"] = services.measure(nodes, 100, setting.times(1, 3), 0.02)
        for measure, found in figures.items():
            for cluster, times in zip(both, found):
                for label, values in times.items():
                    told(f"{measure} {label}", cluster, values)
        return figures


def memories(setting):
    """Idle memory of a controller and a worker, and the memory that stands beside each container. No binary is shared
    with another node, because a lone node shares it with nobody."""
    with ExitStack() as stack:
        both = clusters(setting, stack, 2, 1, own_binaries=True)
        lab = both[0]
        for node in lab.nodes:
            lab.restart_daemon_from(node, setting.binary_copy(node.name))
        figures = []
        for cluster in both:
            found = {"controller": memory.idle(cluster.nodes[0]), "worker": memory.idle(cluster.nodes[1], rest=1)}
            for count in (1, 10, 50):
                beside = memory.beside_containers(cluster.nodes[1], count)
                found |= {f"beside {count} {name}": value for name, value in beside.items()}
            found["worker after"] = memory.idle(cluster.nodes[1])
            print(cluster.product, {name: round(value, 3) for name, value in found.items()})
            figures.append(found)
        return figures


def runtimes(setting):
    """The runtimes alone."""
    bundle, rounds = setting.directory / "bundle", setting.times(20, 100)
    figures = {"muster oci": [], "muster": [], "crun": [], "in process": []}
    own_program = setting.binary.parent / "muster-runtime"
    for _ in range(setting.times(1, 3)):
        for name, times in zip(("muster oci", "muster", "crun"), runtime.measure(setting.binary, bundle, rounds)):
            figures[name] += times
        if own_program.is_file():
            figures["in process"].append(runtime.in_process(own_program, bundle, rounds))
    for name in ("muster oci", "muster", "crun"):
        values = figures[name]
        print(f"{name}: p50 {percentile(values, 50):.2f} p95 {percentile(values, 95):.2f} min {min(values):.2f} ms")
    print("in process:", figures["in process"])
    return figures


LOSSES = {"leader": failover.lose_leader, "worker": failover.lose_worker}


def losses(setting, heartbeat_s, rounds, ours):
    """Loss of leaders and of workers, killed and cut off; both sides in turn as long as both have rounds left."""
    figures = {}
    with ExitStack() as stack:
        both = clusters(setting, stack, 5, 3, ours=ours > 0, heartbeat_s=heartbeat_s)
        for what, lose in LOSSES.items():
            for cut in (False, True):
                label = f"{what} {'cut off and killed' if cut else 'killed'}"
                found = {cluster.product: [] for cluster in both}
                for number in range(max(ours, rounds)):
                    for cluster in both:
                        if number < (ours if cluster.product == "Muster" else rounds):
                            found[cluster.product].append(lose(cluster, cut))
                for cluster in both:
                    for key in found[cluster.product][0] if found[cluster.product] else ():
                        values = [times[key] for times in found[cluster.product] if times.get(key) is not None]
                        if values:
                            told(f"{label}: {key}", cluster, values)
                figures[label] = found
    return figures


def failovers(setting):
    """Loss of leaders and workers; dockerd with heartbeats of 1 s, as Muster's are, and with fewer rounds, which are slow."""
    return losses(setting, 1, setting.times(1, 3), setting.times(3, 30))


def default_heartbeat(setting):
    """The same of dockerd alone with Swarm's default heartbeat of 5 s; once, for each round takes a minute or more."""
    return losses(setting, 5, 1, 0) if setting.with_dockerd else {}


def leaderships(setting):
    """Changes of Muster's leader during ten minutes of container starts on all controllers."""
    with ExitStack() as stack:
        cluster = muster.Cluster(setting.binary, "bench", 3, 3, setting.directory / "image.tar")
        stack.callback(cluster.down)
        figures = leadership.measure(cluster, setting.times(20, 600))
        print(cluster.product, figures)
        return figures


def engines(setting):
    """One node as a container engine of its own, beside dockerd."""
    with ExitStack() as stack:
        both = clusters(setting, stack, 1, 1)
        nodes = [cluster.nodes[0] for cluster in both]
        figures = {
            "cli": local.cli_runs(nodes, setting.times(5, 40)),
            "cli alone": local.cli_alone(setting.times(5, 40)),
            "exec": local.execs(nodes, setting.times(10, 100)),
            "burst": local.bursts(nodes, 100, setting.times(1, 3)),
            "logs": local.logged(nodes, setting.times(50, 1000), setting.times(1, 2)),
            "thousand": local.thousand(nodes[0], setting.times(100, 1000)),
        }
        for measure in ("cli", "exec"):
            for cluster, values in zip(both, figures[measure]):
                told(measure, cluster, values, "ms", 1e3)
        for measure in ("burst", "logs"):
            for cluster, times in zip(both, figures[measure]):
                for label, values in times.items():
                    told(f"{measure} {label}", cluster, values)
        print("thousand:", figures["thousand"])
        return figures


def images_stage(setting):
    """Images on one node beside dockerd, and from one node to five."""
    archives = layers.images(setting.directory, 50 if setting.quick else 500)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, setting.directory / "layers", ignore_errors=True)
        with ExitStack() as pair:
            both = clusters(setting, pair, 1, 1)
            nodes = [cluster.nodes[0] for cluster in both]
            figures = images.measure(nodes, setting.directory, archives, setting.quick)
        for measure in ("pull", "build"):
            for cluster, times in zip(both, figures[measure]):
                for label, values in times.items():
                    if "bytes" not in label:
                        told(f"{measure} {label}", cluster, values)
        for cluster, values in zip(both, figures["load"]):
            told("load", cluster, values)
        lab = muster.Cluster(setting.binary, "bench", 6, 1, setting.directory / "image.tar")
        stack.callback(lab.down)
        figures["spread"] = images.spread(lab, archives, setting.times(1, 3))
        for key, values in figures["spread"].items():
            told(f"spread to {key}", lab, values)
        return figures


STAGES = {
    "single": single,
    "engine": engines,
    "images": images_stage,
    "memory": memories,
    "runtime": runtimes,
    "leadership": leaderships,
    "failover": failovers,
    "default-heartbeat": default_heartbeat,
}

"""Memory as proportional set sizes: of idle daemons, and of what stands beside each container."""

import time

import image
import leftovers
import processes

# Time for a daemon to come to rest before it is looked at.
REST_S = 5


def own_mib(node):
    """Memory of all of a node's own processes, and how many they are."""
    found = node.own_processes()
    return sum(processes.pss_kib(pid) for pid in found) / 1024, len(found)


def idle(node, rest=REST_S):
    """Memory of an idle node in MiB."""
    time.sleep(rest)
    return own_mib(node)[0]


def beside_containers(node, count):
    """With so many containers running: mean memory in KiB of the process that stands beside each; by how much all small
    processes grew for each, which does not depend on what they share with one another; seconds until nothing was left."""
    engine = node.engine()
    before, held = leftovers.settled(node), without_daemon_kib(node)
    ids = []
    for _ in range(count):
        config = {"Image": image.NAME, "Cmd": ["sleep", "1d"], "HostConfig": {"NetworkMode": "bridge"}}
        ids.append(engine.call("POST", "/containers/create", config)["Id"])
        engine.call("POST", f"/containers/{ids[-1]}/start")
    time.sleep(REST_S)
    pids = [engine.call("GET", f"/containers/{container}/json")["State"]["Pid"] for container in ids]
    beside = [processes.pss_kib(processes.parent(host_pid(node, pid))) for pid in pids]
    grown = without_daemon_kib(node) - held
    for container in ids:
        engine.call("DELETE", f"/containers/{container}?force=1")
    gone = leftovers.seconds_until_gone(node, before)
    return {"mean": sum(beside) / count, "grown": grown / count, "gone": gone}


def without_daemon_kib(node):
    """Memory of the small processes: launcher and monitors, or containerd and shims."""
    return sum(processes.pss_kib(pid) for pid in node.own_processes() if pid != node.daemon())


def host_pid(node, pid):
    """The process as this machine numbers it: a node may have a pid namespace of its own."""
    namespace = processes.pid_namespace(node.daemon())
    if namespace == processes.pid_namespace("self"):
        return pid
    for candidate in processes.numbered():
        numbers = processes.namespace_pids(candidate)
        if len(numbers) > 1 and numbers[1] == pid and processes.ancestor_in(candidate, namespace):
            return candidate
    raise LookupError(f"{node.name} has no process {pid}")

"""BENCHMARKS.md, from the figures of all stages."""

from clock import percentile

TITLE = """# Benchmarks

Muster beside Debian's dockerd in Swarm mode, measured on one machine in one run and in turn by `sudo tests/bench/run`
(what it needs and how it measures is said at the top of that file). Figures are medians, with the range in brackets.
Absolute figures move from machine to machine and with its load: quote the ratios, and take a difference under 30 % as
nothing. dockerd here is Debian 12's; the figures say nothing about newer versions.
"""

HOW = ("killed", "cut off and killed")
HEADER = "| measure | goal | Muster | dockerd | dockerd / Muster | n | goal met |\n|---|---|---|---|---|---|---|"

METHOD = """
## How it is measured

- Both get the same image, a static busybox in one layer, loaded before. Requests go over the Engine API's socket, on a
  connection that is kept. dockerd runs in a network namespace of its own, Muster in a lab of its own.
- A service's tasks run the default bridge, without published ports, and are killed when they stop. "Running" is what
  `GET /tasks` says, asked every 5 ms for one replica and every 20 ms for a hundred.
- `docker run` is the CLI in the path, given the engine's socket. "exec" is the request to make it, the one to start it
  and the end of its streams. Eight clients at once have a connection each. A log is what a container writes in lines of
  100 bytes as fast as they are taken, with the default log driver and options; its CPU is that of the engine's own
  processes (daemon, launcher, monitors; dockerd, containerd, shims), not the container's. The node with a thousand
  containers is measured for Muster alone, which dockerd needs minutes for.
- A leader is lost by `muster lab kill`, which ends the node with all its processes, or by kill -9 of dockerd. "Cut off"
  means that the node's link was cut before, so that no reset packet tells of its end. Survivors are then asked to create
  a service every 20 ms, with overlapping attempts; the time runs from before the cut or kill to the first success, and
  the whole range of "every time" is shown.
- dockerd's dispatcher heartbeat, 5 s by default, is set to 1 s, as Muster's is; stage `default-heartbeat` leaves it.
- Changes of the leader are counted by the Raft term, while each of three controllers runs containers one after the other.
- A worker is lost in the same way, with ten replicas on two workers; the time runs until the API shows all ten on the
  other one. dockerd's containers go on where only dockerd was killed.
- Memory is the proportional set size (`smaps_rollup`) of the daemon, the launcher and all other processes of the node
  that are not containers; for dockerd that is dockerd and containerd. No binary file is shared with another node's, so
  that a page of it counts whole. Beside a container stands its monitor, or its shim. A monitor is forked from the
  launcher and shares its memory, so that with one container half of what both share is counted for the monitor; the
  growth shows what a container really costs.
- The runtimes run the same bundle (all namespaces, no seccomp, no hooks) in turn, in a mount namespace where
  `/sys/fs/cgroup/unified` is unmounted, without which Debian's crun refuses to run, and `/run`, where both keep their
  records, is a tmpfs, as it is wherever systemd runs. The time is from the spawn of the
  process to its end, control groups removed. `muster oci run` protects the binary from the container, records the
  container and passes signals on, as crun does; `muster runtime run` does none of it. "In process" is
  `muster-runtime measure`, which starts no process but the container's.
- The image of 500 MB has a layer with busybox and nine of 55 MB in files of 256 KiB, of which gzip leaves a little more
  than half. It is loaded and pulled with the docker CLI. A build has ten steps, four of them RUN, and a context of
  150 files of 20 kB, and is asked for over the API as the classic builder's. Nothing that was written before waits for
  the disk when a command begins. The registry is Debian's docker-registry in the network of the node, filled
  by skopeo; bytes are those of its log. The disk is the blocks of all files below the engine's directory.
- An image goes from one node of a lab to others as the image of a global service, until its tasks run. Each node's link
  sends 1 Gbit/s, as links of a real network do; without that all nodes share two processors and nothing else.
- "Nothing left" is the time from the end of the batch until there are no more control groups, mounts and network links
  than before it; where services are removed, from the request to remove them.
"""


def text(results):
    """The whole file."""
    parts = [TITLE, machine_text(results), "## Results\n", HEADER]
    parts += rows(results)
    parts += details(results)
    return "\n".join(parts + [METHOD])


def machine_text(results):
    """Machine, versions and the load of each stage."""
    facts = [stage["facts"] for stage in results.values()]
    if not facts:
        return ""
    last = facts[-1]
    lines = [
        "## Machine\n",
        f"- {last['processors']} × {last['processor']}, {last['memory']}, Linux {last['kernel']}.",
        f"- Peers: {'; '.join(last[name] for name in ('dockerd', 'containerd', 'runc', 'crun') if last.get(name))}.",
    ]
    for name, stage in results.items():
        fact = stage["facts"]
        quick = " Quick run: few repetitions." if stage["quick"] else ""
        lines.append(
            f"- Stage {name}: {fact['time']}, repository at commit {fact['commit']}, static binary of {fact['binary']}; load average "
            f"{fact['load before']} before and {fact['load after']} after.{quick}"
        )
    if any("OLDER" in fact["binary"] for fact in facts):
        lines.append("\nA binary that is older than the commit beside it does not hold the newest changes.")
    if any(stage["quick"] for stage in results.values()):
        lines.append("\nStages of a quick run have too few repetitions for \"every time\"; their column n says how few.")
    if any(max(fact["load before"], fact["load after"]) > 3 for fact in facts):
        lines.append(
            "\nThe load averages above 3 mean that other work shared the processors at times: those absolute figures are "
            "too high for both sides. The benchmark itself loads the machine too, dockerd's hundred replicas most of all."
        )
    return "\n".join(lines) + "\n"


def shown(values, scale, digits):
    """Median and range."""
    if not values:
        return "-"
    numbers = [percentile(values, 50), min(values), max(values)]
    middle, low, high = (f"{number * scale:.{digits}f}" for number in numbers)
    return middle if len(values) == 1 else f"{middle} ({low} - {high})"


def row(label, goal, ours, theirs, unit="s", scale=1, digits=2, worst=False):
    """A row: lists of figures of both, and the goal as a number; `worst` compares the highest instead of the median."""
    if not ours:
        return None
    best = max(ours) if worst else percentile(ours, 50)
    ratio = f"{percentile(theirs, 50) / percentile(ours, 50):.1f}" if theirs else "-"
    met = "-" if goal is None else ("yes" if best * scale <= goal else "NO")
    bound = "-" if goal is None else f"{round(goal, max(digits, 2)):g} {unit} or less" if goal else "none"
    count = f"{len(ours)}" + (f" / {len(theirs)}" if theirs else "")
    return (
        f"| {label} | {bound} | {shown(ours, scale, digits)} {unit} | {shown(theirs, scale, digits)} "
        f"{unit if theirs else ''} | {ratio} | {count} | {met} |"
    )


def pair(stage, measure, key):
    """The lists of both sides of a measure of the stage `single`."""
    found = stage["figures"][measure]
    return found[0][key], found[1][key] if len(found) > 1 else []


def rows(results):
    """The table of goals."""
    found = []
    if single := results.get("single"):
        found += [
            row("container create, start, exit and remove, bridge", 20, *pair(single, "container", "whole"), "ms", 1e3, 1),
            row("`service create`, 1 replica, until running", 0.10, *pair(single, "service 1", "running"), digits=3),
            row("`service create`, 100 replicas on one node", 1.5, *pair(single, "service 100", "running")),
        ]
    if engine := results.get("engine"):
        found += engine_rows(engine["figures"])
    if images := results.get("images"):
        found += image_rows(images["figures"])
    if results.get("failover"):
        found += failover_rows(results)
    if leadership := results.get("leadership"):
        found.append(leadership_row(leadership["figures"]))
    if memories := results.get("memory"):
        found += memory_rows(memories["figures"])
    if runtimes := results.get("runtime"):
        found += runtime_rows(runtimes["figures"])
    return [line for line in found if line]


def halves(sides):
    """The lists of both sides, or of Muster alone."""
    return sides[0], sides[1] if len(sides) > 1 else []


def part_of(theirs, part):
    """A goal that is a part of the other side's median; none where it was not measured."""
    return percentile(theirs, 50) * part if theirs else None


def engine_rows(figures):
    """Rows of one node as a container engine of its own."""
    exec_ours, exec_theirs = halves([[value * 1e3 for value in side] for side in figures["exec"]])
    burst = {key: halves([side[key] for side in figures["burst"]]) for key in ("start", "remove")}
    rates = halves([[100 / seconds for seconds in side] for side in burst["start"]])
    logs = {key: halves([side[key] for side in figures["logs"]]) for key in ("cpu seconds per GB", "seconds per GB")}
    cpu_goal = part_of(logs["cpu seconds per GB"][1], 1 / 2)
    return [
        row("`docker run --rm` of `true`, real CLI, bridge", 40, *halves(figures["cli"]), "ms", 1e3, 1),
        rate_row("100 containers create and start, 8 clients", 150, *rates),
        row("100 containers removed by force, 8 clients", 0.7, *burst["remove"]),
        row("`exec` of `true` (goal: a fifth of dockerd's)", part_of(exec_theirs, 1 / 5), exec_ours, exec_theirs, "ms"),
        row("log of one container, CPU per GB (goal: half of dockerd's)", cpu_goal, *logs["cpu seconds per GB"]),
        row("log of one container, time per GB", None, *logs["seconds per GB"]),
        *thousand_rows(figures["thousand"]),
    ]


def image_rows(figures):
    """Rows of images."""
    load = halves(figures["load"])
    pull = {key: halves([side[key] for side in figures["pull"]]) for key in figures["pull"][0]}
    build = {key: halves([side[key] for side in figures["build"]]) for key in figures["build"][0]}
    disk = halves([[value] for value in figures["disk"]])
    found = [
        row("load of an image of 500 MB and 10 layers (goal: half of dockerd's)", part_of(load[1], 1 / 2), *load),
        row("pull of the same from a registry on the host (goal: half)", part_of(pull["whole"][1], 1 / 2), *pull["whole"]),
        row("pull where 9 of 10 layers are there", None, *pull["delta"]),
        row("of it, bytes from the registry", None, *pull["delta bytes"], "MB", 1e-6, 1),
        row("beside it, bytes of the whole image", None, *pull["whole bytes"], "MB", 1e-6, 1),
    ]
    for key, told, part in (("cold", "cold", 1 / 2), ("cached", "all cached", 1 / 10), ("changed", "one COPY changed", 1 / 2)):
        label = f"build of 10 steps, {told} (goal: {part:.2g} of dockerd's)"
        goal = part_of([seconds * 1e3 for seconds in build[key][1]], part)
        found.append(row(label, goal, *build[key], "ms", 1e3, 1))
    found.append(row("disk used by 20 images that share layers, pulled", part_of([v * 1e-6 for v in disk[1]], 1), *disk, "MB", 1e-6, 1))
    one, many = figures["spread"]["one"], figures["spread"]["all"]
    found.append(row("500 MB from one node to one other, links of 1 Gbit/s", None, one, []))
    goal = percentile(one, 50) * 2
    found.append(row("500 MB from one node to five, links of 1 Gbit/s (goal: twice one copy)", goal, many, []))
    return found


def rate_row(label, goal, ours, theirs):
    """A row whose figure is a rate: more is better."""
    met = "yes" if percentile(ours, 50) >= goal else "NO"
    ratio = f"{percentile(ours, 50) / percentile(theirs, 50):.1f} times as many" if theirs else "-"
    count = f"{len(ours)}" + (f" / {len(theirs)}" if theirs else "")
    unit = "per second"
    return (
        f"| {label} | {goal} {unit} or more | {shown(ours, 1, 0)} {unit} | {shown(theirs, 1, 1)} {unit if theirs else ''} "
        f"| {ratio} | {count} | {met} |"
    )


def thousand_rows(figures):
    """Rows of a node with many containers, which Muster ran alone."""
    count = figures["count"]
    return [
        row(f"{count} containers: list of all over the API", 50, figures["list"], [], "ms", 1e3, 1),
        row(f"{count} containers: created and started, 8 clients", None, [figures["start"]], []),
        row(f"{count} containers: removed by force, 8 clients", None, [figures["remove"]], []),
        row(f"{count} containers: memory of daemon, launcher and monitors for each", None, [figures["KiB each"]], [], "KiB", digits=0),
        row(f"{count} containers: of it launcher and monitors", None, [figures["KiB each, monitors"]], [], "KiB", digits=0),
    ]


def failover_rows(results):
    """Rows of lost leaders and workers; dockerd with the heartbeat of 1 s, and with the default where measured."""
    found = []
    figures, default = results["failover"]["figures"], results.get("default-heartbeat", {}).get("figures") or {}
    for what, key, goal, told in (
        ("leader", "first", 1.0, "until a survivor accepts a write"),
        ("leader", "every", None, "until both survivors accept one"),
        ("worker", "all", 5.0, "until all its replicas run elsewhere"),
    ):
        for how in HOW:
            label = f"{what} {how}"
            ours = [times[key] for times in figures[label].get("Muster", [])]
            theirs = [times[key] for times in figures[label].get("dockerd", [])]
            name = f"{label}, {told}"
            found.append(row(name, goal, ours, theirs, worst=True))
            if usual := [times[key] for times in default.get(label, {}).get("dockerd", [])]:
                found.append(row(f"{name}; dockerd's heartbeat left at 5 s", goal, ours, usual, worst=True))
    return found


def leadership_row(figures):
    """The row of the leader's changes under load."""
    label = f"leader changes during {figures['seconds'] / 60:.3g} minutes of container starts ({figures['containers']} containers)"
    return row(label, 0, [figures["changes"]], [], "changes", digits=0)


def memory_rows(figures):
    """Rows of memory."""
    ours, theirs = figures[0], figures[1] if len(figures) > 1 else {}
    both = lambda key: ([ours[key]], [theirs[key]] if theirs else [])
    found = [
        row("memory idle, worker (PSS)", 30, *both("worker"), "MiB", digits=1),
        row("memory idle, controller (PSS)", 50, *both("controller"), "MiB", digits=1),
        row("memory idle, worker after 61 containers (PSS)", None, *both("worker after"), "MiB", digits=1),
    ]
    for count in (1, 10, 50):
        label = f"monitor or shim per container, {count} running (PSS)"
        found.append(row(label, 0.4, *both(f"beside {count} mean"), "MiB", 1 / 1024, 2))
        label = f"growth of launcher and monitors, or containerd and shims, per container, {count} running (PSS)"
        found.append(row(label, None, *both(f"beside {count} grown"), "MiB", 1 / 1024, 2))
    return found


def runtime_rows(figures):
    """Rows of the runtimes alone; in process there are medians of batches only."""
    crun = figures["crun"]
    goal = percentile(crun, 50) / 2
    inside = [float(line.split("p50=")[1].split()[0]) for line in figures["in process"]]
    return [
        # Figures that were kept from an earlier run may have none of it.
        row("runtime alone, `true`, `muster oci run` (beside: `crun run`)", goal, figures.get("muster oci", []), crun, "ms"),
        row("runtime alone, `true`, `muster runtime run` (beside: `crun run`)", goal, figures["muster"], crun, "ms"),
        row("runtime alone, `true`, in process (beside: crun as a process)", goal, inside, crun, "ms"),
    ]


def details(results):
    """Steps, and what is left when."""
    found = ["\n## Steps and leftovers\n", "| measure | Muster | dockerd |", "|---|---|---|"]
    if single := results.get("single"):
        for step in ("create", "start", "exit seen", "remove"):
            found.append(detail(f"container: {step}", *pair(single, "container", step), "ms", 1e3, 1))
        found.append(detail("after the containers: nothing left", *pair(single, "container", "nothing left"), "ms", 1e3, 1))
        for count in (1, 100):
            for key in ("removed", "nothing left"):
                label = f"service of {count}: {key}"
                found.append(detail(label, *pair(single, f"service {count}", key)))
    if engine := results.get("engine"):
        found += engine_details(engine["figures"])
    if failover := results.get("failover"):
        for how in HOW:
            for key, told in (("down", "counts as down"), ("first", "first replacement runs")):
                sides = [failover["figures"][f"worker {how}"].get(side, []) for side in ("Muster", "dockerd")]
                lists = [[times[key] for times in side if key in times] for side in sides]
                found.append(detail(f"worker {how}: {told}", *lists))
        found += [returned(failover["figures"], what, how) for what in ("leader", "worker") for how in HOW]
    if memories := results.get("memory"):
        figures = memories["figures"]
        for count in (1, 10, 50):
            lists = [[side[f"beside {count} gone"]] for side in figures] + [[]]
            found.append(detail(f"after {count} containers removed by force: nothing left", *lists[:2], "ms", 1e3, 1))
    return found


def engine_details(figures):
    """What the docker CLI costs alone, and what is left after many containers."""
    found = [detail("`docker --version`, which asks no engine", figures["cli alone"], [], "ms", 1e3, 1)]
    left = halves([side["nothing left"] for side in figures["burst"]])
    found.append(detail("100 containers: from the first removal until nothing is left", *left))
    thousand = figures["thousand"]
    found.append(detail(f"{thousand['count']} containers: after the removal, until nothing is left", [thousand["gone"]], []))
    for key, before in thousand["before"].items():
        after = thousand["after"][key]
        found.append(f"| {thousand['count']} containers: {key} before and after | {before} and {after} | - |")
    return found


def returned(figures, what, how):
    """A row about lost nodes that were started again: how many made the cluster whole, and when."""
    cells = []
    for side in ("Muster", "dockerd"):
        back = [times["back"] for times in figures[f"{what} {how}"].get(side, [])]
        whole = [seconds for seconds in back if seconds is not None]
        cells.append(f"{len(whole)} of {len(back)}: {shown(whole, 1, 2)} s" if back else "-")
    return f"| {what} {how} and started again: cluster whole | {cells[0]} | {cells[1]} |"


def detail(label, ours, theirs, unit="s", scale=1, digits=2):
    """A row without a goal."""
    return f"| {label} | {shown(ours, scale, digits)} {unit} | {shown(theirs, scale, digits)} {unit if theirs else ''} |"

"""The runtimes alone: one bundle that runs `true`, from request to exit status and everything removed."""

import os
import shutil
import subprocess
import sys
import time

# crun of Debian 12 refuses to run where the v2 hierarchy of a hybrid machine offers controllers. Both keep their records
# in /run, which is in memory wherever systemd runs, and on a disk in some virtual machines.
PREPARE = "umount /sys/fs/cgroup/unified 2>/dev/null; mount -t tmpfs -o mode=755 tmpfs /run; exec \"$@\""


def measure(muster, bundle, rounds):
    """Milliseconds of `muster oci run`, `muster runtime run` and `crun run`, in turn, in a mount namespace of their own."""
    crun = shutil.which("crun")
    if crun is None:
        raise SystemExit("bench: install crun first")
    command = [sys.executable, __file__, str(muster), crun, str(bundle), str(rounds)]
    return [[float(number) for number in line.split()] for line in apart(command).splitlines()]


def in_process(runtime, bundle, rounds):
    """Line of percentiles of `muster-runtime measure`: no process is started but the container's."""
    return apart([str(runtime), "measure", "--bundle", str(bundle), str(rounds)]).strip()


def apart(command):
    """Runs a command in a mount namespace of its own."""
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", PREPARE, "sh", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def once(command, streams):
    """Milliseconds of one command from its start to its end."""
    began = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=streams)
    _, status = os.waitpid(pid, 0)
    elapsed = time.perf_counter() - began
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return elapsed * 1e3


def alternate(muster, crun, bundle, rounds, warm_up=5):
    """Runs all in turn and prints a line of times for each."""
    streams = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
    ]
    times = ([], [], [])
    for number in range(rounds + warm_up):
        name = f"bench-{os.getpid()}-{number}"
        for program, found in zip(([muster, "oci"], [muster, "runtime"], [crun]), times):
            elapsed = once([*program, "run", "--bundle", bundle, name], streams)
            if number >= warm_up:
                found.append(elapsed)
    for line in times:
        print(" ".join(f"{time:.3f}" for time in line))


if __name__ == "__main__":
    alternate(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))

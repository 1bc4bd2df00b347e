"""The one root filesystem that everything measured runs: static busybox, as a directory, an OCI bundle and an image."""

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

NAME = "busybox:bench"
APPLETS = ("sh", "true", "sleep", "ls", "cat", "echo")


def build(directory):
    """Makes rootfs/, bundle/ and image.tar below the directory."""
    root = directory / "rootfs"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp", "run"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox(), root / "bin/busybox")
    for applet in APPLETS:
        os.symlink("busybox", root / "bin" / applet)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n", encoding="ascii")
    (root / "etc/group").write_text("root:x:0:\n", encoding="ascii")
    write_bundle(directory / "bundle", root)
    write_image(directory / "image.tar", root)


def busybox():
    """The static busybox of the machine."""
    path = shutil.which("busybox")
    if path is None:
        raise SystemExit("bench: install busybox-static first")
    return Path(path).resolve()


def write_bundle(bundle, root):
    """An OCI bundle with all namespaces and without hooks and seccomp, so that every runtime does the same work."""
    bundle.mkdir(exist_ok=True)
    tmpfs = ["nosuid", "strictatime", "mode=755", "size=65536k"]
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
    capabilities = {kind: ["CAP_KILL"] for kind in ("bounding", "effective", "permitted")}
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": capabilities,
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": False},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": tmpfs},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": pts},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": shm},
        ],
        "linux": {
            "cgroupsPath": "/muster-bench",
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    }
    (bundle / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def write_image(path, root):
    """The root filesystem as an archive of `docker save`."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(root, arcname=".")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "benchmark"}],
        }
    ).encode()
    name = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{name}.json", "RepoTags": [NAME], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        for member, data in (
            (f"{name}.json", config),
            (f"{digest}/layer.tar", layer.getvalue()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))

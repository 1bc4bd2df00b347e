"""Images of many layers as archives of `docker save`: files whose content is half random and half text, from a seed."""

import hashlib
import io
import json
import os
import random
import tarfile

FILE_BYTES = 256 << 10
TEXT = b"The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 64


def content(seed, size):
    """Bytes that gzip makes a little more than half as large."""
    source = random.Random(seed)
    made = bytearray()
    while len(made) < size:
        made += source.randbytes(4096)
        made += TEXT[source.randrange(64) :][:4096]
    return bytes(made[:size])


def add(tar, name, data):
    """Adds a file to an archive."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def layer(path, seed, size):
    """Writes a layer of so many bytes of files; returns its digest."""
    with tarfile.open(path, "w") as tar:
        for number in range(max(1, size // FILE_BYTES)):
            data = content(f"{seed}/{number}", min(size, FILE_BYTES))
            add(tar, f"data/{seed}/{number % 16}/file-{number}", data)
    with open(path, "rb") as file:
        return digest_of(file)


def digest_of(file):
    """The digest of a file."""
    hasher = hashlib.sha256()
    while chunk := file.read(1 << 20):
        hasher.update(chunk)
    return hasher.hexdigest()


def base_layer(path, directory):
    """Writes the busybox root filesystem as a layer; returns its digest."""
    with tarfile.open(path, "w") as tar:
        tar.add(directory / "rootfs", arcname=".")
    with open(path, "rb") as file:
        return digest_of(file)


def archive(path, name, layers):
    """Writes an archive of an image of (file, digest) layers."""
    config = json.dumps(
        {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sleep", "1d"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for _, digest in layers]},
            "history": [{"created_by": "benchmark"} for _ in layers],
        }
    ).encode()
    identity = hashlib.sha256(config).hexdigest()
    names = [f"{digest}/layer.tar" for _, digest in layers]
    manifest = [{"Config": f"{identity}.json", "RepoTags": [name], "Layers": names}]
    with tarfile.open(path, "w") as tar:
        for (file, _), member in zip(layers, names):
            tar.add(file, arcname=member)
        for member, data in ((f"{identity}.json", config), ("manifest.json", json.dumps(manifest).encode())):
            add(tar, member, data)
    return path


def images(directory, megabytes, count=10):
    """Writes two images of so many layers that differ in the last one, and twenty small ones that differ in the last one
    too; returns their archives by name."""
    place = directory / "layers"
    place.mkdir(exist_ok=True)
    each = megabytes * 1_000_000 // count
    base = place / "base.tar"
    below = [(base, base_layer(base, directory))]
    for number in range(1, count - 1):
        file = place / f"layer-{number}.tar"
        below.append((file, layer(file, f"layer-{number}", each)))
    found = {}
    for tag in ("1", "2"):
        file = place / f"top-{tag}.tar"
        name = f"big:{tag}"
        found[name] = archive(place / f"big-{tag}.tar", name, below + [(file, layer(file, f"top-{tag}", each))])
    for number in range(20):
        file = place / f"own-{number}.tar"
        name = f"shared:{number}"
        own = (file, layer(file, f"own-{number}", 1_000_000))
        found[name] = archive(place / f"shared-{number}.tar", name, below[:3] + [own])
    return found

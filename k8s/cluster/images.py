"""Images made here of one static program each, and the way of any image into a node, without a registry."""

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path

from core.dev.failure import CannotStart

_IMPORT_SECONDS = 300
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def pack(program: Path, reference: str, archive: Path) -> Path:
    """Write a docker-archive whose one layer is the static `program`, its entry point; equal input, equal bytes."""
    layer = _tar({program.name: program.read_bytes()}, mode=0o755)
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": [f"/{program.name}"], "User": "65534:65534"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{name}.json", "RepoTags": [reference], "Layers": [f"{digest}.tar"]}]
    files = {f"{name}.json": config, f"{digest}.tar": layer, "manifest.json": json.dumps(manifest).encode()}
    archive.write_bytes(_tar(files, mode=0o644))
    return archive


def load(archive: Path, containerd_socket: Path) -> None:
    """Import a docker or OCI archive into a node, all its names. Raises `CannotStart` with what containerd said."""
    argv = ["ctr", "--address", str(containerd_socket), "--namespace", "k8s.io", "images", "import", str(archive)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_IMPORT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotStart(f"{archive} could not be loaded: {error}") from error
    if done.returncode:
        raise CannotStart(f"{archive} could not be loaded: {done.stderr.strip()}")


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()

"""Where images go when nobody says: the cluster of this checkout."""

import shutil
from pathlib import Path

from k8s.images.failure import CannotBuild
from k8s.images.load import Containerd, pack
from k8s.images.program import run
from k8s.images.workshop import Built

_ASK_SECONDS = 30
_LOAD_SECONDS = 600


def sockets(folder: Path) -> list[Path]:
    """The containerds of the cluster that `make cluster` runs in `folder`, one a node; none when it does not run."""
    return sorted(path for path in folder.resolve().glob("*/run/containerd.sock") if path.is_socket())


def kind_clusters() -> list[str]:
    """The names of all clusters of kind on this machine, made by Berth or not."""
    if shutil.which("kind") is None:
        return []
    return [name for name in run(["kind", "get", "clusters"], seconds=_ASK_SECONDS, what="asking kind").split() if name]


def into_kind(built: Built, cluster: str) -> None:
    """Load an image into every node of a cluster of kind. Raises `CannotBuild`."""
    archive = built.layout.folder / "kind.tar"
    try:
        with archive.open("wb") as sink:
            pack(sink, {built.name: built.image}, built.layout, built.layout.blobs(built.image))
        argv = ["kind", "load", "image-archive", str(archive), "--name", cluster]
        run(argv, seconds=_LOAD_SECONDS, what=f"loading {built.name} into kind")
    finally:
        archive.unlink(missing_ok=True)


def containerds(given: list[Path], folder: Path) -> list[Containerd]:
    """Those that were asked for, else those of the cluster. Raises `CannotBuild` for a path that is no socket."""
    for path in given:
        if not path.is_socket():
            raise CannotBuild(f"{path} is no socket of a containerd")
    return [Containerd(path) for path in given or sockets(folder)]

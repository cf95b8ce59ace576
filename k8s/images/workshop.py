"""Builds the images that were asked for and says what came out."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from k8s.images import buildah, docker, secrets, tiny
from k8s.images.buildah import Buildah
from k8s.images.docker import Docker
from k8s.images.failure import CannotBuild
from k8s.images.layout import Blob, Layout
from k8s.images.load import Containerd, Loaded
from k8s.images.store import AGENT, CONTROL, TINY, Store

CHECKOUT = Path(__file__).resolve().parents[2]
_DOCKERFILES = {AGENT: Path("agent_image/Dockerfile"), CONTROL: Path("k8s/Dockerfile")}
_NOVNC = Path("node_modules/@novnc/novnc/package.json")


class Builder(Protocol):
    """What turns a Dockerfile into an image."""

    name: str

    def build(
        self, name: str, dockerfile: Path, context: Path, secrets: Mapping[str, Path], layout: Layout
    ) -> None: ...


@dataclass(frozen=True)
class Built:
    """An image that lies in `layout`, ready to be loaded."""

    name: str
    image: Blob
    layout: Layout

    @property
    def digest(self) -> str:
        return self.image.digest

    @property
    def bytes(self) -> int:
        """The size of all its layers, unpacked or as the builder stored them."""
        return sum(blob.size for blob in self.layout.blobs(self.image))

    def load(self, containerd: Containerd) -> Loaded:
        """Make it known to a containerd under its name. Raises `CannotBuild`."""
        return containerd.load(self.name, self.layout)


class Workshop:
    """Builds images into `store`. Building again takes what has not changed from there."""

    def __init__(self, store: Store | None = None, base: str | None = None, *, fresh: bool = False) -> None:
        """`fresh`: with every package fetched anew, since layers that are kept never get a security update."""
        self._store = store or Store()
        self._base = base
        self._fresh = fresh

    def build(self, name: str) -> Built:
        """Build the image of that full name from this checkout. Raises `CannotBuild`."""
        with self._store.locked():
            layout = self._store.layout(name)
            if name == TINY:
                tiny.build(name, layout)
            else:
                self._build(name, layout)
            image = layout.manifest()
            layout.prune(layout.blobs(image))
        return Built(name, image, layout)

    def built(self, name: str) -> Built:
        """The image as it was built last. Raises `CannotBuild` when it was not."""
        layout = self._store.layout(name)
        try:
            return Built(name, layout.manifest(), layout)
        except (FileNotFoundError, ValueError):
            raise CannotBuild(f"{name} has not been built (make images)") from None

    def _build(self, name: str, layout: Layout) -> None:
        if not (CHECKOUT / _NOVNC).is_file():
            raise CannotBuild("node_modules holds no noVNC, which goes into the images (make setup, needs npm)")
        builder = self._builder()
        with tempfile.TemporaryDirectory(prefix="berth-build-") as folder:
            given = secrets.write(Path(folder), os.environ)
            builder.build(name, CHECKOUT / _DOCKERFILES[name], CHECKOUT, given, layout)

    def _buildah(self) -> Buildah:
        builder = Buildah(self._store.folder / "buildah", self._base)
        if self._fresh:
            # Once: the images of one run share their base.
            builder.forget()
            self._fresh = False
        return builder

    def _builder(self) -> Builder:
        if buildah.lacks() is None:
            return self._buildah()
        if docker.lacks() is None:
            return Docker(self._base, fresh=self._fresh)
        raise CannotBuild(str(lacks()))


def lacks() -> str | None:
    """Why no image can be built here, in words for people; None when one can."""
    without, nor = buildah.lacks(), docker.lacks()
    return None if without is None or nor is None else f"{without}; {nor}"

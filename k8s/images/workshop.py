"""Builds the images that were asked for and says what came out."""

from dataclasses import dataclass

from k8s.images import tiny
from k8s.images.layout import Blob, Layout
from k8s.images.load import Containerd, Loaded
from k8s.images.store import Store


@dataclass(frozen=True)
class Built:
    """An image that lies in `layout`, ready to be loaded."""

    name: str
    image: Blob
    layout: Layout

    @property
    def digest(self) -> str:
        return self.image.digest

    def load(self, containerd: Containerd) -> Loaded:
        return containerd.load(self.name, self.layout)


class Workshop:
    """Builds images into `store`. Building again takes what has not changed from there."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store or Store()

    def build(self, name: str) -> Built:
        """Build the image of that full name. Raises `CannotBuild`."""
        with self._store.locked():
            layout = self._store.layout(name)
            image = tiny.build(name, layout)
            layout.prune(layout.blobs(image))
        return Built(name, image, layout)

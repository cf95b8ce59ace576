"""Where images are kept between two builds: a folder of this user, outside every checkout."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k8s.images.layout import Layout

AGENT = "localhost/berth-agent:dev"
CONTROL = "localhost/berth-control:dev"
TINY = "localhost/berth-tiny:dev"


class Store:
    """The builder's storage, and a layout for each image."""

    def __init__(self, folder: Path | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = folder or cache / "berth" / "images"
        self.folder.mkdir(parents=True, exist_ok=True)

    def layout(self, name: str) -> Layout:
        """The layout of the image of that full name."""
        return Layout(self.folder / "layouts" / name.rpartition("/")[2].replace(":", "-"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One build or load at a time, whoever runs it: checkouts share names and layers."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

"""Puts an image into a containerd: only the blobs that it lacks travel."""

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from k8s.images.failure import CannotBuild
from k8s.images.layout import Blob, Layout, index

# Where Kubernetes looks for its images.
NAMESPACE = "k8s.io"
_ASK_SECONDS = 30
# Unpacking 1.2 GB took 16 s on two cores; a slow disk may need several times that.
_IMPORT_SECONDS = 300


@dataclass(frozen=True)
class Loaded:
    """What one import did: how many blobs and bytes the containerd lacked."""

    blobs: int
    bytes: int


@dataclass(frozen=True)
class Containerd:
    """A containerd by the path of its socket."""

    socket: Path
    namespace: str = NAMESPACE

    def load(self, name: str, layout: Layout) -> Loaded:
        """Make the layout's image known as `name`, unpacked and ready to run. Again is success.

        Raises `CannotBuild` when the containerd does not answer or refuses it.
        """
        image = layout.manifest()
        blobs = layout.blobs(image)
        needed = missing(blobs, self.held())
        try:
            self._import(name, image, layout, needed)
        except CannotBuild:
            # A blob that was there when we asked may have been collected since: it belonged to nobody.
            if len(needed) == len(blobs):
                raise
            needed = blobs
            self._import(name, image, layout, needed)
        return Loaded(len(needed), sum(blob.size for blob in needed))

    def held(self) -> set[str]:
        """The digests of all blobs that are there."""
        return set(self._ctr("content", "ls", "-q").split())

    def images(self) -> dict[str, str]:
        """Name and digest of every image that is there."""
        rows = (line.split() for line in self._ctr("images", "ls").splitlines()[1:])
        return {row[0]: row[2] for row in rows if len(row) > 2}

    def _import(self, name: str, image: Blob, layout: Layout, needed: Sequence[Blob]) -> None:
        argv = [*self._command(), "images", "import", "-"]
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as importing:
            # When it gives up before it has read everything, why stands in its output.
            with contextlib.suppress(BrokenPipeError):
                pack(cast(IO[bytes], importing.stdin), {name: image}, layout, needed)
            try:
                words, _ = importing.communicate(timeout=_IMPORT_SECONDS)
            except subprocess.TimeoutExpired:
                importing.kill()
                raise CannotBuild(f"{self.socket} did not take {name} within {_IMPORT_SECONDS} s") from None
        if importing.returncode:
            raise CannotBuild(f"{self.socket} refuses {name}: {words.decode(errors='replace').strip()[-500:]}")

    def _command(self) -> list[str]:
        return ["ctr", "--address", str(self.socket), "--namespace", self.namespace]

    def _ctr(self, *words: str) -> str:
        try:
            done = subprocess.run([*self._command(), *words], capture_output=True, text=True, timeout=_ASK_SECONDS)
        except FileNotFoundError:
            raise CannotBuild("ctr is not installed; it comes with containerd (Debian: containerd)") from None
        except subprocess.TimeoutExpired:
            raise CannotBuild(f"{self.socket} does not answer") from None
        if done.returncode:
            raise CannotBuild(f"{self.socket} does not answer: {done.stderr.strip()[-300:]}")
        return done.stdout


def missing(wanted: Iterable[Blob], held: set[str]) -> list[Blob]:
    """The blobs of `wanted` that are not held, each once."""
    return list({blob.digest: blob for blob in wanted if blob.digest not in held}.values())


def pack(sink: IO[bytes], images: dict[str, Blob], layout: Layout, blobs: Iterable[Blob]) -> None:
    """Write a layout as a tar stream that names `images` and carries just these `blobs`."""
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (
            ("oci-layout", (layout.folder / "oci-layout").read_bytes()),
            ("index.json", index(images)),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for blob in blobs:
            path = layout.path(blob.digest)
            archive.add(path, arcname=f"blobs/sha256/{path.name}", recursive=False)

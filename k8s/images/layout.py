"""An OCI image layout on disk: a folder of blobs named by their digest, with an index that names the images in it.

The format is the OCI image specification 1.0 ("image layout"), which containerd, buildah, docker and skopeo all read.
"""

import hashlib
import io
import json
import platform
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
# What `ctr images import` and kind name an image by; the standard's own annotation holds the tag alone.
_FULL_NAME = "io.containerd.image.name"
_TAG = "org.opencontainers.image.ref.name"


@dataclass(frozen=True)
class Blob:
    """A descriptor: what a blob is, its digest (`sha256:...`) and its size in bytes."""

    media_type: str
    digest: str
    size: int

    def document(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class File:
    """A file of a layer. It belongs to root, and has no time, so that the same content has the same digest."""

    path: str
    content: bytes
    mode: int = 0o644


class Layout:
    """The layout in `folder`, made when it is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)
        (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))

    def path(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def write(self, name: str, layers: Sequence[Sequence[File]], config: Mapping[str, Any]) -> Blob:
        """Store an image of these layers under its full `name` (`localhost/thing:tag`) and return its manifest.

        `config` is the part that a container starts with (`Entrypoint`, `Env`, `User`, ...), keys as OCI spells them.
        """
        stored = [self.store(LAYER, io.BytesIO(_tar(files))) for files in layers]
        # Layers are not compressed, so a layer's digest is also its "diff id".
        whole = {
            "architecture": architecture(),
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in stored]},
        }
        return self.compose(name, self.store(CONFIG, io.BytesIO(_json(whole))), stored)

    def compose(self, name: str, config: Blob, layers: Sequence[Blob]) -> Blob:
        """Make the image of blobs that are stored already the one of this layout, and return its manifest."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": config.document(),
            "layers": [layer.document() for layer in layers],
        }
        image = self.store(_MANIFEST, io.BytesIO(_json(manifest)))
        (self.folder / "index.json").write_bytes(index({name: image}))
        return image

    def manifest(self) -> Blob:
        """The one image of this layout. Raises `ValueError` when there are several or none."""
        entries = json.loads((self.folder / "index.json").read_text())["manifests"]
        if len(entries) != 1:
            raise ValueError(f"{self.folder} holds {len(entries)} images, not one")
        return _descriptor(entries[0])

    def blobs(self, image: Blob) -> list[Blob]:
        """Everything `image` consists of, its manifest first."""
        manifest = json.loads(self.path(image.digest).read_bytes())
        return [image, _descriptor(manifest["config"]), *map(_descriptor, manifest["layers"])]

    def config(self, image: Blob) -> dict[str, Any]:
        """The configuration of `image`, history included."""
        manifest = json.loads(self.path(image.digest).read_bytes())
        found: dict[str, Any] = json.loads(self.path(manifest["config"]["digest"]).read_bytes())
        return found

    def prune(self, keep: Sequence[Blob]) -> None:
        """Remove the blobs of images that are no longer in it."""
        names = {self.path(blob.digest).name for blob in keep}
        for path in self._blobs.iterdir():
            if path.name not in names:
                path.unlink(missing_ok=True)

    def store(self, media_type: str, content: IO[bytes]) -> Blob:
        """Keep what `content` still holds, wholly or not at all."""
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as fresh:
            while chunk := content.read(1 << 20):
                digest.update(chunk)
                fresh.write(chunk)
            size = fresh.tell()
        blob = Blob(media_type, f"sha256:{digest.hexdigest()}", size)
        Path(fresh.name).replace(self.path(blob.digest))
        return blob


def index(images: Mapping[str, Blob]) -> bytes:
    """The `index.json` that gives each image its full name."""
    entries = [
        {**image.document(), "annotations": {_FULL_NAME: name, _TAG: name.rpartition(":")[2]}}
        for name, image in images.items()
    ]
    return _json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries})


def architecture() -> str:
    """This machine's architecture as OCI names it. Raises `ValueError` where images are not built for it."""
    known = {"x86_64": "amd64", "aarch64": "arm64"}
    machine = platform.machine()
    if machine not in known:
        raise ValueError(f"no images are built for {machine}")
    return known[machine]


def _tar(files: Sequence[File]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode = len(file.content), file.mode
            archive.addfile(entry, io.BytesIO(file.content))
    return packed.getvalue()


def _descriptor(entry: Mapping[str, Any]) -> Blob:
    return Blob(entry["mediaType"], entry["digest"], entry["size"])


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()

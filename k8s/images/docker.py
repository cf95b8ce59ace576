"""Builds Dockerfiles with docker, whose daemon fetches the base as it fetches any image."""

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from k8s.images.failure import CannotBuild
from k8s.images.layout import CONFIG, LAYER, Layout
from k8s.images.program import run

_ASK_SECONDS = 10
_BUILD_SECONDS = 1800


def lacks() -> str | None:
    """Why docker cannot be used here, in words for people; None when it can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    try:
        asked = subprocess.run(["docker", "info"], capture_output=True, timeout=_ASK_SECONDS)
    except subprocess.TimeoutExpired:
        return "docker's daemon does not answer"
    return None if asked.returncode == 0 else "docker's daemon does not answer"


class Docker:
    """A builder that keeps everything where docker does. `base` is a name that docker knows or can fetch."""

    name = "docker"

    def __init__(self, base: str | None = None, *, fresh: bool = False) -> None:
        self._options = [] if base is None else ["--build-arg", f"BASE={base}"]
        self._options += ["--no-cache", "--pull"] if fresh else []

    def build(self, name: str, dockerfile: Path, context: Path, secrets: Mapping[str, Path], layout: Layout) -> None:
        """Build `dockerfile` as `name` and put it into `layout`. Raises `CannotBuild`."""
        argv = [
            "docker", "build", "--quiet", *self._options,
            *(f"--secret=id={key},src={path}" for key, path in secrets.items()),
            "--file", str(dockerfile), "--tag", name, str(context),
        ]  # fmt: skip
        # Dockers before 23 have BuildKit, which secrets need, but use it only when told.
        env = {**os.environ, "DOCKER_BUILDKIT": "1"}
        run(argv, seconds=_BUILD_SECONDS, what=f"building {name}", env=env)
        with tempfile.TemporaryDirectory(dir=layout.folder) as folder:
            archive = Path(folder) / "image.tar"
            run(["docker", "save", "--output", str(archive), name], seconds=_BUILD_SECONDS, what=f"saving {name}")
            unpack(name, archive, layout)


def unpack(name: str, archive: Path, layout: Layout) -> None:
    """Put the image of a `docker save` into `layout`: every version of docker writes a `manifest.json` into it."""
    with tarfile.open(archive) as members:
        listing = json.load(_member(members, "manifest.json"))
        if len(listing) != 1:
            raise CannotBuild(f"docker saved {len(listing)} images as {name}, not one")
        layers = [layout.store(LAYER, _member(members, path)) for path in listing[0]["Layers"]]
        layout.compose(name, layout.store(CONFIG, _member(members, listing[0]["Config"])), layers)


def _member(members: tarfile.TarFile, path: str) -> IO[bytes]:
    try:
        found = members.extractfile(path)
    except KeyError:
        found = None
    if found is None:
        raise CannotBuild(f"docker saved an image without {path}")
    return found

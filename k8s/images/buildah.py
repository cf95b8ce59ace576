"""Builds Dockerfiles with buildah in a chroot, on a Debian that mmdebstrap makes: root, and no registry."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from k8s.images.layout import Layout
from k8s.images.program import run

_SUITE = "bookworm"
_PROGRAMS = ("buildah", "mmdebstrap", "skopeo")
_ASK_SECONDS = 60
# Cold and on two busy cores everything took two minutes; a slow mirror may need several times that.
_BUILD_SECONDS = 1800
# Manuals and translations are never read in a container, also not of packages that are installed later.
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")
_RECIPE = (
    "--variant=minbase",
    "--include=ca-certificates",
    *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
    # Copied from the machine that makes it, whose name and resolver are nobody's business.
    '--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"',
    # A bug of a setuid program is a bug less.
    '--customize-hook=find "$1" -xdev -perm /6000 -type f -exec chmod a-s {} +',
    _SUITE,
)
# Another recipe is another base.
BASE = f"localhost/berth-debian:{_SUITE}-{hashlib.sha256(repr(_RECIPE).encode()).hexdigest()[:12]}"


def lacks() -> str | None:
    """Why buildah cannot be used here, in words for people; None when it can."""
    if os.geteuid() != 0:
        return "not root, so buildah cannot build in a chroot"
    absent = [program for program in _PROGRAMS if shutil.which(program) is None]
    return f"not installed: {', '.join(absent)} (apt-get install {' '.join(absent)})" if absent else None


class Buildah:
    """A builder with its storage in `folder`, apart from any other buildah's or podman's of this user."""

    name = "buildah"

    def __init__(self, folder: Path, base: str | None = None) -> None:
        self._folder = folder
        self._base = base or BASE

    def build(self, name: str, dockerfile: Path, context: Path, secrets: Mapping[str, Path], layout: Layout) -> None:
        """Build `dockerfile` as `name` and put it into `layout`. Raises `CannotBuild`."""
        self._ask("rm", "--all")  # what a build that was killed has left, its mounts included
        if self._base == BASE and not self._ask("images", "--quiet", "--filter", f"reference={BASE}").strip():
            self._make_base()
        argv = [
            *self._buildah("bud"), "--quiet", "--isolation", "chroot", "--layers", "--pull-never",
            "--build-arg", f"BASE={self._base}",
            *(f"--secret=id={key},src={path}" for key, path in secrets.items()),
            "--file", str(dockerfile), "--tag", name, str(context),
        ]  # fmt: skip
        run(argv, seconds=_BUILD_SECONDS, what=f"building {name}")
        self._export(name, layout)

    def forget(self) -> None:
        """Throw all layers away, so that the next build fetches every package anew."""
        self._ask("rm", "--all")
        self._ask("rmi", "--all", "--force")

    def _export(self, name: str, layout: Layout) -> None:
        """Not compressed: a layer that lies in the layout already is then recognised and not written again.

        Buildah itself always compresses, which costs ten seconds for each changed line of code.
        """
        (layout.folder / "index.json").unlink(missing_ok=True)
        source = f"containers-storage:[overlay@{self._folder / 'storage'}+{self._folder / 'run'}]{name}"
        # The policy would say whose signatures to trust. Nothing is fetched here.
        argv = ["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-oci-accept-uncompressed-layers"]
        run([*argv, source, f"oci:{layout.folder}:{name}"], seconds=_BUILD_SECONDS, what=f"exporting {name}")

    def _make_base(self) -> None:
        with tempfile.TemporaryDirectory(prefix="berth-base-") as made:
            folder = Path(made)
            debian = ["mmdebstrap", "--quiet", *_RECIPE, str(folder / "base.tar")]
            run(debian, seconds=_BUILD_SECONDS, what="making a Debian")
            (folder / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
            argv = [*self._buildah("bud"), "--quiet", "--isolation", "chroot", "--tag", BASE, str(folder)]
            run(argv, seconds=_BUILD_SECONDS, what="packing a Debian")

    def _ask(self, *words: str) -> str:
        return run(self._buildah(*words), seconds=_ASK_SECONDS, what=f"buildah {words[0]}")

    def _buildah(self, *words: str) -> list[str]:
        where = ["--root", str(self._folder / "storage"), "--runroot", str(self._folder / "run")]
        return ["buildah", *where, "--storage-driver", "overlay", *words]

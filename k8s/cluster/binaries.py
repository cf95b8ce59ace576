"""Kubernetes and what it needs, built from Go modules of fixed versions and kept outside the checkout."""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from core.dev.failure import CannotStart

KUBERNETES = "v1.34.4"
_MODULES = Path(__file__).resolve().parent / "modules"
_SAID_LINES = 15
_PROGRAM_SECONDS = 1800  # the API server takes 150 s on two idle cores (measured), and the others less
_LOCK_SECONDS = 3600
# Without a version the parts of Kubernetes refuse one another.
_LINK = (
    "-s -w"
    f" -X k8s.io/component-base/version.gitVersion={KUBERNETES}"
    " -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34"
    f" -X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES}"
)


class Program(BaseModel):
    """The main package `package`, as the module in `modules/<module>` fixes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    module: str
    package: str


_KUBE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
PROGRAMS = (
    Program(name="tiny", module="tiny", package="."),
    Program(name="etcd", module="etcd", package="go.etcd.io/etcd/server/v3"),
    *(Program(name=name, module="kube", package=f"k8s.io/kubernetes/cmd/{name}") for name in _KUBE),
    Program(name="coredns", module="coredns", package="github.com/coredns/coredns"),
)
KWOK = Program(name="kwok", module="kwok", package="sigs.k8s.io/kwok/cmd/kwok")


def path(program: Program) -> Path:
    """Where the program of this very version lies, or will: every module has a folder named by all that decides."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "berth" / "kube" / f"{program.module}-{_fingerprint(program.module)}" / program.name


def lacks() -> str | None:
    """Why the programs cannot be had, in one line; None when they are there or can be built."""
    if shutil.which("go") is None and not all(_built(program) for program in PROGRAMS):
        return "no Go, with which Kubernetes is built (Debian: apt-get install golang, 1.25 or newer)"
    return None


def build(announce: Callable[[str], None], *, also: tuple[Program, ...] = ()) -> dict[str, Path]:
    """Build what is missing, and return where each lies; at once when nothing is missing. 6 minutes on two cores.

    Two that build at once take turns. Raises `CannotStart` with the compiler's last lines.
    """
    wanted = (*PROGRAMS, *also)
    if not all(map(_built, wanted)):
        if reason := lacks():
            raise CannotStart(reason)
        with _locked(announce):
            missing = [program for program in wanted if not _built(program)]
            for number, program in enumerate(missing, 1):
                announce(f"building {program.name} ({number} of {len(missing)})")
                _build(program)
    return {program.name: path(program) for program in wanted}


def _built(program: Program) -> bool:
    return os.access(path(program), os.X_OK)


def _build(program: Program) -> None:
    place = path(program)
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{program.name}.new")
    argv = ["go", "build", "-trimpath", "-ldflags", _LINK, "-o", str(fresh), program.package]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off"}
    try:
        done = subprocess.run(
            argv,
            cwd=_MODULES / program.module,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROGRAM_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotStart(f"{program.name} could not be built: {error}") from error
    if done.returncode:
        said = " | ".join(done.stderr.strip().splitlines()[-_SAID_LINES:]) or f"go ended with {done.returncode}"
        raise CannotStart(f"{program.name} could not be built: {said}")
    fresh.replace(place)


@cache
def _fingerprint(module: str) -> str:
    """Of all that decides what comes out, but for Go's own version."""
    digest = hashlib.sha256(f"{_LINK}\n{platform.machine()}\n".encode())
    for file in sorted((_MODULES / module).iterdir()):
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(announce: Callable[[str], None]) -> Iterator[None]:
    place = path(PROGRAMS[0]).parent.parent
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".lock", "w") as lock:
        deadline = time.monotonic() + _LOCK_SECONDS
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CannotStart(f"Another build has held {place}/.lock for an hour.") from None
                if not told:
                    announce("another build is under way, waiting for it")
                told = True
                time.sleep(0.2)
        yield

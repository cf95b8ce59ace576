"""The tiny image: one static Go program that stands in for an agent, packed without any builder."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from k8s.images.failure import CannotBuild
from k8s.images.layout import Blob, File, Layout, architecture

_SOURCE = Path(__file__).parent / "tiny"
_COMPILE_SECONDS = 300
_UID = 10001  # the agent's, so that the same pod runs either


def build(name: str, layout: Layout) -> Blob:
    """Compile and pack it; the same source and compiler give the same digest. Raises `CannotBuild`."""
    program = compiled(_SOURCE)
    files = [File("tiny", program, 0o755)]
    return layout.write(name, [files], {"Entrypoint": ["/tiny"], "User": f"{_UID}:{_UID}", "WorkingDir": "/"})


def compiled(source: Path) -> bytes:
    """The static program of a Go module that needs nothing but the standard library."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        raise CannotBuild("go is not installed; it compiles the tiny image (Debian: golang-go, or from go.dev)")
    # GOTOOLCHAIN: the compiler that is here, never a download of another.
    env = {**os.environ, "CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": architecture(), "GOTOOLCHAIN": "local"}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program"
        argv = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", str(program), "."]
        try:
            done = subprocess.run(argv, cwd=source, env=env, capture_output=True, text=True, timeout=_COMPILE_SECONDS)
        except subprocess.TimeoutExpired:
            raise CannotBuild(f"go did not compile {source.name} within {_COMPILE_SECONDS} s") from None
        if done.returncode:
            raise CannotBuild(f"go cannot compile {source.name}: {done.stderr.strip()[-500:]}")
        return program.read_bytes()

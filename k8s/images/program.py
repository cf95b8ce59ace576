"""Runs a program that builders are made of."""

import subprocess
from collections.abc import Mapping, Sequence

from k8s.images.failure import CannotBuild

_TAIL = 1500


def run(argv: Sequence[str], *, seconds: float, what: str, env: Mapping[str, str] | None = None) -> str:
    """Standard output of `argv`. Raises `CannotBuild`, with the end of what it said, when it fails or takes longer."""
    try:
        done = subprocess.run(argv, env=env, capture_output=True, text=True, errors="replace", timeout=seconds)
    except FileNotFoundError:
        raise CannotBuild(f"{argv[0]} is not installed: {what} needs it") from None
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"{what} was not done within {seconds:.0f} s") from None
    if done.returncode:
        raise CannotBuild(f"{what} failed: {(done.stderr.strip() or done.stdout.strip())[-_TAIL:]}")
    return done.stdout

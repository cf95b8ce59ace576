"""Digests of the recorded histories, by which one that was changed or taken away is noticed."""

import hashlib
from pathlib import Path

from tests.replay.histories import HISTORIES

SUMS = HISTORIES / "SHA256SUMS"
BACK = "git checkout -- tests/replay/histories"


def recorded() -> list[Path]:
    return sorted(HISTORIES.glob("*.json"))


def seal(path: Path) -> None:
    """Write the digest of one history, in the form of `sha256sum`."""
    sums = {**_sealed(), path.name: _digest(path)}
    SUMS.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def unsound() -> list[str]:
    """What is wrong with the files themselves, a sentence each."""
    sealed, there = _sealed(), {path.name: path for path in recorded()}
    wrong = [
        f"histories/{name} is gone: a history is only ever added; bring it back ({BACK})"
        for name in sorted(sealed.keys() - there.keys())
    ]
    for name, path in there.items():
        if name not in sealed:
            wrong.append(f"histories/{name} is not in SHA256SUMS: record it by python -m tests.replay.record")
        elif sealed[name] != _digest(path):
            wrong.append(
                f"histories/{name} was changed: it stands for lives that run; bring it back ({BACK}) "
                "and record what is new under a name of its own"
            )
    return wrong


def _sealed() -> dict[str, str]:
    lines = SUMS.read_text().splitlines() if SUMS.exists() else []
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

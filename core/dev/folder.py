"""The data folder of a local stack: who holds it, its secrets, and the public description of what runs."""

import fcntl
import json
import os
import secrets
import signal
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from core import launch
from core.dev.failure import CannotStart

_NEEDED_BYTES = 256 * 1024 * 1024  # a fresh PostgreSQL takes 40 MiB, its first minutes of log about 100
_LEFTOVER_SECONDS = 5.0


class DataFolder:
    """Holds the folder `root` exclusively from `open` to `close`; a `kill -9` releases it as well."""

    def __init__(self, root: Path, lock: int) -> None:
        self.root = root
        self._lock = lock

    @classmethod
    def open(cls, root: Path) -> Self:
        """Make the folder and take it. Raises `CannotStart` when someone holds it or it cannot be written."""
        root = Path(os.path.abspath(root))
        try:
            # Closed to other accounts as to listing, but not to passing through: parts with an account of their own
            # keep their data in it. Everything private in it is closed by itself.
            root.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
            lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unusable(root, error) from error
        try:
            folder = cls(root, lock)
            folder._take()
            for name, mode in {"logs": 0o700, "run": 0o711, "secrets": 0o700}.items():
                (root / name).mkdir(mode=mode, exist_ok=True)
            folder._check_space()
        except OSError as error:
            os.close(lock)
            raise _unusable(root, error) from error
        except CannotStart:
            os.close(lock)
            raise
        return folder

    def close(self) -> None:
        """Give the folder back; what ran is described no longer."""
        for path in (self.description, self._children):
            path.unlink(missing_ok=True)
        os.ftruncate(self._lock, 0)
        os.close(self._lock)

    @property
    def description(self) -> Path:
        return self.root / "stack.json"

    @property
    def _children(self) -> Path:
        return self.root / "run" / "children.json"

    def secret(self, name: str) -> str:
        """The secret of that name: 64 hex digits, made at first use, readable by the owner alone."""
        path = self.root / "secrets" / name
        if not path.exists():
            write_private(path, secrets.token_hex(32))
        return path.read_text().strip()

    def describe(self, what: Mapping[str, object], pids: Mapping[str, int]) -> None:
        """Write `stack.json`: the addresses, and the pids by part."""
        write_private(self.description, json.dumps({**what, "pids": dict(pids)}, indent=2) + "\n")

    def remember(self, pids: Mapping[str, int]) -> None:
        """Note who the children are beyond their pids, for the start after one that is killed."""
        write_private(self._children, json.dumps({name: (pid, launch.start_time(pid)) for name, pid in pids.items()}))

    def end_leftovers(self) -> None:
        """See the children of a stack that was killed gone, for they may still hold ports and files. At most 5 s."""
        try:
            recorded: dict[str, tuple[int, int | None]] = json.loads(self._children.read_text())
        except (OSError, ValueError):
            recorded = {}
        left = [(pid, started) for pid, started in recorded.values() if started is not None]
        deadline = time.monotonic() + _LEFTOVER_SECONDS
        while left := [(pid, started) for pid, started in left if launch.is_same_process(pid, started)]:
            for pid, started in left:
                launch.send_signal(pid, started, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise CannotStart(f"Processes of an earlier start do not end: {[pid for pid, _ in left]}.")
            time.sleep(0.01)
        for path in (self.description, self._children):
            path.unlink(missing_ok=True)

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(
                f"{self.root} is in use by {self._holder()}. Stop that one, or give another --data-dir."
            ) from None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, json.dumps({"pid": os.getpid(), "since": now}).encode(), 0)

    def _holder(self) -> str:
        try:
            held = json.loads(os.pread(self._lock, 1000, 0))
            return f"process {held['pid']} since {held['since']}"
        except (ValueError, KeyError, TypeError):
            return "another process"

    def _check_space(self) -> None:
        room = os.statvfs(self.root)
        free = room.f_bavail * room.f_frsize
        if free < _NEEDED_BYTES:
            need = _NEEDED_BYTES >> 20
            raise CannotStart(f"{self.root} has {free >> 20} MiB of free disk space, {need} MiB are needed. Free some.")


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step, readable by the owner alone, never half written."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "w") as file:
        file.write(text)
    fresh.replace(path)


def _unusable(root: Path, error: OSError) -> CannotStart:
    return CannotStart(
        f"The data folder {root} cannot be used: {error.strerror or error}. Mend it or give another --data-dir."
    )

"""The folders of local agents: profiles that outlive them, scratch folders that do not."""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import structlog
from pydantic import ValidationError

from core.domain.wire import Exit
from core.launch import Account

_log = structlog.get_logger()
# Unix sockets are made in a scratch folder, Chromium's in a folder below it, and their paths have 107 bytes at most.
_MAX_WORK_PATH = 56
_MAX_WORD = 16_384
_WORK_PREFIX = "berth-work-"
_SHARED = ("/tmp", "/tmp/.X11-unix", "/var/tmp", "/dev/shm")  # noqa: S108  looked through, never written


class Folders:
    def __init__(self, host: Path) -> None:
        self.host = host
        self.profiles = host / "profiles"
        self.works = host / "work"
        self.logs = host / "logs"
        self.records = host / "attempts"
        self.programs = host / "program"
        # Of this host alone, or it could not tell what an earlier one left from what another one uses.
        self._far = f"{_WORK_PREFIX}{hashlib.sha256(os.fsencode(host.absolute())).hexdigest()[:8]}-"

    def make(self) -> None:
        """Agents pass through the first three, each to what is its own; nobody can list them."""
        for folder in (self.host, self.profiles, self.works):
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            folder.chmod(0o711)
        for folder in (self.logs, self.records):
            folder.mkdir(mode=0o700, exist_ok=True)

    @staticmethod
    def owner(user_id: str, project_id: str) -> str:
        """The name of a user's project: ids may hold any character, and a pair must not read as another pair."""
        parts = (user_id.encode(), project_id.encode())
        return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).hexdigest()[:40]

    def profile(self, owner: str, account: Account | None) -> Path:
        """The profile folder, made if need be, closed to all but `account`."""
        path = self.profiles / owner
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        if account is not None and path.stat().st_uid != account.uid:
            _give(path, account)
        return path

    def forget_profile(self, owner: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.profiles / owner)

    def unused_profiles(self, before: float) -> Iterator[str]:
        """Owners whose profiles nothing has touched since `before` (seconds since 1970): a browser that starts or ends
        makes and removes files in the upper two levels of it."""
        for profile in self.profiles.iterdir():
            with contextlib.suppress(OSError):
                touched = [profile.stat().st_mtime, *(each.lstat().st_mtime for each in profile.iterdir())]
                if max(touched) < before:
                    yield profile.name

    def work(self, name: str, account: Account | None) -> Path:
        """A fresh scratch folder; in the machine's temporary folder when the usual place has too long a path."""
        path = self.works / name
        if len(os.fsencode(path)) > _MAX_WORK_PATH:
            path = Path(tempfile.mkdtemp(prefix=self._far))
        else:
            if path.exists():
                shutil.rmtree(path)
            path.mkdir(mode=0o700)
        (path / "tmp").mkdir(mode=0o700)
        if account is not None:
            _give(path, account)
        return path

    def clear_works(self) -> None:
        """Remove every scratch folder of this host: call it while no agent runs. What cannot go is left, and told."""
        for path in [*self.works.iterdir(), *Path(tempfile.gettempdir()).glob(f"{self._far}*")]:
            try:
                self.remove_work(path)
            except OSError as error:
                # In the machine's temporary folder anybody may make something of such a name, a link say.
                _log.warning("work.not_removed", folder=str(path), error=str(error))

    @staticmethod
    def last_word(work: Path) -> Exit | None:
        """What an agent that has ended left to be read; None when that is nothing, or not for us.

        The folder was the agent's, so whatever lies there is read only as far as a plain, small file would be.
        """
        with contextlib.suppress(OSError, ValidationError):
            found = os.open(work / "exit.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if stat.S_ISREG(os.fstat(found).st_mode):
                    return Exit.model_validate_json(os.read(found, _MAX_WORD))
            finally:
                os.close(found)
        return None

    def remove_work(self, path: Path) -> None:
        if path.parent == self.works or path.name.startswith(_WORK_PREFIX):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)

    @staticmethod
    def sweep(uid: int) -> None:
        """Remove what a killed agent's account left in the folders all accounts share, an X server's lock say."""
        for folder in _SHARED:
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        if entry.stat(follow_symlinks=False).st_uid != uid or entry.name.startswith(_WORK_PREFIX):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            shutil.rmtree(entry.path)
                        else:
                            os.unlink(entry.path)


def _give(folder: Path, account: Account) -> None:
    os.chown(folder, account.uid, account.gid, follow_symlinks=False)
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(os.path.join(root, name), account.uid, account.gid, follow_symlinks=False)

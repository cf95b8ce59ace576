"""Starts children that die with their parent, under another account, and out of folders closed to that account.

Only util-linux and a shell are used, so the result is a plain argv for whatever spawns processes. The chain is

    unshare --mount -- sh (opens closed folders) -> setpriv (account, death signal) -> sh (guard) -> the program

and every link replaces itself by `exec`: one process, whose pid is the program's.
"""

import ctypes
import os
import shlex
import shutil
import signal
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_CAP_SETUID, _CAP_SETGID, _CAP_SYS_ADMIN = 7, 6, 21
_MAX_LINKS = 40  # the kernel's own limit on symlinks in one path
_MAX_ENTRIES = 500  # what a closed folder that must itself be entered may hold

# A parent that died before the death signal was set is noticed by the changed parent id.
_ALIVE = 'test "$PPID" = "$1" || exit 137; shift; '
# The folder the child was started in may be hidden or closed now: the account must not sit in one it cannot enter.
_SETTLE = 'cd -- "$1" 2>/dev/null || cd /; shift; '
_RUN = 'exec "$@"'


class CannotConfine(RuntimeError):
    """This machine does not let us start a child in the way asked for; the text is one sentence for a person."""


@dataclass(frozen=True)
class Account:
    """Numeric ids of an unprivileged account; no passwd entry is needed."""

    uid: int
    gid: int


def command(
    argv: Sequence[str], *, account: Account | None = None, reach: Sequence[Path] = (), die_with_parent: bool = True
) -> list[str]:
    """Return `argv` wrapped so that it runs as `account`, can enter every path of `reach`, and dies with its parent.

    Call it in the process that will spawn the child, and spawn from a thread that lives as long as the child should:
    the kernel's parent death signal is tied to the thread. The child is killed (SIGKILL) however the parent ends.

    `reach` (with the program of `argv` itself) matters only where an ancestor folder is closed to `account`: the child
    then gets a private mount namespace in which the closed folder shows just these paths, at their usual places and
    live. Nothing is chmodded, the rest of the folder is hidden, and nothing outside the child sees a difference. Its
    working folder must be in `reach` as well when it lies in a closed folder, else the child starts in `/`.

    Raises `CannotConfine` when the rights for it are missing or a path of `reach` does not exist.
    """
    change = account is not None and (account.uid, account.gid) != (os.geteuid(), os.getegid())
    if account is None or not change:
        if not die_with_parent:
            return list(argv)
        return [*_setpriv(None, True), "/bin/sh", "-c", _ALIVE + _RUN, "launch", str(os.getpid()), *argv]
    program = shutil.which(argv[0])
    if program is None:
        raise CannotConfine(f"{argv[0]} was not found or is not a program.")
    _need_ids(account)
    view = _View(account)
    for path in [*reach, Path(program)]:
        view.admit(path)
    guard, fixed = (_ALIVE, [str(os.getpid())]) if die_with_parent else ("", [])
    confined = [*_setpriv(account, die_with_parent), "/bin/sh", "-c", guard + _SETTLE + _RUN, "launch", *fixed]
    if not view.closed:
        return ["/bin/sh", "-c", "here=$(pwd -P); " + _splice(confined), "launch", *argv]
    _need_mounts(account, view.closed)
    script = "set -eu; here=$(pwd -P)\n" + view.script() + _splice(confined)
    return ["unshare", "--mount", "--propagation", "slave", "--", "/bin/sh", "-c", script, "launch", *argv]


def interpreter_paths(python: Path) -> list[Path]:
    """Everything the interpreter `python` reads to start, for `reach`: itself, its environment, its installation."""
    python = Path(os.path.abspath(python))
    real = python.resolve(strict=True)
    paths = [python, real.parent.parent]
    config = python.parent.parent / "pyvenv.cfg"
    if config.is_file():
        paths.append(config.parent)
        for line in config.read_text().splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "home" and Path(value.strip()).is_dir():
                paths.append(Path(value.strip()).parent)
    return list(dict.fromkeys(paths))


def become_subreaper() -> None:
    """Make orphaned descendants of this process its own children, so that none escapes. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def start_time(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot; None when no such process lives (a zombie does not)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def is_same_process(pid: int, started: int) -> bool:
    """Whether the process that had `pid` when `start_time` said `started` lives on, and not a later one of that pid."""
    return start_time(pid) == started


def send_signal(pid: int, started: int, number: signal.Signals) -> bool:
    """Signal the very process (`pid`, `started`), never a later one with its pid. False when it is gone already."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # The handle pins the identity first, so the check cannot be overtaken by a reused pid.
        if not is_same_process(pid, started):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


class _View:
    """What the child must see of folders that are closed to its account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.closed: dict[Path, set[Path]] = {}  # topmost closed folder -> what is shown in it
        self._links: dict[Path, str] = {}  # symlinks on the way, wherever they lie

    def admit(self, path: Path) -> None:
        """Show `path`, the symlinks that lead to it, and what these point to."""
        real = self._resolve(Path(os.path.abspath(path)), path)
        for link in self._links:
            if (hidden := self._closed_above(link)) is not None:
                self.closed.setdefault(hidden, set())
        top = self._closed_above(real)
        if self._is_closed(real) and real.is_dir():
            # The folder itself is closed: it becomes a view too, and all it holds now is shown.
            entries = [Path(entry.path) for entry in os.scandir(real)]
            if len(entries) > _MAX_ENTRIES:
                raise CannotConfine(f"{real} is closed to uid {self._account.uid} and too large to be opened for it.")
            self.closed.setdefault(top or real, set()).update(entries)
        elif top is not None:
            self.closed.setdefault(top, set()).add(real)

    def _resolve(self, path: Path, asked: Path) -> Path:
        """`path` without symlinks, noting each that was met (`Path.resolve` would not tell)."""
        done, rest, hops = Path("/"), list(path.parts[1:]), 0
        while rest:
            name = rest.pop(0)
            if name == "..":
                done = done.parent
                continue
            step = done / name
            try:
                target = os.readlink(step) if step.is_symlink() else None
                step.lstat()
            except OSError as error:
                raise CannotConfine(f"{asked} cannot be reached: {error.strerror}.") from error
            if target is None:
                done = step
                continue
            hops += 1
            if hops > _MAX_LINKS:
                raise CannotConfine(f"{asked} cannot be reached: too many symbolic links.")
            self._links[step] = target
            pointed = Path(target)
            if pointed.is_absolute():
                done = Path("/")
            rest[:0] = [part for part in pointed.parts if part != "/"]
        return done

    def _closed_above(self, path: Path) -> Path | None:
        """The topmost folder above `path` that the account cannot enter."""
        return next((folder for folder in reversed(path.parents) if self._is_closed(folder)), None)

    def _is_closed(self, path: Path) -> bool:
        entry = path.stat()
        if not stat.S_ISDIR(entry.st_mode):
            return False
        if entry.st_uid == self._account.uid:
            return not entry.st_mode & stat.S_IXUSR
        if entry.st_gid == self._account.gid:
            return not entry.st_mode & stat.S_IXGRP
        return not entry.st_mode & stat.S_IXOTH

    def script(self) -> str:
        """Shell lines that build the view, run as root in the new mount namespace."""
        return "".join(self._shadow(top, _outermost(shown)) for top, shown in sorted(self.closed.items()))

    def _shadow(self, top: Path, shown: list[Path]) -> str:
        # The shell stands in the old folder while an empty one is mounted over it. A relative source, which `mount -c`
        # leaves alone, still means the old one.
        folders = [path if path.is_dir() else path.parent for path in shown]
        links = {
            link: target
            for link, target in self._links.items()
            if link.is_relative_to(top) and not any(link.is_relative_to(path) for path in shown)
        }
        folders += [link.parent for link in links]
        files = [path for path in shown if not path.is_dir()]
        made = [
            f"mkdir -p -- {_words(folders)}",
            *([f"touch -- {_words(files)}"] if files else []),
            *(f"ln -s -- {shlex.quote(target)} {shlex.quote(str(link))}" for link, target in links.items()),
        ]
        lines = [
            f"cd -- {shlex.quote(str(top))}",
            f"mount -n -t tmpfs -o mode=0711,size=1m,nosuid,nodev,noexec launch {shlex.quote(str(top))}",
            f"(umask 066; {'; '.join(made)})",
            *(
                f"mount -n -c --rbind {shlex.quote('./' + str(path.relative_to(top)))} {shlex.quote(str(path))}"
                for path in shown
            ),
        ]
        return "\n".join(lines) + "\n"


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """The paths that lie in none of the others; sockets and broken links cannot be shown by a mount of their own."""
    kept: list[Path] = []
    for path in sorted(paths):
        if path.is_symlink() or not path.exists():
            continue
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return kept


def _words(paths: Iterable[Path]) -> str:
    return " ".join(shlex.quote(str(path)) for path in dict.fromkeys(paths))


def _splice(confined: Sequence[str]) -> str:
    """The last line of a shell stage: become `confined`, told the folder to settle in, then the program."""
    return f'cd /; exec {shlex.join(confined)} "$here" "$@"'


def _setpriv(account: Account | None, die_with_parent: bool) -> list[str]:
    ids = [f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"] if account else []
    return ["setpriv", *ids, *(["--pdeathsig", "KILL"] if die_with_parent else []), "--"]


def _capabilities() -> int:
    """Our effective capabilities, a bit each."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))


def _need_ids(account: Account) -> None:
    held = _capabilities()
    if held >> _CAP_SETUID & held >> _CAP_SETGID & 1:
        return
    if os.geteuid() != 0:
        raise CannotConfine(f"Only root can start a process as uid {account.uid}; this is uid {os.geteuid()}.")
    raise CannotConfine(f"This root lacks CAP_SETUID or CAP_SETGID, so it cannot start a process as uid {account.uid}.")


def _need_mounts(account: Account, closed: Iterable[Path]) -> None:
    if not _capabilities() >> _CAP_SYS_ADMIN & 1:
        raise CannotConfine(
            f"{min(closed)} is closed to uid {account.uid} and this root lacks CAP_SYS_ADMIN, with which it could be"
            f" opened for one process: use a folder that others can enter."
        )

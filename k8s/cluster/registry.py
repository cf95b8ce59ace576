"""Which clusters this machine has, and what each made outside its own folder, so that anyone can remove a dead one's.

One file a cluster in /run/berth/clusters, written before anything is made. One whose keeper is dead is a leftover.
"""

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from core import launch
from core.dev.failure import CannotStart
from core.dev.folder import write_private
from k8s.cluster import cgroups, network
from k8s.cluster.network import Network

FOLDER = Path("/run/berth/clusters")
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_LOCK_SECONDS = 60.0
_END_SECONDS = 20.0


class Entry(BaseModel):
    """A cluster in `folder`. Processes are pid and start time; `starter` is whoever brings it up, until it is up."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    folder: Path
    network: Network
    nodes: int
    keeper: tuple[int, int] | None = None
    starter: tuple[int, int] | None

    @property
    def file(self) -> Path:
        return FOLDER / f"{self.network.second}.json"

    @property
    def group(self) -> str:
        return f"berth-cluster-{self.network.second}"

    def lives(self) -> bool:
        """Whether it is up, or being brought up. Half up with a dead starter it is a leftover."""
        by_starter = self.starter is None or launch.is_same_process(*self.starter)
        return by_starter and (self.keeper is None or self.keeper_lives())

    def keeper_lives(self) -> bool:
        return self.keeper is not None and launch.is_same_process(*self.keeper)

    def write(self) -> None:
        write_private(self.file, self.model_dump_json())


class Host(BaseModel):
    """What clusters changed on this machine together; the last of them puts it back."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    forwarding: str
    made: tuple[Path, ...]


@contextmanager
def locked() -> Iterator[None]:
    """Nobody else brings clusters up or down meanwhile. Raises `CannotStart` after a minute."""
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(FOLDER / ".lock", "w") as lock:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CannotStart(
                        f"{FOLDER}/.lock has been held for a minute by another cluster's start."
                    ) from None
                time.sleep(0.05)
        yield


def entries() -> list[Entry]:
    """All clusters that are noted, dead ones too."""
    found = []
    for file in sorted(FOLDER.glob("[0-9]*.json")):
        with suppress(FileNotFoundError, ValidationError):
            found.append(Entry.model_validate_json(file.read_text()))
    return found


def at(folder: Path) -> Entry | None:
    """The cluster of `folder`."""
    return next((entry for entry in entries() if entry.folder == folder), None)


def enter(folder: Path, nodes: int, mount_points: tuple[str, ...]) -> Entry:
    """Note a new cluster and prepare this machine for it. Call it under the lock, with leftovers removed."""
    if not entries():
        made = [path for path in map(Path, mount_points) if not path.is_dir()]
        host = Host(forwarding=_FORWARD.read_text().strip(), made=tuple(made))
        write_private(_host_file(), host.model_dump_json())
    for path in mount_points:
        Path(path).mkdir(parents=True, exist_ok=True)
    _FORWARD.write_text("1")
    taken = [entry.network for entry in entries()]
    me = (os.getpid(), launch.start_time(os.getpid()) or 0)
    entry = Entry(folder=folder, network=network.free_network(taken), nodes=nodes, starter=me)
    entry.write()
    return entry


def remove(entry: Entry) -> None:
    """End the cluster and remove all it made, its folder included. Safe to repeat. Hold the lock.

    Raises `CannotStart` when something of it does not end.
    """
    _end(entry)
    network.remove(entry.network, entry.nodes)
    cgroups.remove(entry.group)
    shutil.rmtree(entry.folder, ignore_errors=True)
    if entry.folder.exists():
        raise CannotStart(f"{entry.folder} cannot be removed.")
    entry.file.unlink(missing_ok=True)
    if not entries():
        _restore()


def remove_leftovers() -> list[Entry]:
    """Remove every cluster whose keeper is dead. Hold the lock."""
    dead = [entry for entry in entries() if not entry.lives()]
    for entry in dead:
        remove(entry)
    return dead


def _end(entry: Entry) -> None:
    """The keeper ends its parts; the kernel ends what is left in the nodes' namespaces."""
    if entry.keeper is None:
        return
    launch.send_signal(*entry.keeper, signal.SIGTERM)
    deadline = time.monotonic() + _END_SECONDS
    while entry.keeper_lives():
        if time.monotonic() > deadline:
            launch.send_signal(*entry.keeper, signal.SIGKILL)
        time.sleep(0.02)


def _restore() -> None:
    try:
        host = Host.model_validate_json(_host_file().read_text())
    except (OSError, ValidationError):
        return
    _FORWARD.write_text(host.forwarding)
    for path in reversed(host.made):
        # Only empty ones: what somebody else put there meanwhile stays.
        with suppress(OSError):
            path.rmdir()
    _host_file().unlink(missing_ok=True)


def _host_file() -> Path:
    return FOLDER / "host.json"

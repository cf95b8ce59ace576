"""The processes that come from this one: found, collected, ended."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection

from agent_image.agent.part import PartFailed

_LOOK_SECONDS = 0.01
_ENDED = {"Z", "X"}


def descendants(without: Collection[int] = ()) -> list[int]:
    """Every process that comes from this one, ended ones that nobody collected too; not those `without`, nor theirs."""
    return [pid for pid, _ in _descendants(without)]


def reap_orphans(ours: set[int]) -> None:
    """Collect ended processes that were handed to us (the browser leaves some), but none that someone waits for."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in ours or _seen(int(entry))[0] != os.getpid():
            continue
        try:
            os.waitpid(int(entry), os.WNOHANG)
        except ChildProcessError:
            continue


async def end_all_but(keep: set[int], seconds: float) -> None:
    """Kill what comes from this process, but for `keep` and theirs; return when none of it runs.

    Some of a browser's helpers lead sessions of their own, and one that hangs does not see that its browser is gone.
    Raises `PartFailed` when something still runs after `seconds`.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while left := [pid for pid, state in _descendants(keep) if state not in _ENDED]:
        if loop.time() > until:
            raise PartFailed(f"{len(left)} of its processes do not end")
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_LOOK_SECONDS)
    reap_orphans(keep)


def _descendants(without: Collection[int]) -> list[tuple[int, str]]:
    """With the state of each, as the kernel writes it."""
    children: dict[int, list[tuple[int, str]]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in without:
            continue
        parent, state = _seen(int(entry))
        if parent:
            children.setdefault(parent, []).append((int(entry), state))
    found: list[tuple[int, str]] = []
    todo = [os.getpid()]
    while todo:
        here = children.get(todo.pop(), [])
        found += here
        todo += [pid for pid, _ in here]
    return found


def _seen(pid: int) -> tuple[int, str]:
    """Parent and state of a process; 0 and X when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            state, parent = stat.read().rsplit(")", 1)[1].split()[:2]
            return int(parent), state
    except (OSError, ValueError, IndexError):
        return 0, "X"

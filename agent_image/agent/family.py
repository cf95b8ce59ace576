"""The processes that come from this one: found, collected, ended."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection

from agent_image.agent.part import PartFailed

_LOOK_SECONDS = 0.01


def descendants(without: Collection[int] = ()) -> list[int]:
    """Every process that comes from this one, ended ones that nobody collected too; not those `without`, nor theirs."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in without and (parent := _parent(int(entry))):
            children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        here = children.get(todo.pop(), [])
        found += here
        todo += here
    return found


def reap_orphans(ours: set[int]) -> None:
    """Collect ended processes that were handed to us (the browser leaves some), but none that someone waits for."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in ours or _parent(int(entry)) != os.getpid():
            continue
        try:
            os.waitpid(int(entry), os.WNOHANG)
        except ChildProcessError:
            continue


async def end_all_but(keep: set[int], seconds: float) -> None:
    """Kill what comes from this process, but for `keep` and theirs; return when nothing of it is left.

    Some of a browser's helpers lead sessions of their own, and one that hangs does not see that its browser is gone.
    An ended process counts until it is collected: before that it may have threads that still have files open.
    Raises `PartFailed` when something is left after `seconds`.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while left := descendants(keep):
        if loop.time() > until:
            raise PartFailed(f"{len(left)} of its processes do not end")
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_LOOK_SECONDS)
        reap_orphans(keep)


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return int(stat.read().rsplit(")", 1)[1].split()[1])
    except (OSError, ValueError, IndexError):
        return None

"""A program that runs a stack with a stand-in for Berth's own parts, for tests to kill. Argument: the data folder."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.dev.stack import Stack, StackOptions, run_stack
from core.dev.supervise import Part

_PORTS = ("api_port", "database_port", "temporal_port", "temporal_ui_port", "temporal_http_port")

# Servers that need not be there.
GIVEN: dict[str, Any] = {"database_url": "postgresql://db/x", "temporal_address": "t:1"}


def options_for(data: Path, **more: Any) -> StackOptions:
    """Options of a stack on ports nobody else uses."""
    return StackOptions(data, **{**dict.fromkeys(_PORTS, 0), **more})


def here(data: Path, own_parts: Sequence[Part] = (), **options: Any) -> tuple[Stack, list[str]]:
    """A stack in this process, with `own_parts` for Berth's; and the lines it announces."""
    said: list[str] = []
    return Stack(options_for(data, **options), said.append, lambda _: own_parts), said


def stand_in(env: Mapping[str, str]) -> Sequence[Part]:
    """One part instead of Berth's own: needs both servers, and is ready at once."""

    async def ready(pid: int) -> bool:
        return True

    return [Part("worker", ["sleep", "600"], env, ready, after=["postgres", "temporal"])]


if __name__ == "__main__":
    sys.exit(asyncio.run(run_stack(options_for(Path(sys.argv[1])), lambda line: print(line, flush=True), stand_in)))  # noqa: T201

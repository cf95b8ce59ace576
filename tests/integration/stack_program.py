"""A program of its own that runs a stack with a stand-in for Berth's parts, for tests to kill.

Takes the data folder; prints `{"pids": ..., ...addresses}` once all is ready, then stops on SIGTERM.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.dev.stack import Stack, StackOptions
from core.dev.supervise import Part

_PORTS = ("api_port", "database_port", "temporal_port", "temporal_ui_port", "temporal_http_port")


def options_for(data: Path, **more: Any) -> StackOptions:
    """Options of a stack on ports nobody else uses."""
    return StackOptions(data, **{**dict.fromkeys(_PORTS, 0), **more})


def stand_in(env: Mapping[str, str]) -> Sequence[Part]:
    """One part instead of Berth's own: needs both servers, and is ready at once."""

    async def ready(pid: int) -> bool:
        return True

    return [Part("worker", ["sleep", "600"], env, ready, after=["postgres", "temporal"])]


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    stack = Stack(options_for(Path(sys.argv[1])), lambda line: print(line, file=sys.stderr, flush=True), stand_in)  # noqa: T201
    try:
        await stack.start()
        print(json.dumps({**stack.addresses, "pids": stack.pids}), flush=True)  # noqa: T201
        await stop.wait()
    finally:
        await stack.stop()


if __name__ == "__main__":
    asyncio.run(main())

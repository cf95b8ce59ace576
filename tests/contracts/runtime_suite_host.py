"""A host supervisor as a process of its own, for tests."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_PROGRAM = (
    "import asyncio, sys\n"
    "from core import telemetry\n"
    "from core.runtime.host.supervisor import run_host\n"
    "from core.settings import Settings\n"
    "telemetry.configure('host', json=True)\n"
    "sys.exit(asyncio.run(run_host(Settings())))\n"
)
_SECONDS = 30.0


class HostProcess:
    """`before` are words put before the command, to start it under another account say."""

    def __init__(self, data_dir: Path, *, before: Sequence[str] = (), **settings: str) -> None:
        self._announce = data_dir / "run" / "host.ready"
        self._argv = [*before, sys.executable, "-c", _PROGRAM]
        self._env = {**os.environ, "BERTH_DATA_DIR": str(data_dir), **settings}
        self.log = data_dir.parent / f"{data_dir.name}-host.log"
        self.process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._argv, env=self._env, cwd="/", stdout=log, stderr=log)

    async def ready(self) -> None:
        assert self.process is not None
        async with asyncio.timeout(_SECONDS):
            while not (self._announce.exists() and self._announce.read_text().strip() == str(self.process.pid)):
                assert self.process.poll() is None, self.log.read_text()
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await asyncio.to_thread(self.process.wait, _SECONDS)

    async def stop(self, *, signal_it: bool = True) -> int:
        """Ask it to stop, or wait until it does by itself; return its exit code."""
        assert self.process is not None
        if signal_it and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, _SECONDS)

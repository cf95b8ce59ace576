"""A Temporal server of our own, with its Web UI, its state in one SQLite file."""

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from core import launch
from core.dev.failure import CannotStart
from core.dev.probe import http_status
from core.dev.supervise import Part

_ADD_SECONDS = 10


@dataclass(frozen=True)
class Temporal:
    """A development server; `search_attributes` maps names to types (Keyword, Int, ...).

    It asks nobody who they are, so it listens on loopback alone, unless `host` says more.
    """

    folder: Path
    port: int
    ui_port: int
    http_port: int
    namespace: str = "default"
    search_attributes: Mapping[str, str] = field(default_factory=dict)
    account: launch.Account | None = None
    host: str = "127.0.0.1"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def ui_url(self) -> str:
        return f"http://127.0.0.1:{self.ui_port}"

    async def make(self) -> None:
        """Make the folder of its state if there is none."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if self.account is not None:
            os.chown(self.folder, self.account.uid, self.account.gid)

    def part(self) -> Part:
        """The server as a part of a stack, which makes its folder before the first start."""
        program = _program()
        argv = [str(program), "server", "start-dev", "--db-filename", str(self.folder / "temporal.db")]
        argv += ["--ip", self.host, "--port", str(self.port), "--http-port", str(self.http_port)]
        argv += ["--ui-port", str(self.ui_port), "--ui-disable-news-fetch", "--log-level", "error"]
        # One shard polls its transfer queue 20 times a second by default: with 500 a workflow of three activities
        # takes 59 ms instead of 201.
        argv += ["--dynamic-config-value", "history.transferProcessorMaxPollRPS=500"]
        # A log instead of a journal that is made and deleted for every commit: as safe, for two thirds of the processor
        # and half of the time (200 workflows of five steps: 71 s before, 42 s).
        argv += ["--sqlite-pragma", "journal_mode=WAL"]
        if self.namespace != "default":
            argv += ["--namespace", self.namespace]
        for name, kind in self.search_attributes.items():
            argv += ["--search-attribute", f"{name}={kind}"]
        return Part(
            name="temporal",
            argv=argv,
            env=self._environment(),
            ready=self._is_ready,
            prepare=self.make,
            account=self.account,
            reach=[self.folder],
            cwd=self.folder,
        )

    async def _is_ready(self, pid: int) -> bool:
        # A count by every search attribute: it passes only when clients are served, the namespace is there, and the
        # attributes are registered.
        query = " OR ".join(f"{name} IS NULL" for name in self.search_attributes) or "WorkflowType = 'none'"
        where = f"http://127.0.0.1:{self.http_port}/api/v1/namespaces/{quote(self.namespace)}"
        status = await http_status(f"{where}/workflow-count?query={quote(query)}")
        if status == 400:
            await self._add_search_attributes()
        return status == 200

    async def _add_search_attributes(self) -> None:
        """Add what is missing: `start-dev` heeds `--search-attribute` only when it makes the namespace."""
        named = [word for name, kind in self.search_attributes.items() for word in ("--name", name, "--type", kind)]
        argv = [str(_program()), "operator", "search-attribute", "create", *named]
        process = await asyncio.create_subprocess_exec(
            *launch.command([*argv, "--address", self.address, "--namespace", self.namespace]),
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            # Whether it worked shows when the server is asked again.
            async with asyncio.timeout(_ADD_SECONDS):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _environment(self) -> dict[str, str]:
        # USER: the server refuses to start when it can find no name for its uid.
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder), "USER": "temporal", "TZ": "UTC"}


def _program() -> Path:
    beside = Path(sys.executable).with_name("temporal")
    found = str(beside) if beside.exists() else shutil.which("temporal")
    if found is None:
        raise CannotStart("The program `temporal` is not installed: run `make setup`, or set BERTH_TEMPORAL__ADDRESS.")
    return Path(found)

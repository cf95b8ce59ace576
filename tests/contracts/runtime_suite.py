"""What the contract suite needs to know of a runtime beyond its interface, and how to get each one."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from core.domain.environment import BrowserSettings
from core.domain.recovery import FailureKind
from core.domain.templates import Simulation, Template
from core.errors import RuntimeRetryable
from core.runtime.base import AgentRuntime, AgentSpec, Handle, Observation, Phase
from core.runtime.folders import Folders
from core.runtime.memory import MemoryRuntime
from core.runtime.process import ProcessRuntime
from core.runtime.registry import open_runtime
from core.settings import Memory, Settings
from tests.contracts.runtime_suite_host import HostProcess
from tests.fixtures import limits

WAIT = 30.0
_numbers = count(1)


def new_spec(**changes: Any) -> AgentSpec:
    """An agent of its own user and project."""
    number = next(_numbers)
    base = AgentSpec(
        agent_id=f"ag-{os.getpid()}-{number}",
        attempt=1,
        user_id=f"user/{number}",
        project_id=f"project {number} ü",
        pool="default",
        template=_usual_template(),
        backend_url="http://127.0.0.1:9",
        token=SecretStr(f"token-{number}"),
    )
    return base.model_copy(update=changes)


def _usual_template() -> Template:
    return Template(browser=BrowserSettings(width=800, height=600))


@dataclass
class Rig:
    """A runtime under test. `remains` names what is left of an attempt outside the runtime's own books.

    A `stubborn` agent that was made hears nothing but SIGKILL once it is told by `deafen`, if not from the beginning.
    """

    runtime: AgentRuntime
    failing: Callable[[AgentSpec], AgentSpec]
    fail: Callable[[Handle], None]
    fails_with: FailureKind
    remains: Callable[[AgentSpec], list[str]]
    stubborn: Callable[[AgentSpec], AgentSpec]
    deafen: Callable[[Handle], None]
    has_address: bool
    # The memory limit that the machine itself holds an agent to, in MiB; None where nothing of that can be seen.
    memory_limit: Callable[[AgentSpec], int | None]
    # Whether it has machines enough for an agent to move.
    has_others: bool
    shortens_grace: bool = True  # a kubelet need not, once it waits out a long one
    template: Template = field(default_factory=_usual_template)

    def spec(self, **changes: Any) -> AgentSpec:
        """An agent of its own user and project, as this runtime can run it."""
        return new_spec(**{"template": self.template, **changes})


class Watch:
    """A watch that runs beside a test and keeps what it saw."""

    def __init__(self, runtime: AgentRuntime) -> None:
        self.seen: list[Observation] = []
        self.broken = False
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(runtime))

    async def _run(self, runtime: AgentRuntime) -> None:
        try:
            async for seen in runtime.watch():
                self.seen.append(seen)
                self._changed.set()
        except RuntimeRetryable:
            self.broken = True
            self._changed.set()

    async def sees(self, agent_id: str, phase: Phase, attempt: int = 1) -> Observation:
        async with asyncio.timeout(WAIT):
            while True:
                for seen in self.seen:
                    if (seen.agent_id, seen.attempt, seen.phase) == (agent_id, attempt, phase):
                        return seen
                self._changed.clear()
                await self._changed.wait()

    async def breaks(self) -> None:
        async with asyncio.timeout(WAIT):
            while not self.broken:
                self._changed.clear()
                await self._changed.wait()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


@asynccontextmanager
async def watching(runtime: AgentRuntime) -> AsyncIterator[Watch]:
    watch = Watch(runtime)
    try:
        yield watch
    finally:
        await watch.stop()


@asynccontextmanager
async def rig(name: str, folder: Path) -> AsyncIterator[Rig]:
    """The runtime `memory` or `process`, directly or (`... through host`) as the control plane has it."""
    settings = Settings(data_dir=folder, memory=Memory(start_seconds=0.05, stop_seconds=0.05))
    kind, _, through_host = name.partition(" ")
    if through_host:
        async with HostProcess(folder) as host:
            await host.ready()
            runtime = open_runtime(kind, settings)
            yield _rig(kind, runtime, folder)
            await runtime.close()
        return
    local: MemoryRuntime | ProcessRuntime
    if kind == "memory":
        local = MemoryRuntime(settings.memory)
    else:
        local = ProcessRuntime(settings)
        await local.start()
    yield _rig(kind, local, folder)
    await local.close()


def _rig(kind: str, runtime: AgentRuntime, folder: Path) -> Rig:
    def simulated(**plan: Any) -> Callable[[AgentSpec], AgentSpec]:
        def change(spec: AgentSpec) -> AgentSpec:
            return spec.model_copy(update={"template": Template(simulation=Simulation(**plan))})

        return change

    if kind == "memory":
        return Rig(
            runtime=runtime,
            failing=simulated(exit_after_seconds=0.1, exit_code=76),
            fail=lambda handle: None,
            fails_with=FailureKind.OUT_OF_MEMORY,
            remains=lambda spec: [],
            stubborn=simulated(ignores_shutdown=True),
            deafen=lambda handle: None,
            has_address=False,
            memory_limit=lambda spec: None,
            has_others=True,
        )
    return Rig(
        runtime=runtime,
        failing=lambda spec: spec,
        fail=lambda handle: os.kill(handle.native["pid"], signal.SIGKILL),
        fails_with=FailureKind.CRASH,
        remains=lambda spec: processes_of(spec, folder),
        stubborn=lambda spec: spec,
        deafen=lambda handle: os.kill(handle.native["pid"], signal.SIGSTOP),
        has_address=True,
        memory_limit=lambda spec: memory_limit_of(spec, folder),
        has_others=False,
    )


def memory_limit_of(spec: AgentSpec, folder: Path) -> int | None:
    record = json.loads((folder / "host" / "attempts" / f"{spec.agent_id}-{spec.attempt}.json").read_text())
    return limits.memory_mib(record["pid"])


def processes_of(spec: AgentSpec, folder: Path) -> list[str]:
    """The living processes of an agent of the data folder: those of its account, else those in its scratch folder."""
    accounts = folder / "host" / "accounts.json"
    owner = Folders.owner(spec.user_id, spec.project_id)
    uid = json.loads(accounts.read_text())["given"].get(owner) if accounts.exists() else None
    work = str(folder / "host" / "work")
    found = []
    for entry in Path("/proc").iterdir():
        try:
            status = (entry / "status").read_text()
            if "\nState:\tZ" in status:
                continue
            ids = status.partition("\nUid:")[2].partition("\n")[0].split()
            theirs = str(uid) in ids if uid is not None else os.readlink(entry / "cwd").startswith(work)
        except OSError:
            continue
        if theirs:
            found.append(f"{entry.name} {status.split()[1]}")
    return found

"""One attempt of a local agent, as the runtime that runs it holds it."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from core import launch
from core.domain.templates import Resources
from core.runtime.attempts import Record
from core.runtime.base import Handle, Observation, Phase, Reach, Usage
from core.runtime.cgroup import Group
from core.runtime.crew import Crew
from core.runtime.journals import Journal
from core.runtime.machine import Claim

NAME = "process"
_YOUNG_SECONDS = 10.0
_END_SECONDS = 2.0

Key = tuple[str, int]


@dataclass(slots=True)
class Attempt:
    """`over` is set once its last process has ended; only then may its profile have another writer."""

    record: Record
    owner: str
    group: Group = field(default_factory=lambda: Group([]))
    resources: Resources = field(default_factory=Resources)
    reach: Reach | None = None
    journal: Journal | None = None
    pidfd: int | None = None
    told: bool = False
    leaving: bool = False
    host_stops: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    removing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def key(self) -> Key:
        return self.record.agent_id, self.record.attempt

    def crew(self, adopted: Callable[[], set[int]] = set) -> Crew:
        record = self.record
        main = (record.pid, record.started) if record.pid is not None and record.started is not None else None
        return Crew(record.agent_id, record.attempt, self.group, record.uid, record.work, main, adopted)

    def hold(self, process: "subprocess.Popen[bytes]", ended: Callable[[], None]) -> None:
        """Have its main process, by what no other can be taken for, and have `ended` called when it is over.

        Raises `OSError` when it cannot be held. It is ended and forgotten then: the next try makes another, on the same
        profile.
        """
        try:
            self.pidfd = os.pidfd_open(process.pid)
            known = {"pid": process.pid, "started": launch.start_time(process.pid)}
            asyncio.get_running_loop().add_reader(self.pidfd, ended)
        except OSError:
            self._forget(process)
            raise
        self.record = self.record.model_copy(update=known)

    def _forget(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        # What sleeps in the kernel for longer does nothing more of its own, and all other agents would wait for it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None

    def signal(self, number: signal.Signals) -> None:
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.group.kill()

    def usage(self) -> Usage:
        return Usage(cpu_seconds=self.record.cpu_seconds, peak_memory_bytes=self.record.peak_memory_bytes)

    def handle(self) -> Handle:
        agent_id, number = self.key
        return Handle(runtime=NAME, agent_id=agent_id, attempt=number, native={"pid": self.record.pid})

    def observation(self) -> Observation:
        record = self.record
        return Observation(
            agent_id=record.agent_id,
            attempt=record.attempt,
            phase=Phase.EXITED if self.over.is_set() else Phase.STARTED,
            exit_code=record.exit_code,
            failure=record.failure,
            detail=record.detail,
            created_at=record.created_at,
            user_id=record.user_id,
            project_id=record.project_id,
            handle=self.handle(),
        )

    def claim(self) -> Claim:
        held = self.group.memory_bytes()
        if held is None:
            # Nobody counts it. Once it has had time to take its memory the machine's own figure holds it.
            age = (datetime.now(UTC) - self.record.created_at).total_seconds()
            held = 0 if age < _YOUNG_SECONDS else None
        return Claim(self.resources, held, self.record.agent_id)

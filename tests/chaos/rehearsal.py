"""A whole local stack whose worker and API can be held at every boundary, and whose connections can be cut."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from api.auth import Role, issue
from core.db.engine import Db
from core.db.repositories import projects as project_rows
from core.db.repositories import users
from core.dev.stack import Stack
from core.dev.supervise import Part
from core.runtime.base import Phase
from core.settings import DEFAULT_POOL
from tests.chaos.boundaries import GATE
from tests.chaos.flows import TEMPLATES
from tests.chaos.gate import Gate, open_gate
from tests.chaos.hearers import Hearers, hearers
from tests.chaos.supervised import supervised
from tests.fakes.tcp_proxy import TcpProxy, tcp_proxy
from tests.fixtures.stack import LocalStack, Person, eventually

HELD = ("worker", "api")
# Long enough that everything that was under way meets it, short enough that nobody's patience ends.
OUTAGE_SECONDS = 1.5
_TOLD_SECONDS = 180
# Not of scheduled starts: a run that was begun for a request whose part then died is the reaper's to end.
_HEALED = re.compile(r"reaper\.(object|row|workflow)\b")


class Rehearsal(LocalStack):
    """The stack and the means to harm it. Its parts are supervised by this very process."""

    def __init__(self, folder: Path, environment: dict[str, str], gate: Gate, stack: Stack, lines: "Lines") -> None:
        super().__init__(folder, environment)
        self.gate = gate
        self._stack, self._lines = stack, lines
        self._parts = stack.pids.keys()
        self._parties = 0
        # Which file it was, and how far it was read.
        self._log_read: tuple[int | None, int] = (None, 0)
        self._mending: set[asyncio.Task[None]] = set()
        self._killed: dict[str, int] = {}

    def pid(self, part: str) -> int:
        return self._stack.pids[part]

    def kill(self, part: str) -> int:
        pid = super().kill(part)
        self._killed[part] = pid
        return pid

    @property
    def places(self) -> int:
        """How many `guests` have one each."""
        return sum(pool != DEFAULT_POOL for pool in self.settings.all_pools())

    async def guests(self, count: int, projects: int) -> list[Person]:
        """As many new people, each in a place of their own; theirs are the projects `{user id}-1` and so on."""
        self._parties += 1
        auth, guests = self.auth, []
        async with (
            Db.open(str(self.about["database"]), application="guests", pool_size=1) as db,
            db.transaction() as session,
        ):
            await users.put(session, "root")
            for number in range(count):
                user_id = f"guest-{self._parties}-{number:02}"
                await users.put(session, user_id, tier="premium", email=f"{user_id}@example.test")
                for project in range(1, projects + 1):
                    await project_rows.add(session, f"{user_id}-{project}", [user_id])
                token = issue(auth, user_id, Role.USER, datetime.now(UTC), timedelta(hours=1))
                guests.append(Person(self, user_id, token, place_name(number)))
        return guests

    async def kill_agents(self) -> None:
        """`kill -9` of each agent's own process; those in pods are processes of this machine too."""
        there = await self.objects()
        agents, killed = {seen.agent_id for seen in there}, 0
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("AGENT_ID") in agents:
                    process.kill()
                    killed += 1
        assert killed or not any(seen.phase is Phase.READY for seen in there), there

    def healed(self) -> list[str]:
        """What the reaper had to clear away since this was last asked: a leak that it mends is one all the same."""
        log, said = self.folder / "logs" / "worker.log", b""
        with log.open("rb") as file:
            which, (known, read) = os.fstat(file.fileno()).st_ino, self._log_read
            if known not in (None, which):
                # A full one was put aside, with what came after our last look.
                said, read = log.with_name(f"{log.name}.1").read_bytes()[read:], 0
            file.seek(read)
            said += file.read()
            self._log_read = which, file.tell()
        lines = said.decode(errors="replace").splitlines()
        return [line.partition("reaper.")[2] for line in lines if _HEALED.search(line)]

    async def cut(self, server: str) -> None:
        """Reset every connection to a server, and let nobody connect to it for a while."""
        line = self._lines[server]
        line.refuse()
        await line.reset()
        self._meanwhile(_mend(line))

    def half_open(self, server: str) -> None:
        """Whatever is said on the connections there are arrives nowhere, and nobody is told."""
        self._lines[server].freeze_open()

    def freeze(self, part: str) -> None:
        """Let a process stand still for a while, as on a machine that swaps."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGSTOP)
        self._meanwhile(_thaw(pid))

    async def mended(self) -> None:
        """Return when every part answers and every line is whole again."""
        await self.there()
        await self.whole()

    async def there(self) -> None:
        """Return when every part runs, so that it can be harmed, and no harm lasts."""
        await asyncio.gather(*self._mending)
        await eventually(self._all_there, "every part to be there")

    async def _all_there(self) -> bool:
        pids = self._stack.pids
        # Who was killed is named until its end was noticed.
        self._killed = {part: pid for part, pid in self._killed.items() if pids.get(part) == pid}
        return pids.keys() == self._parts and not self._killed

    def _meanwhile(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._mending.add(task)
        task.add_done_callback(self._mending.discard)


async def _mend(line: TcpProxy) -> None:
    await asyncio.sleep(OUTAGE_SECONDS)
    line.refuse(False)


async def _thaw(pid: int) -> None:
    await asyncio.sleep(OUTAGE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


Lines = Mapping[str, TcpProxy]


def place_name(number: int) -> str:
    """Of a template, and of the pool that it has to itself."""
    return f"place-{number}"


def write_places(config: Path, runtime: str, count: int, template: Mapping[str, Any], apart: bool) -> None:
    """A `berth.yaml` with pools of two slots; `apart` gives each a cluster of its own, so that they share no lock."""
    names = [place_name(number) for number in range(count)]
    pools = {name: {"runtime": runtime, "template": name, "capacity": 2} for name in names}
    if apart:
        pools = {name: {**pool, "cluster": name} for name, pool in pools.items()}
    templates = {name: template for name in ["default", *names]} | TEMPLATES
    config.write_text(json.dumps({"templates": templates, "pools": pools}))


@contextlib.asynccontextmanager
async def rehearsal(folder: Path, runtime: str = "memory", **settings: str) -> AsyncIterator[Rehearsal]:
    """Every wait is short. `settings` are BERTH_ variables without the prefix."""
    with tempfile.TemporaryDirectory(prefix="gate-") as place:  # its path must be short
        gate_path = Path(place) / "gate"
        async with (
            open_gate(gate_path) as gate,
            hearers() as told,
            tcp_proxy("127.0.0.1", 0) as to_postgres,
            tcp_proxy("127.0.0.1", 0) as to_temporal,
        ):
            lines = {"postgres": to_postgres, "temporal": to_temporal}
            alter = partial(_held, lines=lines)
            given = {**SHORT, **told.settings, **settings}
            async with supervised(folder, runtime, given, {GATE: str(gate_path)}, alter) as (stack, environment):
                one = Rehearsal(folder, environment, gate, stack, lines)
                await one.whole()
                yield one
                await one.sound()
                await _all_told(one, told)


async def _all_told(stack: Rehearsal, told: Hearers) -> None:
    """What a worker had taken when it died is told once its time is up."""
    found: list[str] = []

    async def nothing_wrong() -> bool:
        found[:] = await told.wrong(str(stack.about["database"]))
        return not found

    try:
        await eventually(nothing_wrong, "all to be told", _TOLD_SECONDS)
    except AssertionError as late:
        raise AssertionError(f"{late}: {found[:20]}") from None


SHORT = {
    "POOL__CAPACITY": "2",
    "TIMINGS__REAP_SECONDS": "2",
    "TIMINGS__GRACE_SECONDS": "3",
    "TIMINGS__SHUTDOWN_SECONDS": "5",
    "TIMINGS__SNAPSHOT_SECONDS": "0.5",
    "TIMINGS__GRANT_TICK_SECONDS": "2",
    "TIMINGS__RESTART_BACKOFF_SECONDS": "0.1",
    "THRESHOLDS__CPU_PERCENT": "100",
}


def _held(part: Part, lines: Lines) -> Part:
    """The same part behind lines that can be cut, and one that can be held when it is one of those."""
    env = dict(part.env)
    for server, name in (("postgres", "BERTH_DATABASE__URL"), ("temporal", "BERTH_TEMPORAL__ADDRESS")):
        env[name] = _through(lines[server], env[name])
    argv: Sequence[str] = part.argv
    if part.name in HELD:
        argv = [sys.executable, "-m", "tests.chaos.part", part.name]
    return replace(part, argv=argv, env=env)


def _through(line: TcpProxy, address: str) -> str:
    parts = urlsplit(address if "//" in address else f"//{address}")
    assert parts.hostname is not None
    assert parts.port is not None
    line.aim(parts.hostname, parts.port)
    return address.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{line.port}")

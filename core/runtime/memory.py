"""Runtime `memory`: simulated agents with settable delays and faults, for rehearsals, tests and benchmarks.

An agent is an entry in a table. What it is doing follows from the clock when somebody asks; one timer for all of them
tells the watchers. Ten thousand agents that have started cost no work at all.
"""

import asyncio
import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from core.domain.recovery import FailureKind
from core.domain.sizes import Size, size_of
from core.domain.templates import Resources, Simulation, Template
from core.errors import NeverSatisfiable, RuntimePermanent, RuntimeRetryable
from core.runtime.base import (
    AgentSpec,
    ClusterCapacity,
    Created,
    Handle,
    Observation,
    Phase,
    Reach,
    Resized,
    Usage,
)
from core.runtime.changes import Changes
from core.runtime.exits import failure_of
from core.runtime.ledger import Entry, Ledger
from core.settings import Memory
from core.tokens import hash_token

NAME = "memory"
_MAX_REFUSED = 10_000
# What a simulated machine has.
_MACHINE = Size(cpu=1024, memory_mib=1 << 20)

Key = tuple[str, int]
Owner = tuple[str, str]


@dataclass(frozen=True)
class _Load:
    cpu_percent: float | None
    memory_percent: float | None
    disk_percent: float | None
    network_mbit: float | None


@dataclass(slots=True)
class _Agent:
    key: Key
    owner: Owner
    plan: Simulation
    token_hash: str
    created_at: datetime
    ready_at: float
    exit_at: float
    node: str = ""
    size: Size = field(default_factory=lambda: size_of(Resources()))
    lost: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def phase(self, now: float) -> Phase:
        if now >= self.exit_at:
            return Phase.EXITED
        return Phase.READY if now >= self.ready_at else Phase.STARTING


class MemoryRuntime:
    """Guarantees of `AgentRuntime`. Its agents live and die with its process; one event loop.

    With a `ledger` it reports those of an earlier process as lost with their host, until they are deleted.
    """

    name = NAME

    def __init__(self, settings: Memory, ledger: Ledger | None = None) -> None:
        self._settings = settings
        # What its machines report, until somebody pretends otherwise.
        self._load = _Load(
            cpu_percent=settings.cpu_percent,
            memory_percent=settings.memory_percent,
            disk_percent=settings.disk_percent,
            network_mbit=settings.network_mbit,
        )
        self._ledger = ledger
        self._agents: dict[Key, _Agent] = {}
        self._writers: dict[Owner, _Agent] = {}
        self._refused: OrderedDict[str, int] = OrderedDict()
        self._changes = Changes()
        self._timers: list[tuple[float, int, _Agent]] = []
        self._order = itertools.count()
        self._turn = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        if ledger is not None:
            self._agents = {key: _lost(entry) for key, entry in ledger.known.items()}

    async def create(self, spec: AgentSpec) -> Created:
        key = spec.agent_id, spec.attempt
        agent = self._agents.get(key)
        if agent is None:
            agent = self._make(spec)
        return Created(handle=_handle(agent), token_hash=agent.token_hash)

    def _make(self, spec: AgentSpec) -> _Agent:
        now = self._loop.time()
        owner = spec.user_id, spec.project_id
        writer = self._writers.get(owner)
        if writer is not None and writer.phase(now) is not Phase.EXITED:
            raise RuntimeRetryable(f"agent {writer.key[0]} (attempt {writer.key[1]}) still uses this profile")
        plan = spec.template.simulation
        if self._refused.get(spec.agent_id, 0) < plan.fail_create:
            self._refused[spec.agent_id] = self._refused.pop(spec.agent_id, 0) + 1
            if len(self._refused) > _MAX_REFUSED:
                self._refused.popitem(last=False)
            raise RuntimeRetryable("this simulated agent was told to fail its creation")
        node = self._node(spec.away_from)
        if node is None:
            raise RuntimeRetryable(f"there is no simulated machine but {spec.away_from}")
        start = self._settings.start_seconds if plan.start_seconds is None else plan.start_seconds
        agent = _Agent(
            key=(spec.agent_id, spec.attempt),
            owner=owner,
            plan=plan,
            token_hash=hash_token(spec.token.get_secret_value()),
            created_at=datetime.now(UTC),
            ready_at=math.inf if plan.never_ready else now + start,
            exit_at=math.inf if plan.exit_after_seconds is None else now + plan.exit_after_seconds,
            node=node,
            size=size_of(spec.template.resources),
        )
        if self._ledger is not None:
            try:
                self._ledger.came(Entry(*agent.key, *owner, agent.token_hash, agent.created_at.isoformat()))
            except OSError as error:
                raise RuntimeRetryable(f"the agent cannot be noted: {error}") from error
        self._agents[agent.key] = self._writers[owner] = agent
        self._changes.publish(self._look(agent, now))
        self._arm(agent, agent.ready_at, agent.exit_at)
        return agent

    async def observe(self, agent_id: str, attempt: int) -> Observation:
        agent = self._agents.get((agent_id, attempt))
        if agent is None:
            return Observation(agent_id=agent_id, attempt=attempt, phase=Phase.GONE)
        return self._look(agent)

    async def delete(self, agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        agent = self._agents.get((agent_id, attempt))
        if agent is None:
            return Usage()
        wait = min(grace_seconds, self._stop_seconds(agent))
        if wait > 0 and agent.phase(self._loop.time()) is not Phase.EXITED:
            try:
                async with asyncio.timeout(wait):
                    await agent.gone.wait()  # another delete was less patient
            except TimeoutError:
                pass
        self._remove(agent)
        return Usage()

    def _stop_seconds(self, agent: _Agent) -> float:
        if agent.plan.ignores_shutdown:
            return math.inf
        return self._settings.stop_seconds if agent.plan.stop_seconds is None else agent.plan.stop_seconds

    def _remove(self, agent: _Agent) -> None:
        if self._agents.get(agent.key) is not agent:
            return
        if self._ledger is not None:
            try:
                self._ledger.went(*agent.key)
            except OSError as error:
                raise RuntimeRetryable(f"the agent cannot be struck off: {error}") from error
        del self._agents[agent.key]
        if self._writers.get(agent.owner) is agent:
            del self._writers[agent.owner]
        agent.gone.set()
        (agent_id, attempt), (user_id, project_id) = agent.key, agent.owner
        gone = Observation(agent_id=agent_id, attempt=attempt, phase=Phase.GONE, user_id=user_id, project_id=project_id)
        self._changes.publish(gone)

    async def check(self, template: Template) -> None:
        wanted = template.resources
        if wanted.cpu > _MACHINE.cpu or wanted.memory_mib > _MACHINE.memory_mib:
            raise NeverSatisfiable(
                f"a template asks for {wanted.cpu:g} cores and {wanted.memory_mib} MiB of memory, "
                f"a simulated machine has {_MACHINE}"
            )

    async def resize(self, agent_id: str, attempt: int, size: Size) -> Resized:
        agent = self._living(agent_id, attempt)
        if size.cpu > _MACHINE.cpu or size.memory_mib > _MACHINE.memory_mib:
            raise NeverSatisfiable(f"a simulated machine has {_MACHINE}")
        before, agent.size = agent.size, size
        return Resized(before=before)

    async def elsewhere(self, agent_id: str, attempt: int, template: Template) -> str:
        agent = self._living(agent_id, attempt)
        if self._node(agent.node) is None:
            raise RuntimePermanent(f"there is no simulated machine but {agent.node}")
        return agent.node

    def _living(self, agent_id: str, attempt: int) -> _Agent:
        agent = self._agents.get((agent_id, attempt))
        if agent is None or agent.phase(self._loop.time()) is Phase.EXITED:
            raise RuntimePermanent(f"agent {agent_id} (attempt {attempt}) does not run here")
        return agent

    def _node(self, away_from: str | None) -> str | None:
        """The next machine in turn; None when there is no other."""
        for _ in range(2):
            node = f"node-{self._turn % self._settings.nodes + 1}"
            self._turn += 1
            if node != away_from:
                return node
        return None

    async def list(self) -> list[Observation]:
        return [self._look(agent) for agent in self._agents.values()]

    async def capacity(self, wanted: Mapping[str, Template] | None = None) -> ClusterCapacity:
        """Whatever is wanted, an agent takes one place of as many as the settings say."""
        agents = len(self._agents)
        load, each = self._load, self._settings.agent_memory_percent
        memory = load.memory_percent
        if each:
            memory = min(100.0, (memory or 0) + each * agents)
        return ClusterCapacity(
            fits=max(0, self._settings.capacity - agents),
            agents=agents,
            cpu_percent=load.cpu_percent,
            memory_percent=memory,
            disk_percent=load.disk_percent,
            network_mbit=load.network_mbit,
        )

    def pretend(self, **load: float | None) -> None:
        """Have the machines report another use: `cpu_percent`, `memory_percent` (without agents) and so on."""
        self._load = replace(self._load, **load)

    def watch(self) -> AsyncIterator[Observation]:
        return self._changes.subscribe()

    async def reach(self, agent_id: str, attempt: int) -> Reach:
        if (agent_id, attempt) not in self._agents:
            raise RuntimePermanent(f"agent {agent_id} (attempt {attempt}) is not here")
        raise RuntimePermanent("a simulated agent has no address")

    async def logs(self, agent_id: str, *, follow: bool = False) -> AsyncIterator[bytes]:
        told: set[tuple[int, Phase]] = set()
        changes = self._changes.subscribe() if follow else None
        agents = [agent for agent in self._agents.values() if agent.key[0] == agent_id]
        for agent in agents:
            look = self._look(agent)
            told.add((look.attempt, look.phase))
            yield f"{agent.created_at.isoformat()} attempt {look.attempt} created (simulated)\n".encode()
            yield _line(look)
        while changes is not None and any(not agent.gone.is_set() for agent in agents):
            change = await anext(changes)
            if change.agent_id == agent_id and (change.attempt, change.phase) not in told:
                told.add((change.attempt, change.phase))
                yield _line(change)

    async def delete_profile(self, user_id: str, project_id: str) -> None:
        writer = self._writers.get((user_id, project_id))
        if writer is not None and writer.phase(self._loop.time()) is not Phase.EXITED:
            raise RuntimeRetryable(f"agent {writer.key[0]} uses this profile")

    async def close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._changes.close()
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def _look(self, agent: _Agent, at: float | None = None) -> Observation:
        phase = agent.phase(self._loop.time() if at is None else at)
        exited = phase is Phase.EXITED
        code = agent.plan.exit_code if exited and not agent.lost else None
        failure = None if code is None else failure_of(code)
        detail = "the simulated agent was told to exit" if exited else ""
        return Observation(
            agent_id=agent.key[0],
            attempt=agent.key[1],
            phase=phase,
            exit_code=code,
            failure=FailureKind.HOST_LOST if agent.lost else failure,
            detail="the host supervisor ended" if agent.lost else detail,
            created_at=agent.created_at,
            user_id=agent.owner[0],
            project_id=agent.owner[1],
            handle=_handle(agent),
            node=agent.node,
        )

    def _arm(self, agent: _Agent, *moments: float) -> None:
        for moment in moments:
            if moment < math.inf:
                heapq.heappush(self._timers, (moment, next(self._order), agent))
        if self._timers and (self._alarm is None or self._timers[0][0] < self._alarm.when()):
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_at(self._timers[0][0], self._ring)

    def _ring(self) -> None:
        self._alarm = None
        # Never before its moment, though a timer may ring a clock tick early: who is told and looks must see the same.
        now = self._loop.time()
        while self._timers and self._timers[0][0] <= now:
            _, _, agent = heapq.heappop(self._timers)
            if not agent.gone.is_set():
                self._changes.publish(self._look(agent, now))
        if self._timers:
            self._alarm = self._loop.call_at(self._timers[0][0], self._ring)


def _lost(entry: Entry) -> _Agent:
    return _Agent(
        key=(entry.agent_id, entry.attempt),
        owner=(entry.user_id, entry.project_id),
        plan=Simulation(),
        token_hash=entry.token_hash,
        created_at=datetime.fromisoformat(entry.created_at),
        ready_at=math.inf,
        exit_at=-math.inf,
        lost=True,
    )


def _handle(agent: _Agent) -> Handle:
    return Handle(runtime=NAME, agent_id=agent.key[0], attempt=agent.key[1])


def _line(look: Observation) -> bytes:
    at = datetime.now(UTC).isoformat()
    return f"{at} attempt {look.attempt} {look.phase.value} {look.detail}".rstrip().encode() + b"\n"

"""What must be true of Berth whatever was killed: one checker for every test that runs the whole of it.

`broken` looks once and says in sentences what is not as it should be. Some of it may be under way in that moment, an
object that is just being removed, say; `sound` looks again until nothing is wrong, and fails with what stays so.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import asyncpg
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from core.domain.lifecycle import FINAL, HOLDING, LIVING, AgentState, legal
from core.domain.tiers import Tier, TierLimits
from core.errors import RuntimeFault
from core.runtime.base import Observation, Phase

_LOOK_SECONDS = 20
_EVERY_SECONDS = 0.25
_DESCRIBED_AT_ONCE = 20
# What comes of asking a part that was just killed.
_AWAY = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    RPCError,
    RuntimeError,
    RuntimeFault,
    TimeoutError,
)

# What the runtimes have.
Objects = Callable[[], Awaitable[Sequence[Observation]]]


@dataclass(frozen=True)
class Agent:
    """A row of the table of agents."""

    agent_id: str
    attempt: int
    user_id: str
    project_id: str
    workflow_id: str
    pool: str
    state: AgentState
    event_seq: int
    runtime: str

    def __str__(self) -> str:
        return f"{self.agent_id}/{self.attempt} of {self.user_id} in {self.project_id} ({self.state})"


@dataclass(frozen=True)
class World:
    """Where to look. `capacity` by pool, for those that have a fixed one."""

    database: str
    temporal: str
    objects: Objects
    capacity: dict[str, int]
    limits: TierLimits
    namespace: str = "default"


async def sound(world: World, patience: float = 30) -> None:
    """Return once nothing is broken. Raises AssertionError with what still is after `patience` seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + patience
    while found := await _looked(world):
        assert loop.time() < until, "\n".join([f"after {patience:g} s:", *found])
        await asyncio.sleep(_EVERY_SECONDS)


async def _looked(world: World) -> list[str]:
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            return await broken(world)
    except _AWAY as error:
        return [f"could not be looked at: {error!r}"]


async def broken(world: World) -> list[str]:
    """One look at database, Temporal and runtime. Empty: all is well."""
    connection = await asyncpg.connect(world.database, timeout=5)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            rows = [_agent(row) for row in await connection.fetch("SELECT * FROM agents")]
            found = [
                *_logs(rows, await connection.fetch("SELECT * FROM events WHERE agent_id IS NOT NULL ORDER BY seq")),
                *_quotas(rows, await connection.fetch("SELECT user_id, tier FROM users"), world.limits),
                *_slots(rows, world.capacity, await connection.fetch("SELECT pool FROM pool_overrides")),
                *_answers(rows, await connection.fetch("SELECT * FROM idempotency WHERE answer IS NOT NULL")),
                *_starts(rows, await connection.fetch("SELECT * FROM scheduled_starts")),
            ]
    finally:
        await connection.close()
    found += await _workflows(rows, world)
    return found + _objects(rows, await world.objects())


def _agent(row: asyncpg.Record) -> Agent:
    named = {name: row[name] for name in Agent.__dataclass_fields__}
    return Agent(**{**named, "state": AgentState(row["state"])})


# ---- the database ---------------------------------------------------------------------------------------------------


def _logs(agents: Sequence[Agent], events: Sequence[asyncpg.Record]) -> list[str]:
    """A legal event log without a gap, which ends where the row is."""
    found = []
    of_agent: dict[str, list[asyncpg.Record]] = defaultdict(list)
    for event in events:
        of_agent[event["agent_id"]].append(event)
    for agent in agents:
        log = of_agent[agent.agent_id]
        numbers = [event["seq"] for event in log]
        if numbers != list(range(1, agent.event_seq + 1)):
            found.append(f"{agent}: its events are {numbers}, its row counts {agent.event_seq}")
        states = [AgentState(event["state"]) for event in log if event["state"]]
        if not states or states[0] is not AgentState.REQUESTED or states[-1] is not agent.state:
            found.append(f"{agent}: its events begin and end with {states[:1]} and {states[-1:]}")
        for before, after in pairwise(states):
            if before in FINAL or (before is not after and not legal(before, after)):
                found.append(f"{agent}: {before} was followed by {after}")
    return found


def _quotas(agents: Sequence[Agent], users: Sequence[asyncpg.Record], limits: TierLimits) -> list[str]:
    living = Counter(agent.user_id for agent in agents if agent.state in LIVING - {AgentState.DRAINING})
    allowed = {user["user_id"]: limits.of(Tier(user["tier"])) for user in users}
    return [f"{user} has {count} of {allowed[user]} agents" for user, count in living.items() if count > allowed[user]]


def _slots(agents: Sequence[Agent], capacity: dict[str, int], overridden: Sequence[asyncpg.Record]) -> list[str]:
    """Not more holders than slots. A pool whose capacity was changed by hand may have more for a while."""
    changed = {row["pool"] for row in overridden}
    held = Counter(agent.pool for agent in agents if agent.state in HOLDING)
    return [
        f"{count} agents hold the {capacity[pool]} slots of {pool}"
        for pool, count in held.items()
        if pool in capacity and pool not in changed and count > capacity[pool]
    ]


def _answers(agents: Sequence[Agent], answers: Sequence[asyncpg.Record]) -> list[str]:
    """Who was given a name has an agent."""
    known = {agent.agent_id for agent in agents}
    found = []
    for row in answers:
        body = row["answer"] if isinstance(row["answer"], str) else str(row["answer"])
        # Wherever in the answer a name is: the shape differs from route to route.
        named = {part for part in body.replace('"', " ").replace("/", " ").split() if _is_agent_id(part)}
        found += [f"key {row['key']} was answered with {name}, which is nowhere" for name in named - known]
    return found


def _is_agent_id(word: str) -> bool:
    return len(word) == 35 and word.startswith("ag-")


def _starts(agents: Sequence[Agent], starts: Sequence[asyncpg.Record]) -> list[str]:
    known = {agent.agent_id for agent in agents}
    return [
        f"scheduled start {row['scheduled_start_id']} is said to have made {row['agent_id']}, which is nowhere"
        for row in starts
        if row["state"] == "started" and row["agent_id"] not in known
    ]


# ---- Temporal and the runtime ----------------------------------------------------------------------------------------


async def _workflows(agents: Sequence[Agent], world: World) -> list[str]:
    """Who lives has a workflow that runs, and a workflow that runs has one that lives."""
    client = await Client.connect(world.temporal, namespace=world.namespace)
    living: dict[str, list[Agent]] = defaultdict(list)
    for agent in agents:
        if agent.state in LIVING:
            living[agent.workflow_id].append(agent)
    listed = client.list_workflows("WorkflowType = 'AgentWorkflow' AND ExecutionStatus = 'Running'")
    ids = sorted({found.id async for found in listed} | set(living))
    at_once = asyncio.Semaphore(_DESCRIBED_AT_ONCE)

    async def runs(workflow_id: str) -> bool:
        async with at_once:
            return await _runs(client, workflow_id)

    found = []
    for workflow_id, is_run in zip(ids, await asyncio.gather(*map(runs, ids)), strict=True):
        if is_run == bool(living[workflow_id]):
            continue
        if living[workflow_id]:
            found += [f"{agent}: no workflow carries it" for agent in living[workflow_id]]
        else:
            found.append(f"workflow {workflow_id} runs for nobody")
    return found


async def _runs(client: Client, workflow_id: str) -> bool:
    """As the server itself knows it: its list may be a moment old."""
    try:
        description = await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return description.status is WorkflowExecutionStatus.RUNNING


def _objects(agents: Sequence[Agent], objects: Sequence[Observation]) -> list[str]:
    """Each agent that runs exists once, and nothing else does."""
    rows = {agent.agent_id: agent for agent in agents}
    found = []
    there = [each for each in objects if each.phase is not Phase.GONE]
    for each in there:
        owner = rows.get(each.agent_id)
        if owner is None or owner.state not in HOLDING:
            found.append(f"{each.agent_id}/{each.attempt} is an orphan: its row says {owner and owner.state}")
        elif owner.attempt != each.attempt:
            found.append(f"{each.agent_id}/{each.attempt} is a zombie: the attempt is {owner.attempt}")
    seen = Counter((each.agent_id, each.attempt) for each in there)
    found += [f"{name[0]}/{name[1]} exists {count} times" for name, count in seen.items() if count > 1]
    missing = [agent for agent in agents if agent.state is AgentState.RUNNING]
    return found + [f"{agent} is not there" for agent in missing if (agent.agent_id, agent.attempt) not in seen]

"""What a runtime is: the seam between an agent's workflow and the thing that runs the agent.

Every method is idempotent and may be called again after any failure, by another process, with the same answer.
Errors are `core.errors.RuntimeRetryable`, `RuntimePermanent` or `NeverSatisfiable`, mapped where they happen.
`tests/contracts/test_runtime_contract.py` is the suite that every runtime passes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from pydantic import Field, SecretStr

from core.domain.environment import ModelAccess
from core.domain.recovery import FailureKind
from core.domain.sizes import Size
from core.domain.storable import Text
from core.domain.templates import Template
from core.domain.value import Value


class AgentSpec(Value):
    """One attempt of one agent. `token` is the agent's own; only a hash of it is kept elsewhere."""

    agent_id: str
    attempt: int
    user_id: str
    project_id: str
    pool: str
    template: Template
    backend_url: str
    token: SecretStr
    heartbeat_seconds: float = 30
    model: ModelAccess | None = None
    # A machine that it must not be on, by the name that `Observation.node` gives it.
    away_from: str | None = None


class Handle(Value):
    """Names what was made for one attempt. Plain data, so that it can be stored and used by another process.

    `native` is the runtime's own and opaque to everyone else.
    """

    runtime: str
    agent_id: str
    attempt: int
    native: dict[str, Any] = Field(default_factory=dict)


class Created(Value):
    """`token_hash` is of the token in force: another one than asked for when the attempt was there already."""

    handle: Handle
    token_hash: str


class Phase(StrEnum):
    STARTING = "starting"
    # The runtime itself knows the agent to be usable; runtimes whose agents report over the channel stay in STARTED.
    READY = "ready"
    STARTED = "started"
    EXITED = "exited"
    GONE = "gone"


class Observation(Value):
    """What exists now. `failure` and `detail` say why an agent is EXITED; None when it left as ordered."""

    agent_id: str
    attempt: int
    phase: Phase
    exit_code: int | None = None
    failure: FailureKind | None = None
    detail: Text = ""
    created_at: datetime | None = None
    user_id: str = ""
    project_id: str = ""
    handle: Handle | None = None
    # The machine it is on, where the runtime has several; empty where it has one, or none was chosen yet.
    node: str = ""


class Present(Value):
    """That an attempt exists, and since when; no word about how it is."""

    agent_id: str
    attempt: int
    created_at: datetime | None = None
    user_id: str = ""


class Reach(Value):
    """Where an agent answers now and the credential it takes; from inside the control plane only."""

    api_url: str
    desktop_url: str
    token: SecretStr


class ClusterCapacity(Value):
    """One look at a cluster. `fits` is how many more agents of the first template asked for it would take.

    None when unknown. `fits_of`: the same for each that was asked for, by name, and `here` who it saw; both are left
    out by runtimes whose agents all take one place.
    `looked_at` is when the look began, where it is not of this moment.
    """

    fits: int | None
    agents: int
    fits_of: Mapping[str, int] = {}
    here: tuple[str, ...] = ()
    looked_at: datetime | None = None
    cpu_percent: float | None = None
    memory_percent: float | None = None
    disk_percent: float | None = None
    # Of all machines together, sent and received, a second.
    network_mbit: float | None = None
    memory_bytes: int | None = None
    schedulable_nodes: int = 1


class Resized(Value):
    """What became of a resize. `waits_for` says why the machine has not done it yet; empty when it has."""

    before: Size
    waits_for: Text = ""


class Owner(Value):
    """Whose a profile is."""

    user_id: str
    project_id: str


class Pruned(Value):
    """What was cleared away."""

    profiles: int = 0


class Usage(Value):
    """What an agent used over its life."""

    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None


class AgentRuntime(Protocol):
    name: str

    async def create(self, spec: AgentSpec) -> Created:
        """Make the attempt. Already there is success. Returns before the agent is usable."""

    async def observe(self, agent_id: str, attempt: int) -> Observation:
        """What exists of the attempt; phase GONE when nothing does."""

    async def delete(self, agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        """Remove all that was made for the attempt and return when the runtime says gone. Not there is success.

        With a grace the agent is told to go first and killed after it.
        """

    async def check(self, template: Template) -> None:
        """Raises `NeverSatisfiable` for what no machine here would take, were it empty."""

    async def resize(self, agent_id: str, attempt: int, size: Size) -> Resized:
        """Give a living attempt other limits without a restart; the same once more is success.

        Raises `NeverSatisfiable` for more than any machine here has, `RuntimePermanent` with a sentence when the
        attempt is not there or cannot have that size; it keeps the one it has then.
        """

    async def elsewhere(self, agent_id: str, attempt: int, template: Template) -> str:
        """The machine an attempt is on, when another would take it now and its profile would be there.

        Raises `RuntimePermanent` with why none would.
        """

    async def list(self) -> list[Observation]:
        """All attempts of all agents that exist here."""

    async def capacity(self, wanted: Mapping[str, Template] | None = None) -> ClusterCapacity:
        """What there is, and how many more agents of each `wanted` template it takes; of a usual one where none is."""

    def watch(self) -> AsyncIterator[Observation]:
        """Changes as they happen, and those of the last few seconds. Begins with the call, or when first asked for one.

        Who watches first and lists then misses nothing. Ends or raises when the stream breaks, then do both again.
        """

    async def reach(self, agent_id: str, attempt: int) -> Reach:
        """Raises `RuntimePermanent` when the attempt is not there."""

    def logs(self, agent_id: str, *, follow: bool = False) -> AsyncIterator[bytes]:
        """The agent's own log, oldest first, all attempts that are kept; nothing when there is none."""

    async def delete_profile(self, user_id: str, project_id: str) -> None:
        """Forget the browser profile of a user's project. Raises `RuntimeRetryable` while an agent uses it."""

    async def close(self) -> None: ...


@runtime_checkable
class SharedRuntime(Protocol):
    """What a runtime offers beside `AgentRuntime` when many processes reach it: one of them watches it for all.

    `berth watch` does that. The others, as those of a host, are watched by every worker that has them.
    """

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` whenever no other process does, cancelled when this one may no more; until cancelled itself."""

    def watch_age(self) -> float | None:
        """Seconds since the runtime was last heard of by the watch; None while this process watches nothing."""


@runtime_checkable
class CountableRuntime(Protocol):
    """What a runtime offers beside `AgentRuntime` when it can tell what exists at a small part of what `list` costs."""

    async def present(self) -> Sequence[Present]:
        """Every attempt that `list` would name."""


@runtime_checkable
class PrunableRuntime(Protocol):
    """What a runtime offers beside `AgentRuntime` when it keeps things on disks of its own."""

    async def prune(self, unused_for: timedelta, keep: Sequence[Owner]) -> Pruned:
        """Remove profiles that no agent has used for so long, and that are not one of `keep`; safe to do twice."""

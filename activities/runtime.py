"""What is done where the agents are: make one, and take one down after it saved its work."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities.beats import beating
from activities.contracts import LIFE_MOVED_ON, Life, Placed, Resize, Resized, Shutdown, Usage
from activities.messages import Nothing
from activities.ports import Meter, Unmetered, note_runtime_error
from core.db.engine import Db
from core.db.models import Agent, Channel, Command
from core.db.repositories import alterations
from core.domain import sizes
from core.domain.lifecycle import AgentState
from core.domain.sizes import Size
from core.domain.templates import Template
from core.errors import RuntimeFault
from core.runtime.base import AgentRuntime, AgentSpec, Phase
from core.settings import Settings
from core.tokens import hash_token, new_token

log = structlog.get_logger()
_LOOK_EVERY = 0.1


class RuntimeActivities:
    """`runtimes` by name; agents of a pool are made by the runtime that was the pool's when they were requested."""

    def __init__(
        self, db: Db, settings: Settings, runtimes: Mapping[str, AgentRuntime], meter: Meter | None = None
    ) -> None:
        self._db = db
        self._meter = meter or Unmetered()
        self._settings = settings
        self._runtimes = runtimes

    @activity.defn(name="create_agent")
    async def create_agent(self, life: Life) -> Nothing:
        """Make the attempt. Its token exists here and in the agent only; the row keeps a hash.

        The hash is stored before the agent can come online. When the attempt is there already, made by a try whose
        answer was lost, the hash of the token in force takes its place.
        """
        token = new_token("agt")
        mine = hash_token(token.get_secret_value())
        size, away_from = await self._accept(life, mine)
        spec = AgentSpec(
            agent_id=life.agent_id,
            attempt=life.attempt,
            user_id=life.user_id,
            project_id=life.project_id,
            pool=life.pool,
            template=_sized(self._settings.template(life.template), size),
            backend_url=self._settings.agent_url(),
            token=token,
            heartbeat_seconds=self._settings.timings_of(life.template).heartbeat_seconds,
            model=self._settings.llm,
            away_from=away_from,
        )
        try:
            created = await beating(self._runtime(life).create(spec))
        except RuntimeFault as error:
            raise self._failure(error) from error
        if created.token_hash != mine:
            await self._accept(life, created.token_hash)
        return Nothing()

    @activity.defn(name="shut_down_agent")
    async def shut_down_agent(self, ask: Shutdown) -> Usage:
        """Let the agent save and leave in its time, then remove what is left. Returns when the runtime says gone.

        Never fails for good: whatever the runtime says, somebody has to see it gone before its slot is free.
        """
        life, runtime = ask.life, self._runtime(ask.life)
        try:
            left = await self._leaves_by_itself(ask) if ask.within_seconds > 0 else False
            # Who cannot hear us over the channel is told by the runtime's own signal.
            grace = 0 if left or ask.within_seconds <= 0 else min(ask.within_seconds, 10)
            usage = await beating(runtime.delete(life.agent_id, life.attempt, grace))
        except RuntimeFault as error:
            raise self._failure(error, for_good=False) from error
        return Usage(cpu_seconds=usage.cpu_seconds, peak_memory_bytes=usage.peak_memory_bytes)

    @activity.defn(name="resize_agent")
    async def resize_agent(self, ask: Resize) -> Resized:
        """Give a running attempt other limits. A permanent failure says in words why it has them not."""
        life = ask.life
        try:
            resized = await beating(self._runtime(life).resize(life.agent_id, life.attempt, ask.size), to_its_end=False)
        except RuntimeFault as error:
            raise self._failure(error) from error
        return Resized(life=life, before=resized.before, size=ask.size, waits_for=resized.waits_for)

    @activity.defn(name="find_other_machine")
    async def find_other_machine(self, life: Life) -> Placed:
        """Make sure that another machine would take the agent with its profile; fails for good, with why, if none."""
        template = self._settings.template(life.template)
        try:
            look = self._runtime(life).elsewhere(life.agent_id, life.attempt, template)
            return Placed(node=await beating(look, to_its_end=False))
        except RuntimeFault as error:
            raise self._failure(error) from error

    def _failure(self, error: RuntimeFault, *, for_good: bool | None = None) -> ApplicationError:
        """A runtime's error as Temporal's, counted; expected ones are not logged with a trace at every try."""
        note_runtime_error(self._meter, error)
        final = not error.retryable if for_good is None else for_good
        return ApplicationError(error.detail, type=error.error_code, non_retryable=final, category=_EXPECTED)

    def _runtime(self, life: Life) -> AgentRuntime:
        try:
            return self._runtimes[life.runtime]
        except KeyError:
            raise ApplicationError(
                f"this worker has no runtime {life.runtime}", type="runtime_retryable", category=_EXPECTED
            ) from None

    async def _accept(self, life: Life, token_hash: str) -> tuple[Size | None, str | None]:
        """Let the token of this attempt in, unless the life has moved on. What size it has, and where it may not be."""
        async with self._db.transaction() as session:
            accepted = await session.execute(
                update(Agent)
                .where(
                    Agent.agent_id == life.agent_id,
                    Agent.attempt == life.attempt,
                    Agent.state == AgentState.STARTING.value,
                )
                .values(token_hash=token_hash)
                .returning(Agent.cpu_limit, Agent.memory_limit_mib, Agent.away_from)
            )
            row = accepted.first()
            if row is None:
                raise ApplicationError("the life has moved on", type=LIFE_MOVED_ON, non_retryable=True)
            await session.execute(
                insert(Channel).values(agent_id=life.agent_id, attempt=life.attempt).on_conflict_do_nothing()
            )
        return alterations.size_of(row.cpu_limit, row.memory_limit_mib), row.away_from

    async def _leaves_by_itself(self, ask: Shutdown) -> bool:
        """Order a graceful shutdown over the channel and wait for the agent to be gone; False when it stayed."""
        life, runtime = ask.life, self._runtime(ask.life)
        deadline = datetime.now(UTC) + timedelta(seconds=ask.within_seconds)
        async with self._db.transaction() as session:
            channel = await session.get(Channel, (life.agent_id, life.attempt))
            if channel is None or channel.connected_at is None:
                return False
            deadline = await self._order_shutdown(session, ask, deadline)
        while datetime.now(UTC) < deadline:
            seen = await runtime.observe(life.agent_id, life.attempt)
            if seen.phase in (Phase.EXITED, Phase.GONE):
                return True
            activity.heartbeat()
            await asyncio.sleep(_LOOK_EVERY)
        log.warning("agent.stayed", agent_id=life.agent_id, within_seconds=ask.within_seconds)
        return False

    async def _order_shutdown(self, session: AsyncSession, ask: Shutdown, deadline: datetime) -> datetime:
        """Put the order where the replica with the socket finds it, once; return the deadline it runs under."""
        life = ask.life
        row = insert(Command).values(
            agent_id=life.agent_id,
            # With a space, which no user's Idempotency-Key has: a command of that name must not stand in its place.
            command_id=f"shutdown {life.attempt}",
            attempt=life.attempt,
            kind="graceful_shutdown",
            name="graceful_shutdown",
            parameters={"reason": ask.reason, "withinSeconds": ask.within_seconds},
            deadline_at=deadline,
        )
        # Touching nothing on conflict would return nothing: a repeated try needs the first one's deadline.
        stored = await session.execute(
            row.on_conflict_do_update(
                index_elements=["agent_id", "command_id"], set_={"deadline_at": Command.deadline_at}
            ).returning(Command.deadline_at)
        )
        await session.execute(text("SELECT pg_notify('berth_commands', :agent)"), {"agent": life.agent_id})
        return stored.scalar_one()


def _sized(template: Template, size: Size | None) -> Template:
    if size is None:
        return template
    return template.model_copy(update={"resources": sizes.sized(template.resources, size)})


_EXPECTED = ApplicationErrorCategory.BENIGN

"""What is done where the agents are: make one, and take one down after it saved its work."""

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities.beats import beating
from activities.contracts import LIFE_MOVED_ON, Life, Placed, Resize, Resized, Shutdown, Usage
from activities.messages import Nothing
from activities.ports import Meter, Unmetered, note_runtime_error
from core.db.engine import Db
from core.db.repositories import channels, commands
from core.db.repositories.channels import LetIn
from core.domain import sizes
from core.domain.recovery import FailureKind
from core.domain.sizes import Size
from core.domain.templates import Template
from core.errors import RuntimeFault
from core.runtime.base import AgentRuntime, AgentSpec, Phase
from core.runtime.base import Usage as Measured
from core.settings import Settings
from core.tokens import hash_token, new_token

log = structlog.get_logger()
# Most agents that leave do it within a second or two; each look at a slower one may be a call of a cluster.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
# How long before its time is over the making of an agent is given up; of a short time a tenth.
_CUT_OFF, _NO_LIMIT = timedelta(seconds=2), timedelta(days=1)
_Done = TypeVar("_Done")
# What an agent needs at most that is told by the runtime's signal alone.
_SIGNAL_SECONDS = 10.0
_LEAST_SIGNAL_SECONDS = 0.5


class RuntimeActivities:
    """`runtimes` by name; agents of a pool are made by the runtime that was the pool's when they were requested."""

    def __init__(
        self, db: Db, settings: Settings, runtimes: Mapping[str, AgentRuntime], meter: Meter | None = None
    ) -> None:
        self._db = db
        self._meter = meter or Unmetered()
        self._settings = settings
        self._runtimes = runtimes
        self._stranded: set[str] = set()

    @activity.defn(name="create_agent")
    async def create_agent(self, life: Life) -> Nothing:
        """Make the attempt. Its token exists here and in the agent only; the row keeps a hash.

        The hash is stored before the agent can come online, but not over one that an earlier try stored: what that
        made may be online. Once the runtime has said whose token is in force, the hash of that one is stored.

        A try is given up before the server gives it up: it waits for nobody then, and the agent is deleted already.
        """
        return await beating(_in_time(self._create(life)))

    async def _create(self, life: Life) -> Nothing:
        template = self._template(life)
        token = new_token("agt")
        mine = hash_token(token.get_secret_value())
        accepted = await self._accept(life, mine, in_force=False)
        spec = AgentSpec(
            agent_id=life.agent_id,
            attempt=life.attempt,
            user_id=life.user_id,
            project_id=life.project_id,
            pool=life.pool,
            template=_sized(template, accepted.size),
            backend_url=self._settings.agent_url(),
            token=token,
            heartbeat_seconds=self._settings.timings_of(life.template).heartbeat_seconds,
            model=self._settings.llm,
            away_from=accepted.away_from,
        )
        try:
            created = await self._runtime(life).create(spec)
        except RuntimeFault as error:
            raise self._failure(error) from error
        if created.token_hash != accepted.token_hash:
            await self._accept(life, created.token_hash, in_force=True)
        return Nothing()

    @activity.defn(name="shut_down_agent")
    async def shut_down_agent(self, ask: Shutdown) -> Usage:
        """Let the agent save and leave in its time, then remove by force what is left. Returns when the runtime says
        gone.

        Never fails for good: whatever the runtime says, somebody has to see it gone before its slot is free.
        """
        life, runtime = ask.life, self._runtime(ask.life)
        try:
            grace = await beating(self._let_leave(ask), to_its_end=False) if ask.within_seconds > 0 else 0
            usage = await beating(runtime.delete(life.agent_id, life.attempt, grace))
        except RuntimeFault as error:
            raise self._failure(error, for_good=False) from error
        return await self._used(life, usage)

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
        template = self._template(life)
        try:
            look = self._runtime(life).elsewhere(life.agent_id, life.attempt, template)
            return Placed(node=await beating(look, to_its_end=False))
        except RuntimeFault as error:
            raise self._failure(error) from error

    async def _used(self, life: Life, measured: Measured) -> Usage:
        """What the runtime measured; what it cannot measure, by the agent's own last word."""
        cpu, peak = measured.cpu_seconds, measured.peak_memory_bytes
        if cpu is None or peak is None:
            async with self._db.transaction() as session:
                told = await channels.spent(session, life.agent_id, life.attempt)
            cpu = told.cpu_seconds if cpu is None else cpu
            peak = told.peak_memory_bytes if peak is None else peak
        return Usage(cpu_seconds=cpu, peak_memory_bytes=peak)

    def _failure(self, error: RuntimeFault, *, for_good: bool | None = None) -> ApplicationError:
        """A runtime's error as Temporal's, counted; expected ones are not logged with a trace at every try."""
        note_runtime_error(self._meter, error)
        final = not error.retryable if for_good is None else for_good
        return ApplicationError(error.detail, type=error.error_code, non_retryable=final, category=_EXPECTED)

    def _runtime(self, life: Life) -> AgentRuntime:
        try:
            return self._runtimes[life.runtime]
        except KeyError:
            # It is tried again for as long as it takes, maybe for ever: one line for each agent is enough.
            if life.agent_id not in self._stranded:
                self._stranded.add(life.agent_id)
                log.warning("runtime.missing", agent_id=life.agent_id, pool=life.pool, runtime=life.runtime)
            raise ApplicationError(
                f"this worker has no runtime {life.runtime}", type="runtime_retryable", category=_EXPECTED
            ) from None

    def _template(self, life: Life) -> Template:
        try:
            return self._settings.template(life.template)
        except KeyError:
            # What was taken out while its agents live comes back with the settings alone, not with a later try.
            raise ApplicationError(
                "its template is not in the settings any more",
                type=FailureKind.CANNOT_START,
                non_retryable=True,
                category=_EXPECTED,
            ) from None

    async def _accept(self, life: Life, token_hash: str, *, in_force: bool) -> LetIn:
        """Let the token of this attempt in, unless the life has moved on."""
        async with self._db.transaction() as session:
            accepted = await channels.let_in(session, life.agent_id, life.attempt, token_hash, in_force=in_force)
        if accepted is None:
            raise ApplicationError("the life has moved on", type=LIFE_MOVED_ON, non_retryable=True)
        return accepted

    async def _let_leave(self, ask: Shutdown) -> float:
        """Order a graceful shutdown over the channel and let the agent go in its time.

        Returns the rest of that time, for the runtime's own signal: what was sent need not have been heard, and to an
        agent that is on its way a signal is nothing. 0 for one that is gone.
        """
        life, signal_seconds = ask.life, min(ask.within_seconds, _SIGNAL_SECONDS)
        deadline = datetime.now(UTC) + timedelta(seconds=ask.within_seconds)
        async with self._db.transaction() as session:
            if not await channels.was_open(session, life.agent_id, life.attempt):
                return signal_seconds
            told = {"reason": ask.reason, "withinSeconds": ask.within_seconds}
            deadline = await commands.order_shutdown(session, life.agent_id, life.attempt, told, deadline)
        if deadline <= datetime.now(UTC):
            # Ordered by a worker that died of it long ago: nobody knows what the agent has heard.
            return signal_seconds
        # Its channel may be down just now. One that tries again has most of the time to come back and hear.
        if await self._gone_by(life, deadline - timedelta(seconds=min(_SIGNAL_SECONDS, ask.within_seconds / 3))):
            return 0
        log.warning("agent.stays", agent_id=life.agent_id, within_seconds=ask.within_seconds)
        return max((deadline - datetime.now(UTC)).total_seconds(), _LEAST_SIGNAL_SECONDS)

    async def _gone_by(self, life: Life, deadline: datetime) -> bool:
        runtime, pauses = self._runtime(life), between_looks()
        while (left := (deadline - datetime.now(UTC)).total_seconds()) > 0:
            seen = await runtime.observe(life.agent_id, life.attempt)
            if seen.phase in (Phase.EXITED, Phase.GONE):
                return True
            await asyncio.sleep(min(next(pauses), left))
        return False


def between_looks() -> Iterator[float]:
    """Seconds between two looks at an agent that is to leave: short at first, never long."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause + _FIRST_PAUSE, _LONGEST_PAUSE)


def _sized(template: Template, size: Size | None) -> Template:
    if size is None:
        return template
    return template.model_copy(update={"resources": sizes.sized(template.resources, size)})


async def _in_time(work: Coroutine[Any, Any, _Done]) -> _Done:
    """`work`, cut off a little before the server would count this try of an activity as failed."""
    info = activity.info()
    # By differences of the server's own clock: ours may go otherwise.
    waited = info.started_time - info.scheduled_time
    whole = info.schedule_to_close_timeout
    left = [each for each in (info.start_to_close_timeout, whole and whole - waited) if each is not None]
    within = max(min(left, default=_NO_LIMIT), timedelta())
    limit = asyncio.timeout((within - min(_CUT_OFF, within / 10)).total_seconds())
    try:
        async with limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise ApplicationError(
            "it was still being made when its time was over", type="runtime_retryable", category=_EXPECTED
        ) from error


_EXPECTED = ApplicationErrorCategory.BENIGN

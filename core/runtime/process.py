"""Runtime `process`: a real agent as a group of processes on this machine.

When started as root every user's project has a numeric account of its own, and the agent runs under it. An attempt is
EXITED only after its last process has ended, whatever the first one did; that makes its profile free for the next.
"""

import asyncio
import hashlib
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import structlog

from core import launch
from core.domain import sizes
from core.domain.recovery import FailureKind
from core.domain.sizes import Size, size_of
from core.domain.templates import MIB, Template
from core.domain.wire import AgentExit
from core.errors import RuntimePermanent, RuntimeRetryable
from core.runtime.accounts import Accounts
from core.runtime.attempt import NAME, Attempt, Key
from core.runtime.attempts import Record, Records
from core.runtime.base import (
    AgentSpec,
    ClusterCapacity,
    Created,
    Observation,
    Owner,
    Phase,
    Pruned,
    Reach,
    Resized,
    Usage,
)
from core.runtime.cgroup import Cgroups
from core.runtime.changes import Changes
from core.runtime.crew import StillThere
from core.runtime.exits import exit_code_of, failure_of, told_of
from core.runtime.folders import Folders
from core.runtime.host.address import host_folder
from core.runtime.journals import Journals
from core.runtime.machine import Machine
from core.runtime.ports import free_ports
from core.runtime.program import Program, find
from core.runtime.pruning import prune
from core.settings import Settings
from core.tokens import hash_token

_PROCESSES = 512
# What SIGKILL and cleaning up may take before a delete is told to try again.
_KILL_SECONDS = 10.0
_STOP_SECONDS = 6.0
_AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_log = structlog.get_logger()


class ProcessRuntime:
    """Guarantees of `AgentRuntime`. Its agents die with this process. One event loop, in a thread that stays.

    Call `start` first. The caller makes sure that no other process works on the same data folder.
    """

    name = NAME

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folders = Folders(host_folder(settings.data_dir))
        self._loop = asyncio.get_running_loop()
        self._attempts: dict[Key, Attempt] = {}
        self._writers: dict[str, Attempt] = {}
        self._finishing: set[asyncio.Task[None]] = set()
        self._changes = Changes()
        self._program: Program | None = None
        self._adopted: Callable[[], set[int]] = set

    async def start(self) -> None:
        """End and clear away what an earlier process left, and know its attempts again. Raises `RuntimeRetryable`."""
        self._folders.make()
        self._machine = Machine(self._folders.host)
        self._accounts = Accounts(self._folders.host / "accounts.json", self._settings.host.uid_base)
        self._records = Records(self._folders.records)
        self._journals = Journals(self._folders.logs)
        self._cgroups = Cgroups(f"berth-{hashlib.sha256(os.fsencode(self._folders.host)).hexdigest()[:12]}")
        for record in self._records.load():
            await self._recover(record)
        self._folders.clear_works()
        try:
            self._program = find(self._folders.programs, self._settings.host.agent_python)
        except RuntimePermanent as missing:
            _log.warning("agent.not_installed", detail=missing.detail)

    async def _recover(self, record: Record) -> None:
        owner = self._folders.owner(record.user_id, record.project_id)
        attempt = Attempt(record=record, owner=owner)
        try:
            await attempt.crew().end(_KILL_SECONDS)
        except StillThere as still:
            raise RuntimeRetryable(f"agent {record.agent_id} of an earlier host: {still}") from still
        await self._clear(record)
        if not record.exited:
            _log.info("agent.lost_with_host", agent_id=record.agent_id, attempt=record.attempt)
            lost = {"exited": True, "failure": FailureKind.HOST_LOST, "detail": "the host supervisor ended"}
            attempt.record = record.model_copy(update=lost)
            self._records.save(attempt.record)
        attempt.over.set()
        self._attempts[attempt.key] = attempt

    async def _clear(self, record: Record) -> None:
        """Remove what the processes of an attempt left behind; only profile and log outlive them."""
        try:
            await asyncio.to_thread(self._folders.remove_work, record.work)
        except OSError as error:
            # Its delete tries again, and says so when that fails too.
            _log.warning("work.not_removed", agent_id=record.agent_id, attempt=record.attempt, error=str(error))
        if record.uid is not None:
            await asyncio.to_thread(self._folders.sweep, record.uid)

    async def create(self, spec: AgentSpec) -> Created:
        attempt = self._attempts.get((spec.agent_id, spec.attempt))
        if attempt is None:
            self._machine.check(spec.template.resources)
            try:
                attempt = self._make(spec)
            except launch.CannotConfine as error:
                raise RuntimePermanent(str(error)) from error
            except ValueError as error:
                raise RuntimePermanent(f"the agent's environment is not one a process can have: {error}") from error
            except OSError as error:
                raise RuntimeRetryable(f"this machine could not start the agent: {error}") from error
        return Created(handle=attempt.handle(), token_hash=attempt.record.token_hash)

    def _make(self, spec: AgentSpec) -> Attempt:
        """All of it without a pause, so that nothing else of this runtime happens in between."""
        if not _AGENT_ID.fullmatch(spec.agent_id):
            raise RuntimePermanent("an agent id has 1 to 63 letters, digits, '-' or '_'")
        owner = self._folders.owner(spec.user_id, spec.project_id)
        writer = self._writers.get(owner)
        if writer is not None and not writer.over.is_set():
            raise RuntimeRetryable(f"agent {writer.key[0]} (attempt {writer.key[1]}) still uses this profile")
        if self._program is None:
            self._program = find(self._folders.programs, self._settings.host.agent_python)
        name = hashlib.sha256(f"{spec.agent_id}-{spec.attempt}".encode()).hexdigest()[:12]
        account = self._accounts.of(owner)
        record = Record(
            agent_id=spec.agent_id,
            attempt=spec.attempt,
            user_id=spec.user_id,
            project_id=spec.project_id,
            token_hash=hash_token(spec.token.get_secret_value()),
            created_at=datetime.now(UTC),
            work=self._folders.work(name, account),
            group=name,
            uid=account.uid if account else None,
        )
        attempt = Attempt(record=record, owner=owner, resources=spec.template.resources)
        try:
            # Noted before it is begun: if we die in between, the next supervisor knows what to look for.
            self._records.save(record)
            self._begin(attempt, spec, self._program, account)
        except BaseException:
            self._undo(attempt)
            raise
        self._attempts[attempt.key] = self._writers[owner] = attempt
        self._changes.publish(attempt.observation())
        return attempt

    def _begin(self, attempt: Attempt, spec: AgentSpec, program: Program, account: launch.Account | None) -> None:
        record = attempt.record
        profile = self._folders.profile(attempt.owner, account)
        attempt.group = self._cgroups.make(
            record.group, memory_bytes=spec.template.resources.memory_limit_mib * MIB, processes=_PROCESSES
        )
        api_port, novnc_port = free_ports(2)
        environment = program.environment(
            spec, profile=profile, work=record.work, api_port=api_port, novnc_port=novnc_port
        )
        reach = [profile, record.work, *program.reach()]
        command = attempt.group.enter(launch.command(program.argv, account=account, reach=reach))
        journal = attempt.journal = self._journals.begin(spec.agent_id)
        journal.note(f"{record.created_at.isoformat()} attempt {spec.attempt} begins")
        process = subprocess.Popen(
            command,
            cwd=record.work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=journal.writer,
            stderr=journal.writer,
            start_new_session=True,
        )
        journal.started()
        attempt.hold(process, lambda: self._main_ended(attempt, process))
        attempt.reach = Reach(
            api_url=f"http://127.0.0.1:{api_port}", desktop_url=f"http://127.0.0.1:{novnc_port}", token=spec.token
        )
        self._note(attempt)
        _log.info("agent.begun", agent_id=spec.agent_id, attempt=spec.attempt, pid=process.pid, uid=record.uid)

    def _note(self, attempt: Attempt) -> None:
        """Keep the record of an attempt that has begun. A full disk must not end what runs, or hide what ended."""
        try:
            self._records.save(attempt.record)
        except OSError as error:
            _log.error("attempt.not_saved", agent_id=attempt.key[0], attempt=attempt.key[1], error=str(error))

    def _undo(self, attempt: Attempt) -> None:
        attempt.kill()
        if attempt.journal is not None:
            attempt.journal.close()
        attempt.group.remove()
        self._folders.remove_work(attempt.record.work)
        self._records.remove(*attempt.key)

    def _main_ended(self, attempt: Attempt, process: "subprocess.Popen[bytes]") -> None:
        assert attempt.pidfd is not None  # noqa: S101  its readability is why we are here
        self._loop.remove_reader(attempt.pidfd)
        os.close(attempt.pidfd)
        attempt.pidfd = None
        _, status, used = os.wait4(process.pid, 0)
        code = process.returncode = exit_code_of(status)
        usage = Usage(cpu_seconds=used.ru_utime + used.ru_stime, peak_memory_bytes=used.ru_maxrss * 1024)
        task = self._loop.create_task(self._finish(attempt, code, usage))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def _finish(self, attempt: Attempt, code: int, usage: Usage) -> None:
        """The main process ended: end the others, then say so."""
        while True:
            try:
                await attempt.crew(self._adopted).end(_KILL_SECONDS)
                break
            except StillThere as still:
                _log.error("agent.will_not_end", agent_id=attempt.key[0], attempt=attempt.key[1], detail=str(still))
        group, record = attempt.group, attempt.record
        if attempt.journal is not None:
            attempt.journal.close()
        word = await asyncio.to_thread(self._folders.last_word, record.work)
        await self._clear(record)
        failure = failure_of(code, killed_for_memory=group.oom_kills() > 0)
        if attempt.leaving:
            failure = None
        elif attempt.host_stops:
            failure = FailureKind.HOST_LOST
        # That it was sent a signal is no more than the code of that end says.
        said = word.reason if word is not None and word.code == code != AgentExit.TOLD_BY_HOST else ""
        log = attempt.journal.last_words() if failure is not None and attempt.journal is not None else ""
        cpu, peak = group.cpu_seconds(), group.peak_memory_bytes()
        attempt.record = record.model_copy(
            update={
                "exited": True,
                "exit_code": code,
                "failure": failure,
                "detail": told_of(code, said=said, log=log, failure=failure) if failure is not None else "",
                "cpu_seconds": usage.cpu_seconds if cpu is None else cpu,
                "peak_memory_bytes": usage.peak_memory_bytes if peak is None else peak,
            }
        )
        group.remove()
        self._note(attempt)
        attempt.over.set()
        _log.info("agent.ended", agent_id=record.agent_id, attempt=record.attempt, exit_code=code, failure=failure)
        if not attempt.leaving:
            self._changes.publish(attempt.observation())

    async def observe(self, agent_id: str, attempt: int) -> Observation:
        found = self._attempts.get((agent_id, attempt))
        if found is None:
            return Observation(agent_id=agent_id, attempt=attempt, phase=Phase.GONE)
        return found.observation()

    async def delete(self, agent_id: str, attempt: int, grace_seconds: float = 0) -> Usage:
        found = self._attempts.get((agent_id, attempt))
        if found is None:
            return Usage()
        found.leaving = True
        await self._stop(found, grace_seconds)
        async with found.removing:
            if self._attempts.get(found.key) is found:
                await self._remove(found)
        return found.usage()

    async def check(self, template: Template) -> None:
        self._machine.check(template.resources)

    async def resize(self, agent_id: str, attempt: int, size: Size) -> Resized:
        """Memory alone: agents of one machine share its processors, and only memory can bring it down."""
        found = self._living(agent_id, attempt)
        before = size_of(found.resources)
        self._machine.check_size(size)
        if size.cpu != before.cpu:
            raise RuntimePermanent("agents on this machine share its processors; only their memory can be limited")
        if size != before:
            refused = found.group.limit_memory(size.memory_mib * MIB)
            if refused is not None:
                raise RuntimePermanent(refused)
            found.resources = sizes.sized(found.resources, size)
            _log.info("agent.resized", agent_id=agent_id, attempt=attempt, memory_mib=size.memory_mib)
        return Resized(before=before)

    async def elsewhere(self, agent_id: str, attempt: int, template: Template) -> str:
        self._living(agent_id, attempt)
        raise RuntimePermanent("it runs on this machine, and there is no other")

    def _living(self, agent_id: str, attempt: int) -> Attempt:
        found = self._attempts.get((agent_id, attempt))
        if found is None or found.pidfd is None or found.leaving:
            raise RuntimePermanent(f"agent {agent_id} (attempt {attempt}) does not run here")
        return found

    async def _stop(self, attempt: Attempt, grace_seconds: float) -> None:
        if attempt.over.is_set():
            return
        if grace_seconds > 0 and not attempt.told:
            attempt.told = True
            attempt.signal(signal.SIGTERM)
        timer = self._loop.call_later(grace_seconds, attempt.kill)
        try:
            async with asyncio.timeout(grace_seconds + _KILL_SECONDS):
                await attempt.over.wait()
        except TimeoutError:
            raise RuntimeRetryable(f"agent {attempt.key[0]} (attempt {attempt.key[1]}) does not end") from None
        finally:
            timer.cancel()

    async def _remove(self, attempt: Attempt) -> None:
        record = attempt.record
        try:
            await asyncio.to_thread(self._folders.remove_work, record.work)
            self._records.remove(*attempt.key)
        except OSError as error:
            raise RuntimeRetryable(f"what agent {record.agent_id} left cannot be removed: {error}") from error
        attempt.group.remove()
        del self._attempts[attempt.key]
        if self._writers.get(attempt.owner) is attempt:
            del self._writers[attempt.owner]
        self._changes.publish(attempt.observation().model_copy(update={"phase": Phase.GONE}))

    async def list(self) -> list[Observation]:
        return [attempt.observation() for attempt in self._attempts.values()]

    async def capacity(self, wanted: Mapping[str, Template] | None = None) -> ClusterCapacity:
        return self._machine.capacity([a.claim() for a in self._attempts.values() if not a.over.is_set()], wanted)

    def watch(self) -> AsyncIterator[Observation]:
        return self._changes.subscribe()

    async def reach(self, agent_id: str, attempt: int) -> Reach:
        found = self._attempts.get((agent_id, attempt))
        if found is None or found.reach is None or found.pidfd is None:
            raise RuntimePermanent(f"agent {agent_id} (attempt {attempt}) does not run here")
        return found.reach

    def logs(self, agent_id: str, *, follow: bool = False) -> AsyncIterator[bytes]:
        if not _AGENT_ID.fullmatch(agent_id):
            raise RuntimePermanent("an agent id has 1 to 63 letters, digits, '-' or '_'")
        return self._journals.read(agent_id, follow=follow)

    async def delete_profile(self, user_id: str, project_id: str) -> None:
        owner = self._folders.owner(user_id, project_id)
        writer = self._writers.get(owner)
        if writer is not None and not writer.over.is_set():
            raise RuntimeRetryable(f"agent {writer.key[0]} uses this profile")
        try:
            self._folders.forget_profile(owner)
        except OSError as error:
            raise RuntimeRetryable(f"the profile cannot be removed: {error}") from error
        self._accounts.forget(owner)

    async def prune(self, unused_for: timedelta, keep: Sequence[Owner]) -> Pruned:
        used = [owner for owner, writer in self._writers.items() if not writer.over.is_set()]
        return prune(self._folders, self._accounts, unused_for, keep, used)

    async def close(self) -> None:
        """Stop all agents in order, at most 6 s and then by force. They stay known as lost with their host."""
        living = [attempt for attempt in self._attempts.values() if not attempt.over.is_set()]
        for attempt in living:
            attempt.host_stops = True
        grace = min(_STOP_SECONDS, self._settings.timings.shutdown_seconds)
        ended = await asyncio.gather(*(self._stop(a, grace) for a in living), return_exceptions=True)
        for attempt, failure in zip(living, ended, strict=True):
            if isinstance(failure, BaseException):
                _log.error("agent.not_stopped", agent_id=attempt.record.agent_id, error=str(failure))
        for attempt in self._attempts.values():
            attempt.group.remove()
        self._cgroups.close()
        self._changes.close()

    def adopt(self, adopted: Callable[[], set[int]]) -> None:
        """Name what this process has adopted: all of that belongs to dead agents and is ended with the next."""
        self._adopted = adopted

    def mains(self) -> set[int]:
        """The pids of agents' main processes that this runtime waits for."""
        return {a.record.pid for a in self._attempts.values() if a.pidfd is not None and a.record.pid is not None}

"""Commands, however they come in: each commandId runs once, one page command at a time, nothing without a limit."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from agent_image.agent.artefacts import ArtefactStore
from agent_image.agent.commands import CommandFailed, Document, PageCommands
from agent_image.agent.journal import log
from agent_image.agent.tasks import TaskRunner
from core.domain.wire import COMMAND_PARAMETERS, CommandFault, CommandName, Parameters, RunTask, to_json

MAX_RESULT_BYTES = 900 << 10  # a channel message may have 1 MiB, with everything around the result
_WAITING = 16
_REMEMBERED = 512
_REMEMBERED_BYTES = 16 << 20

# What may run while browser-use drives the page: looking does not disturb it.
_BESIDE_A_TASK = {CommandName.STATE, CommandName.SCREENSHOT, CommandName.EXTRACT, CommandName.STOP_TASK}


@dataclass(frozen=True)
class Outcome:
    """A command's end: exactly one of `result` and `fault`."""

    result: dict[str, Any] | None = None
    fault: CommandFault | None = None
    detail: str = ""


class Activity(Protocol):
    """Told when a task begins and ends."""

    def __call__(self, status: str, detail: str = "", **data: Any) -> None: ...


class Executor:
    """Runs commands. `obstacle` says why the agent is not ready for them, "" when it is."""

    def __init__(
        self,
        pages: PageCommands,
        tasks: TaskRunner,
        artefacts: ArtefactStore,
        tell: Activity,
        obstacle: Callable[[], str],
    ) -> None:
        self._pages = pages
        self._tasks = tasks
        self._artefacts = artefacts
        self._tell = tell
        self._obstacle = obstacle
        self._page = asyncio.Lock()
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._finished: OrderedDict[str, tuple[Outcome, int]] = OrderedDict()
        self._finished_bytes = 0
        self._closed = False
        self._cancelled: dict[str, CommandFailed] = {}

    def busy(self) -> bool:
        return bool(self._running)

    async def execute(self, command_id: str, command: str, parameters: dict[str, Any], timeout: float) -> Outcome:
        """The outcome of `command_id`; run now, awaited if it is running, or remembered if it ran before.

        Whoever waits here may go away: the command goes on. `timeout` is in seconds from now.
        """
        return await self.begin(command_id, command, parameters, timeout)

    def begin(self, command_id: str, command: str, parameters: dict[str, Any], timeout: float) -> "Awaitable[Outcome]":
        """As `execute`, but the command counts as begun (so it can be cancelled) when this returns."""
        task = self._running.get(command_id)
        if task is not None:
            return self._outcome(command_id, task)
        if command_id in self._finished:
            return _known(self._finished[command_id][0])
        if self._closed:
            return _known(Outcome(fault=CommandFault.SHUTTING_DOWN, detail="the agent is stopping"))
        if len(self._running) >= _WAITING:
            return _known(Outcome(fault=CommandFault.BUSY, detail=f"{_WAITING} commands are waiting already"))
        task = asyncio.create_task(self._once(command_id, command, parameters, timeout), name=command_id)
        self._running[command_id] = task
        task.add_done_callback(lambda done: self._running.pop(command_id, None))
        return self._outcome(command_id, task)

    async def _outcome(self, command_id: str, task: "asyncio.Task[Outcome]") -> Outcome:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            failure = self._cancelled.get(command_id)
            if not task.cancelled() or failure is None:
                raise
            outcome = Outcome(fault=failure.fault, detail=str(failure))  # cancelled before its first step
            self._remember(command_id, outcome)
            return outcome

    def cancel(self, command_id: str, fault: CommandFault = CommandFault.CANCELLED, detail: str = "") -> bool:
        """End a running command with `fault`; False when it does not run."""
        task = self._running.get(command_id)
        if task is None or command_id in self._cancelled:
            return task is not None
        self._cancelled[command_id] = CommandFailed(fault, detail or "cancelled by the caller")
        task.cancel()
        return True

    async def close(self, seconds: float) -> None:
        """Refuse new commands and end the running ones, whose outcome is `shutting_down`, within `seconds`."""
        self._closed = True
        running = dict(self._running)
        for command_id in running:
            self.cancel(command_id, CommandFault.SHUTTING_DOWN, "the agent is stopping")
        if running:
            await asyncio.wait(running.values(), timeout=seconds)

    async def _once(self, command_id: str, command: str, parameters: dict[str, Any], timeout: float) -> Outcome:
        try:
            try:
                async with asyncio.timeout(timeout):
                    outcome = await self._parsed(command_id, command, parameters)
            except asyncio.CancelledError:
                if command_id not in self._cancelled:
                    raise
                raise self._cancelled.pop(command_id) from None
        except CommandFailed as failure:
            outcome = Outcome(fault=failure.fault, detail=str(failure)[:2000])
        except TimeoutError:
            outcome = Outcome(fault=CommandFault.TIMED_OUT, detail=f"not done within {timeout:g} s")
        except Exception as error:  # owner: the caller, who must get an answer for every command; the log has the type
            log.error("command.broke", command_id=command_id, command=command[:100], error=repr(error))
            outcome = Outcome(fault=CommandFault.BROWSER_FAILED, detail=f"unexpected {type(error).__name__}")
        self._cancelled.pop(command_id, None)
        self._remember(command_id, outcome)
        return outcome

    async def _parsed(self, command_id: str, command: str, parameters: dict[str, Any]) -> Outcome:
        try:
            name = CommandName(command)
        except ValueError:
            known = ", ".join(CommandName)
            raise CommandFailed(
                CommandFault.UNKNOWN_COMMAND, f"{command[:100]!r} is no command; there are {known}"
            ) from None
        try:
            values = COMMAND_PARAMETERS[name].model_validate(parameters)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "parameters"
            raise CommandFailed(CommandFault.INVALID_PARAMETERS, f"{where}: {first['msg']}") from None
        if obstacle := self._obstacle():
            raise CommandFailed(CommandFault.BUSY, obstacle)
        result = await self._dispatch(command_id, name, values)
        size = len(to_json(result).encode())
        if size > MAX_RESULT_BYTES:
            raise CommandFailed(
                CommandFault.RESULT_TOO_LARGE, f"the result has {size} bytes, at most {MAX_RESULT_BYTES} are sent"
            )
        return Outcome(result=result)

    async def _dispatch(self, command_id: str, name: CommandName, values: Parameters) -> dict[str, Any]:
        if name is CommandName.STOP_TASK:
            return {"stopped": self._tasks.stop(CommandFault.CANCELLED, "stopped by stop_task")}
        if self._tasks.running and name not in _BESIDE_A_TASK:
            raise CommandFailed(CommandFault.BUSY, "a task is running; only looking and stop_task are possible")
        if isinstance(values, RunTask):
            return await self._task(command_id, values)
        async with self._page:
            made = await self._pages.run(values)
            if isinstance(made, Document):
                stored = await self._artefacts.put(command_id, made)
                return stored.model_dump(by_alias=True)
            return made

    async def _task(self, command_id: str, values: RunTask) -> dict[str, Any]:
        self._tell("task_started", commandId=command_id)
        why = "cut off"
        try:
            result = await self._tasks.run(command_id, values)
            why = "done" if result["success"] else "not successful"
            return result
        except CommandFailed as failure:
            why = failure.fault
            raise
        finally:
            self._tell("task_finished", str(why), commandId=command_id)

    def _remember(self, command_id: str, outcome: Outcome) -> None:
        size = len(to_json(outcome.result).encode()) if outcome.result else 200
        self._finished[command_id] = (outcome, size)
        self._finished_bytes += size
        while len(self._finished) > _REMEMBERED or self._finished_bytes > _REMEMBERED_BYTES:
            self._finished_bytes -= self._finished.popitem(last=False)[1][1]


async def _known(outcome: Outcome) -> Outcome:
    return outcome

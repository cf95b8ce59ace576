"""`run_task`: browser-use on our browser, with any OpenAI-compatible model. The only importer of browser_use."""

import asyncio
import contextlib
import importlib
import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent_image.agent.bridge import Bridge
from agent_image.agent.checkpoint import OpenTask
from agent_image.agent.commands import CommandFailed, Result
from agent_image.agent.journal import log
from core.domain.environment import ModelAccess
from core.domain.wire import CommandFault, RunTask

# Read by browser-use when it is imported: nothing is sent home, asked for, or downloaded.
_SWITCHES = {
    "ANONYMIZED_TELEMETRY": "false",
    "BROWSER_USE_CLOUD_SYNC": "false",
    "BROWSER_USE_VERSION_CHECK": "false",
    "BROWSER_USE_CLOUD_HINTS": "false",
    "BROWSER_USE_CALCULATE_COST": "false",
    "BROWSER_USE_DISABLE_EXTENSIONS": "1",
    "SKIP_LLM_API_KEY_VERIFICATION": "true",
    "BROWSER_USE_LOGGING_LEVEL": "result",
    "BROWSER_USE_SETUP_LOGGING": "false",
}
_ATTACH_SECONDS = 40
_DETACH_SECONDS = 4


class TaskRunner:
    """Runs one task at a time. Without a model it is idle and browser-use is never loaded."""

    def __init__(self, model: ModelAccess | None, bridge: Bridge, work: Path) -> None:
        self._model = model
        self._bridge = bridge
        self._work = work
        self._session: Any = None
        self._current: asyncio.Task[Result] | None = None
        self._open: OpenTask | None = None
        self._halt: asyncio.Future[CommandFailed] | None = None
        self._letting_go: asyncio.Task[None] | None = None
        self._loading: asyncio.Future[None] | None = None

    @property
    def running(self) -> bool:
        return self._current is not None

    def preload(self) -> "asyncio.Future[None]":
        """Begin to import browser-use (2 s of CPU) beside everything else; `run` waits for it."""
        if self._loading is not None:
            return self._loading
        loop = asyncio.get_running_loop()
        loading: asyncio.Future[None] = loop.create_future()
        self._loading = loading

        def tell(error: BaseException | None) -> None:
            if loading.done():
                return
            if error is None:
                loading.set_result(None)
            else:
                loading.set_exception(error)
                loading.exception()  # seen here: nobody may ever ask for a task
                log.error("tasks.import_failed", error=repr(error))

        def load() -> None:
            failure: BaseException | None = None
            try:
                _import(self._work)
            except BaseException as error:  # owner: whoever awaits `loading`
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: the agent has left meanwhile
                loop.call_soon_threadsafe(tell, failure)

        # A daemon thread: an agent that is told to stop must not wait for an import.
        threading.Thread(target=load, name="import browser_use", daemon=True).start()
        return loading

    def checkpoint(self) -> dict[str, Any] | None:
        """The running task as far as it got; None when none runs."""
        return None if self._open is None else self._open.told(datetime.now(UTC))

    async def run(self, command_id: str, parameters: RunTask) -> Result:
        """The task's outcome `{"success", "text", "steps", "urls"}`; raises `CommandFailed`."""
        if self._model is None:
            told = "this agent has no model: BERTH_LLM__BASE_URL was not set when it was made"
            raise CommandFailed(CommandFault.NO_MODEL, told)
        if self._current is not None:
            raise CommandFailed(CommandFault.BUSY, "a task is running already")
        self._open = OpenTask(command_id, parameters, datetime.now(UTC))
        run = asyncio.create_task(self._run(self._open, self._model), name="browser-use task")
        self._current, self._halt = run, asyncio.get_running_loop().create_future()
        try:
            first: set[asyncio.Future[Any]] = {run, self._halt}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self._halt.done():
                raise self._halt.result()
            return run.result()
        finally:
            if not run.done():
                # Cut off in the middle of something: what it leaves is not used again, and is let go behind us.
                run.cancel()
                self._letting_go = asyncio.create_task(self._let_run_go(run), name="let browser-use go")
            self._current = self._halt = self._open = None

    def stop(self, fault: CommandFault, detail: str) -> bool:
        """End the running task with `fault`; False when none runs."""
        if self._halt is None or self._halt.done():
            return False
        self._halt.set_result(CommandFailed(fault, detail))
        return True

    def browser_gone(self, fault: CommandFault, detail: str) -> None:
        """End the running task with `fault`; the next one attaches to whatever browser is there then."""
        self.stop(fault, detail)
        if self._current is None and self._session is not None and not self._is_letting_go():
            self._letting_go = asyncio.create_task(self._detach(), name="let browser-use go")

    async def close(self) -> None:
        """End the running task and let the browser go."""
        self.stop(CommandFault.SHUTTING_DOWN, "the agent is stopping")
        await self._let_go()
        await self._detach()

    async def _let_run_go(self, run: "asyncio.Task[Result]") -> None:
        await asyncio.wait({run}, timeout=_DETACH_SECONDS)
        if run.done() and not run.cancelled() and (error := run.exception()) is not None:
            log.info("tasks.cut_off", error=repr(error)[:300])
        await self._detach()

    def _is_letting_go(self) -> bool:
        return self._letting_go is not None and not self._letting_go.done()

    async def _let_go(self) -> None:
        if self._letting_go is not None:
            await asyncio.wait({self._letting_go}, timeout=2 * _DETACH_SECONDS + 2)
            self._letting_go = None

    async def _run(self, task: OpenTask, model: ModelAccess) -> Result:
        try:
            await asyncio.shield(self.preload())
        except Exception as error:  # whatever stops the import is the task's failure, told to its caller
            raise CommandFailed(CommandFault.TASK_FAILED, f"browser-use cannot be loaded: {error}") from error
        from browser_use import Agent, ChatOpenAI

        agent: Any = Agent(
            task=task.asked.task,
            llm=ChatOpenAI(
                model=model.model, base_url=model.base_url, api_key=model.api_key.get_secret_value(), max_retries=2
            ),
            browser=await self._attached(),
            use_judge=False,
            enable_planning=False,
            message_compaction=False,
            directly_open_url=False,
            enable_signal_handler=False,
            max_failures=3,
            file_system_path=str(self._work / "files"),
        )
        task.agent = agent
        try:
            history = await agent.run(max_steps=task.asked.max_steps)
        except Exception as error:  # whatever browser-use raises is the task's failure, told to its caller
            raise CommandFailed(CommandFault.TASK_FAILED, f"{type(error).__name__}: {error}"[:1500]) from error
        errors = [text for text in history.errors() if text]
        if not history.is_done():
            why = errors[-1] if errors else f"not done after {history.number_of_steps()} steps"
            raise CommandFailed(CommandFault.TASK_FAILED, why[:1500])
        return {
            "success": bool(history.is_successful()),
            "text": (history.final_result() or "")[:100_000],
            "steps": history.number_of_steps(),
            "urls": [url for url in history.urls() if url][-50:],
        }

    async def _attached(self) -> Any:
        await self._let_go()
        if self._session is None:
            from browser_use import Browser

            session = Browser(
                cdp_url=await self._bridge.invite(),
                keep_alive=True,
                headless=False,
                no_viewport=True,
                highlight_elements=False,
                enable_default_extensions=False,
                captcha_solver=False,
                downloads_path=str(self._work / "downloads"),
            )
            try:
                async with asyncio.timeout(_ATTACH_SECONDS):
                    await session.start()
            except Exception as error:  # whatever browser-use raises is the task's failure, told to its caller
                why = f"browser-use could not attach: {type(error).__name__}"
                raise CommandFailed(CommandFault.BROWSER_FAILED, why) from error
            self._session = session
        return self._session

    async def _detach(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        try:
            async with asyncio.timeout(_DETACH_SECONDS):
                await session.stop()
        except Exception as error:  # owner: browser-use's own trouble in letting go must not keep the browser open
            log.warning("tasks.detach_failed", error=repr(error))
        await self._bridge.drop()


class _ToJournal(logging.Handler):
    """browser-use's complaints as events of our log."""

    def emit(self, record: logging.LogRecord) -> None:
        log.warning("browser_use", logger=record.name, message=record.getMessage()[:300])


def _import(work: Path) -> None:
    os.environ.update(_SWITCHES)
    for name in ("browser_use", "bubus", "cdp_use", "BrowserSession"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_ToJournal(logging.ERROR)], False
    os.environ["BROWSER_USE_CONFIG_DIR"] = str(work / "browser-use")
    importlib.import_module("browser_use.tools.service")
    from browser_use import Agent, Browser, ChatOpenAI  # noqa: F401  lazy names: this is what loads them

    with contextlib.suppress(ImportError):
        import anthropic  # noqa: F401  else the first task pays for it

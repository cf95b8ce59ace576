"""What happens to a test whose time is up: a coroutine is cancelled where it waits, and the others still run.

Left to itself, pytest-timeout raises out of whatever callback the event loop is in, also out of a worker's in the
middle of a workflow's step. What a fixture then waits for at its end may never come, and no time limit counts any more.

What does not end either, be it a test that swallows its cancellation or a fixture, ends its process, since nothing in
there can be relied upon. What did not run is noted in pytest's cache ("berth/left") for whoever asks for the rest.
"""

import asyncio
import functools
import inspect
import linecache
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
import pytest_timeout  # type: ignore[import-untyped]

# From a test's limit to the end of its process: a local stack's last look may take a minute, and so may its end.
_UNWINDING_SECONDS = 180.0
_OVER_AT = pytest.StashKey[float]()
_TIMER = pytest.StashKey[threading.Timer]()
_LOOP = pytest.StashKey[asyncio.AbstractEventLoop]()
_ENDED = pytest.StashKey[set[str]]()
_FAILED = pytest.StashKey[set[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("unwinding_seconds", "from a test's limit to the end of its process", default=str(_UNWINDING_SECONDS))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ENDED], config.stash[_FAILED] = set(), set()


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    if not inspect.iscoroutinefunction(getattr(item, "obj", None)):
        return None
    item.stash[_OVER_AT] = time.monotonic() + settings.timeout
    unwinding = float(item.config.getini("unwinding_seconds"))
    # Not where pytest-timeout looks for its own timer: that one it takes back as soon as anything has failed.
    timer = item.stash[_TIMER] = threading.Timer(settings.timeout + unwinding, _give_up, (item, settings))
    timer.daemon = True
    timer.start()
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        if timer := item.stash.get(_TIMER, None):
            timer.cancel()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    over_at = item.stash.get(_OVER_AT, None)
    if over_at is not None and isinstance(item, pytest.Function):
        item.obj = _until(over_at, item.obj, item.stash)
    return (yield)


def _until(over_at: float, test: Callable[..., Awaitable[None]], stash: pytest.Stash) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def limited(*arguments: Any, **named: Any) -> None:
        stash[_LOOP] = asyncio.get_running_loop()
        async with asyncio.timeout(max(over_at - time.monotonic(), 0)) as limit:
            await test(*arguments, **named)
        if limit.expired():
            raise TimeoutError("its time was up, and it took that for something else")

    return limited


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.config.stash[_FAILED].add(item.nodeid)
    elif report.when == "teardown":
        item.config.stash[_ENDED].add(item.nodeid)
    return report


def has_failed(item: pytest.Item) -> bool:
    """Whether its set-up, its body or an end of one of its fixtures has failed so far."""
    return item.nodeid in item.config.stash[_FAILED]


def _give_up(item: pytest.Item, settings: Any) -> None:
    """In a thread of its own, while the test goes on: tell and note what there is, and end the process."""
    if pytest_timeout.is_debugging() and not settings.disable_debugger_detection:
        return
    try:
        _note(item)
        reporter = item.config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            # The only place where what failed before is told.
            reporter.summary_errors()
            reporter.summary_failures()
            reporter.write_line(f"{item.nodeid} did not end when its time was up; its process does")
            for task in _tasks(item):
                reporter.write_line(task)
        _end_children()
    finally:
        pytest_timeout.timeout_timer(item, settings)


def _tasks(item: pytest.Item) -> Iterator[str]:
    """Where each task of the test's loop waits; the stack of the loop's thread shows nothing of that."""
    loop = item.stash.get(_LOOP, None)
    for task in asyncio.all_tasks(loop) if loop is not None else ():
        waiting: Any = task.get_coro()
        yield f"task {task.get_name()}"
        while (frame := getattr(waiting, "cr_frame", None)) is not None:
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
            yield f"  {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}: {line}"
            waiting = waiting.cr_await


def _note(item: pytest.Item) -> None:
    cache = getattr(item.config, "cache", None)
    ended, failed = item.config.stash[_ENDED], item.config.stash[_FAILED] | {item.nodeid}
    if cache is not None:
        cache.set("berth/left", [each.nodeid for each in item.session.items if each.nodeid not in ended | failed])
        cache.set("cache/lastfailed", cache.get("cache/lastfailed", {}) | dict.fromkeys(sorted(failed), True))


def _end_children() -> None:
    """What the tests have started: nobody is left to stop it, and whoever asks again wants the machine."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            child.send_signal(signal.SIGTERM)

"""What happens to a test whose time is up: a coroutine is cancelled where it waits, and the others still run.

Left to itself, pytest-timeout raises out of whatever callback the event loop is in, also out of a worker's in the
middle of a workflow's step. What a fixture then waits for at its end may never come, and no time limit counts any more.

A test that does not end either when it is cancelled ends its process, since nothing in there can be relied upon. What
did not run is noted in pytest's cache ("berth/left") for whoever asks for the rest.
"""

import asyncio
import functools
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
import pytest_timeout  # type: ignore[import-untyped]

# What a cancelled test and its fixtures have to come to their end.
_UNWINDING_SECONDS = 60.0
_OVER_AT = pytest.StashKey[float]()
_ENDED = pytest.StashKey[set[str]]()
_FAILED = pytest.StashKey[set[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ENDED], config.stash[_FAILED] = set(), set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("unwinding_seconds", "from a test's limit to the end of its process", default=str(_UNWINDING_SECONDS))


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    if not inspect.iscoroutinefunction(getattr(item, "obj", None)):
        return None
    item.stash[_OVER_AT] = time.monotonic() + settings.timeout
    unwinding = float(item.config.getini("unwinding_seconds"))
    timer = threading.Timer(settings.timeout + unwinding, _give_up, (item, settings))
    timer.daemon = True
    timer.start()
    item.cancel_timeout = timer.cancel  # type: ignore[attr-defined]  # where pytest-timeout looks for it
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    over_at = item.stash.get(_OVER_AT, None)
    if over_at is not None and isinstance(item, pytest.Function):
        item.obj = _until(over_at, item.obj)
    return (yield)


def _until(over_at: float, test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def limited(*arguments: Any, **named: Any) -> None:
        async with asyncio.timeout(max(over_at - time.monotonic(), 0)):
            await test(*arguments, **named)

    return limited


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.config.stash[_FAILED].add(item.nodeid)
    elif report.when == "teardown":
        item.config.stash[_ENDED].add(item.nodeid)
    return report


def _give_up(item: pytest.Item, settings: Any) -> None:
    """In a thread of its own, while the test goes on: note what is left, tell where it stands, end the process."""
    ended, failed = item.config.stash[_ENDED], item.config.stash[_FAILED] | {item.nodeid}
    if item.config.cache is not None:
        left = [each.nodeid for each in item.session.items if each.nodeid not in ended | failed]
        item.config.cache.set("berth/left", left)
        item.config.cache.set("cache/lastfailed", dict.fromkeys(sorted(failed), True))
    item.config.get_terminal_writer().line(f"\n{item.nodeid} did not end when its time was up; its process does")
    pytest_timeout.timeout_timer(item, settings)

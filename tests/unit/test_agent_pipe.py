"""The agent's end of Chromium's debugging pipe, with a Chromium that says what it is told to."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent_image.agent import pipe
from agent_image.agent.commands import CommandFailed, PageCommands
from agent_image.agent.pipe import AnswerTooLarge, CdpPipe
from core.domain.wire import CommandFault, Screenshot


@asynccontextmanager
async def chromium() -> AsyncIterator[tuple[CdpPipe, int, int]]:
    """An open pipe, and the other end's descriptors: to read what it is asked, and to answer."""
    asked, write_end = os.pipe()
    read_end, answers = os.pipe()
    line = CdpPipe()
    await line.open(read_end, write_end)
    try:
        yield line, asked, answers
    finally:
        os.close(answers)
        await line.close()
        os.close(asked)


async def say(answers: int, *messages: dict[str, Any]) -> None:
    data = b"".join(json.dumps(each, separators=(",", ":")).encode() + b"\0" for each in messages)
    await asyncio.to_thread(os.write, answers, data)


@pytest.mark.parametrize("size", [1_001, 2_500, 60_000])
async def test_answer_that_is_too_large_fails_its_caller_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(pipe, "_MAX_MESSAGE_BYTES", 1_000)
    async with chromium() as (line, _, answers):
        picture = asyncio.create_task(line.call("Page.captureScreenshot", session="s-1"))
        version = asyncio.create_task(line.call("Browser.getVersion"))
        await asyncio.sleep(0)
        huge = {"data": "x" * size}
        await say(
            answers,
            {"id": 1, "result": huge, "sessionId": "s-1"},
            {"method": "Page.told", "params": huge},
            {"id": 2, "result": {"product": "Chromium"}},
        )
        with pytest.raises(AnswerTooLarge):
            await picture
        assert await version == {"product": "Chromium"}
        assert not line.closed.is_set(), "the browser would end"


class _Page:
    """A tab, and all the tabs there are, of which the picture is too large."""

    loss, crashed, epoch, commanding = None, False, 1, 0
    dialogs: tuple[str, ...] = ()

    async def active(self) -> "_Page":
        return self

    def dismiss_dialog(self, tab: "_Page") -> None:
        pass

    async def call(self, method: str, params: object = None, *, timeout: float = 20) -> dict[str, Any]:
        if method == "Page.captureScreenshot":
            raise AnswerTooLarge(f"{method}: the answer is over 256 MiB")
        return {"cssContentSize": {"width": 5000, "height": 16000}}


async def test_picture_that_is_too_large_is_told_as_that() -> None:
    page: Any = _Page()
    with pytest.raises(CommandFailed) as failed:
        await PageCommands(page, page).run(Screenshot(full_page=True))
    assert failed.value.fault is CommandFault.RESULT_TOO_LARGE

"""What pages make the browser download, within the room that an agent has for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.dev.demo.model import ScriptedModel, say
from tests.agent import running
from tests.agent.backend import Backend
from tests.agent.running import eventually
from tests.agent.site import listening

pytestmark = pytest.mark.needs("agent")

MIB = 1 << 20


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """`/N/name` is a file of N MiB, `/endless/name` one that never ends."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, size, name = (await reader.readline()).decode().split(" ")[1].split("/")
        kind = f"Content-Disposition: attachment; filename={name}\r\nContent-Type: application/octet-stream"
        with contextlib.suppress(ConnectionError):
            writer.write(f"HTTP/1.1 200 OK\r\nConnection: close\r\n{kind}\r\n\r\n".encode())
            left = float("inf") if size == "endless" else int(size)
            while left > 0:
                writer.write(bytes(MIB))
                await writer.drain()
                left -= 1
        writer.close()

    async with listening(answer) as origin:
        yield origin


def held(folder: Path) -> dict[str, int]:
    """Files and their MiB."""
    return {path.name: path.stat().st_size // MIB for path in folder.iterdir()}


def has(name: str, seen: dict[str, int]) -> bool:
    return seen.get(name) == 8


async def test_oldest_downloads_go_for_newer_ones(backend: Backend, site: str) -> None:
    async with running.started(backend, AGENT_DOWNLOADS_MIB="20") as agent:
        folder = agent.home / "work" / "downloads"
        for name in ("first", "second", "third", "fourth"):
            await agent.post("navigate", url=f"{site}/8/{name}")
            await eventually(lambda: asyncio.to_thread(held, folder), partial(has, name))
        await eventually(lambda: asyncio.to_thread(held, folder), lambda seen: seen == {"third": 8, "fourth": 8})


async def test_download_that_never_ends_is_cancelled_and_the_agent_works_on(backend: Backend, site: str) -> None:
    async with running.started(backend, AGENT_DOWNLOADS_MIB="20") as agent:
        folder = agent.home / "work" / "downloads"
        await agent.post("navigate", url=f"{site}/endless/flood")
        told = await backend.status("download_cancelled", 30)
        assert told["detail"] == "flood is larger than the 20 MiB there are"
        await eventually(lambda: asyncio.to_thread(held, folder), lambda seen: seen == {})
        await agent.post("navigate", url=f"{site}/8/after")
        await eventually(lambda: asyncio.to_thread(held, folder), lambda seen: seen == {"after": 8})


async def test_downloads_after_a_task_was_cut_off_are_bounded_and_kept_like_any(backend: Backend, site: str) -> None:
    forever = [say({"wait": {"seconds": 3}})] * 100
    with ScriptedModel({"": [say({"navigate": {"url": f"{site}/8/during"}}), *forever]}) as model:
        access: dict[str, Any] = {"LLM_BASE_URL": model.base_url, "LLM_MODEL": "scripted", "LLM_API_KEY": "key"}
        async with running.started(backend, AGENT_DOWNLOADS_MIB="20", **access) as agent:
            folder = agent.home / "work" / "downloads"
            task = asyncio.create_task(agent.post("run_task", timeout=60, task="wait"))
            await eventually(lambda: asyncio.to_thread(held, folder), partial(has, "during"), 40)
            assert await agent.execute("stop_task") == {"stopped": True}
            assert (await task).json()["code"] == "cancelled"
            await eventually(lambda: asyncio.to_thread(agent.log.read_text), lambda text: "bridge.user_gone" in text)
            for name in ("first", "second", "third"):
                await agent.post("navigate", url=f"{site}/8/{name}")
                await eventually(lambda: asyncio.to_thread(held, folder), partial(has, name))
            await eventually(lambda: asyncio.to_thread(held, folder), lambda seen: seen == {"second": 8, "third": 8})
            assert not (agent.home / "work" / "Downloads").exists()

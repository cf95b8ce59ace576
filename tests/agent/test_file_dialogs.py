"""Whose files a page may be given: the agent's own, by a program, and none of the machine's, by a person."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent_image.agent.preferences import set_file_dialogs
from core.dev.demo.model import ScriptedModel, done, element, say
from tests.agent import running
from tests.agent.backend import Backend
from tests.agent.site import listening
from tests.agent.vnc import viewing

# Its title says what became of the last choice: the beginning of the file that was chosen, or that there was none.
PAGE = b"""<!doctype html><title>none</title>
<style>input { position: fixed; inset: 0; width: 100vw; height: 100vh; font-size: 80px }</style>
<input type=file id=f oncancel="document.title = 'cancelled'"
 onchange="document.title = 'chosen'; this.files[0].text().then(text => document.title = text.slice(0, 50))">"""


@pytest.fixture
async def page() -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: {len(PAGE)}\r\n\r\n"
        writer.write(head.encode() + PAGE)
        await writer.drain()
        writer.close()

    async with listening(answer) as origin:
        yield f"{origin}/"


@pytest.mark.needs("agent")
async def test_person_with_the_mouse_cannot_choose_files_of_the_machine(backend: Backend, page: str) -> None:
    async with running.started(backend) as agent:
        await agent.execute("navigate", url=page)
        async with viewing(agent, "control") as viewer:
            await viewer.settle()
            await viewer.click(200, 400)
            await viewer.settle()
            await agent.becomes(lambda state: state["title"] == "cancelled")


def titled(title: str, state: dict[str, Any]) -> bool:
    return bool(state["title"] == title)


@pytest.mark.needs("agent")
async def test_task_uploads_what_it_downloaded_or_wrote_and_nothing_else(backend: Backend, page: str) -> None:
    """Whatever a page talks its model into: neither the machine's files nor the profile with its cookies."""
    chosen = [""]
    script = [
        say({"navigate": {"url": page}}),
        lambda state: [{"upload_file": {"index": element(state, "<input"), "path": chosen[-1]}}],
        done("tried"),
    ]
    with ScriptedModel({"": script}) as model:
        access: dict[str, Any] = {"LLM_BASE_URL": model.base_url, "LLM_MODEL": "scripted", "LLM_API_KEY": "key"}
        async with running.started(backend, **access) as agent:
            work, secret = agent.home / "work", agent.home / "profile" / "secret.txt"
            secret.write_text("a cookie")
            secret.chmod(0o644)
            (work / "downloads" / "bill.txt").write_text("downloaded")
            (work / "files" / "note.txt").write_text("written")
            (work / "downloads" / "link.txt").symlink_to("/etc/passwd")
            tried = {
                str(work / "downloads" / "bill.txt"): "downloaded",
                str(work / "files" / "note.txt"): "written",
                "/etc/passwd": "none",
                str(secret): "none",
                f"{work}/downloads/../../profile/secret.txt": "none",
                str(work / "downloads" / "link.txt"): "none",
            }
            for path, title in tried.items():
                chosen.append(path)
                assert (await agent.execute("run_task", timeout=90, task="upload"))["success"] is True
                # What was chosen is known at once, what is in it a moment later.
                assert ((await agent.execute("state"))["title"] == "none") == (title == "none"), path
                await agent.becomes(partial(titled, title))


@pytest.mark.parametrize(
    "before", [None, "{broken", "[]", '{"browser": {"kept": 1}}', '{"select_file_dialogs": {"allowed": true}}']
)
def test_rest_of_the_browsers_file_stays_as_it_was(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "Local State"
    if before is not None:
        path.write_text(before)
    set_file_dialogs(tmp_path, allowed=False)
    state = json.loads(path.read_text())
    assert state.pop("select_file_dialogs") == {"allowed": False}
    assert state == ({"browser": {"kept": 1}} if before and "kept" in before else {})
    assert [each.name for each in tmp_path.iterdir()] == ["Local State"]

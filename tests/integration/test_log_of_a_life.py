"""The log of a real stack: whose life a line is about can be read from the line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.stack import local_stack


def lines_of(folder: Path, part: str) -> list[dict[str, Any]]:
    found = []
    for path in sorted((folder / "logs").glob(f"{part}*")):
        for line in path.read_text().splitlines():
            if line.startswith("{"):
                found.append(json.loads(line))
    assert found, f"{part} has logged nothing"
    return found


@pytest.mark.timeout(300)
async def test_every_line_of_a_life_names_agent_and_attempt(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with local_stack(folder, LOG_JSON="true", TIMINGS__RESTART_BACKOFF_SECONDS="0.1") as stack:
        ann = await stack.user("ann", "shop")
        agent_id = await ann.start("shop")
        await ann.until(agent_id, "running")
        assert (await ann.ask("POST", f"/api/agents/{agent_id}/restart")).status_code == 202
        await ann.until(agent_id, "restarting", "starting")
        await ann.until(agent_id, "running")
        await ann.stop(agent_id, 0)
        await ann.until(agent_id, "terminated")
        await ann.ask("GET", f"/api/agents/{'x' * 300}")
        await stack.sound()
    of_lives = [line for line in lines_of(folder, "worker") if line["event"].startswith("agent.")]
    assert {line.get("agent_id") for line in of_lives} == {agent_id}
    moves = [(line["attempt"], line["state"]) for line in of_lives if line["event"] in ("agent.came", "agent.moved")]
    assert moves == [
        (1, "starting"),
        (1, "running"),
        (1, "restarting"),
        (2, "starting"),
        (2, "running"),
        (2, "draining"),
        (2, "terminated"),
    ]
    requests = [line for line in lines_of(folder, "api") if line["event"] == "api.request"]
    about = [line for line in requests if "{agentId}" in line["route"] or line["route"].endswith("/start-agent")]
    assert {line["agent_id"] for line in about} == {agent_id, "x" * 100}
    assert not [line for line in requests if line not in about and "agent_id" in line]

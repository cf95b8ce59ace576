"""What the lines of an activity carry, also those that other libraries write on its behalf."""

import logging
from typing import Any

import pytest
from structlog.contextvars import get_contextvars

from core.domain.lifecycle import AgentState
from core.runtime.base import AgentSpec, Created, Usage
from tests.fixtures.stage import Stage


class Noted(logging.Handler):
    """What each record of a logger was written with."""

    def __init__(self) -> None:
        super().__init__()
        self.bound: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.bound.append(get_contextvars())


async def test_work_at_a_runtime_is_bound_to_its_agent_and_so_is_the_line_of_its_failure(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, bound, noted = stage.runtime.create, list[dict[str, Any]](), Noted()

    async def failing_once(spec: AgentSpec) -> Created:
        bound.append(get_contextvars())
        if len(bound) == 1:
            raise OSError("nobody expects this")
        return await create(spec)

    monkeypatch.setattr(stage.runtime, "create", failing_once)
    logger = logging.getLogger("temporalio.activity")
    logger.addHandler(noted)
    try:
        agent_id = await stage.started()
    finally:
        logger.removeHandler(noted)
    life = {"agent_id": agent_id, "attempt": 1}
    assert bound == [life, life]
    assert noted.bound == [life]
    await stage.stop(agent_id)
    await stage.until(agent_id, AgentState.TERMINATED)


async def test_two_lives_at_once_do_not_take_each_others_names(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    delete, bound = stage.runtime.delete, dict[str, Any]()

    async def remembered(agent_id: str, attempt: int, grace: float = 0) -> Usage:
        usage = await delete(agent_id, attempt, grace)
        bound[agent_id] = get_contextvars().get("agent_id")
        return usage

    monkeypatch.setattr(stage.runtime, "delete", remembered)
    agents = [await stage.started("ann", "shop"), await stage.started("bob", "bank")]
    for agent_id in agents:
        await stage.stop(agent_id, grace_seconds=0)
    for agent_id in agents:
        await stage.until(agent_id, AgentState.TERMINATED)
    assert bound == {agent_id: agent_id for agent_id in agents}
    assert get_contextvars().get("agent_id") is None

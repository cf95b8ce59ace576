"""Ids as outside systems have them: with slashes, in any script, as long as they may be."""

import pytest

from core.domain.lifecycle import AgentState
from core.ids import MAX_ID_BYTES, keyword
from tests.fixtures.stage import Stage
from workflows.options import AGENT_PROJECT, AGENT_USER


async def test_slashes_do_not_make_two_lives_one(stage: Stage) -> None:
    one, two = await stage.started("a/b", "c"), await stage.started("a", "b/c")
    assert one != two
    await stage.stop(one)
    await stage.until(one, AgentState.TERMINATED)
    assert (await stage.agent(two)).state is AgentState.RUNNING
    assert (await stage.start("a", "b/c")).agent_id == two


@pytest.mark.parametrize(
    "name",
    [
        "x" * MAX_ID_BYTES,
        "ü" * (MAX_ID_BYTES // 2),
        "船" * (MAX_ID_BYTES // 3),
        "🚢" * (MAX_ID_BYTES // 4),
        "%2F'\"\\ ;--",
    ],
    ids=["ascii", "umlauts", "kanji", "emoji", "punctuation"],
)
async def test_longest_ids_of_any_script_live_a_whole_life(stage: Stage, name: str) -> None:
    agent_id = await stage.started(name, name)
    described = await stage.workflow(name, name).describe()
    assert described.typed_search_attributes[AGENT_USER] == keyword(name)
    assert described.typed_search_attributes[AGENT_PROJECT] == keyword(name)
    await stage.fail(agent_id)
    await stage.until(agent_id, AgentState.RESTARTING)
    await stage.until(agent_id, AgentState.RUNNING)
    await stage.stop(agent_id)
    await stage.nothing_left()


async def test_two_long_names_that_differ_at_their_end_are_two_lives(stage: Stage) -> None:
    long = "船" * 80
    one, two = await stage.started("ann", f"{long}一"), await stage.started("bob", f"{long}二")
    assert stage.workflow("ann", f"{long}一").id != stage.workflow("ann", f"{long}二").id
    assert one != two

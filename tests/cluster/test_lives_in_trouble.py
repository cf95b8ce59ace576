"""Lives on real pods while their node or the cluster's API server is gone: none lost, none doubled, all told."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.fixtures.cluster import Kubectl
from tests.fixtures.kubernetes import Land
from tests.fixtures.stack import LocalStack, Person, eventually

pytestmark = [pytest.mark.needs("cluster"), pytest.mark.timeout(600)]
PATIENCE = 240
_LOOK_EVERY = 0.5


@pytest.fixture(scope="module")
def land(lands: Any) -> Land:
    """Of all tests here: a stack takes longer to start than most of them."""
    made: Land = lands()
    return made


@pytest_asyncio.fixture(scope="module")
async def stack(land: Land, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStack]:
    async with land.stack(
        tmp_path_factory.mktemp("trouble"), land.template(), READY_DEADLINE_SECONDS=PATIENCE
    ) as stack:
        yield stack


async def running(stack: LocalStack, user_id: str) -> tuple[Person, str]:
    person = await stack.user(user_id, f"of-{user_id}")
    agent_id = await person.start(f"of-{user_id}")
    await person.until(agent_id, "running", patience=PATIENCE)
    return person, agent_id


def pods(land: Land) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(land.kubectl("get", "pods", "-l", "app=agent", "-o", "json"))["items"]
    return found


async def test_agent_of_a_node_whose_kubelet_was_killed_goes_on_on_the_other_node(
    stack: LocalStack, land: Land
) -> None:
    ann, agent_id = await running(stack, "ann")
    (before,) = pods(land)
    lost = before["spec"]["nodeName"]
    land.cluster.stop_kubelet(lost)
    try:

        async def again() -> bool:
            return (await ann.kinds(agent_id)).count("ready") == 2

        await eventually(again, "the agent to be ready again", patience=PATIENCE)
        agent = await ann.agent(agent_id)
        assert (agent["state"], agent["restartCount"]) == ("running", 0), "a lost host costs no restart"
        (told,) = [event for event in await ann.events(agent_id) if event["kind"] == "agent.restarting"]
        assert told["reason"] == "host_lost"
        assert lost in told["detail"]["detail"]
        (after,) = pods(land)
        assert after["spec"]["nodeName"] != lost
        attempts = [pod["metadata"]["annotations"]["berth.dev/attempt"] for pod in (before, after)]
        assert attempts == ["1", "2"]
    finally:
        land.cluster.start_kubelet(lost)
    admin = Kubectl(land.cluster)
    admin("wait", "node", lost, "--for=condition=Ready", f"--timeout={PATIENCE}s")

    async def cleared() -> bool:
        return not land.containers(lost, before["metadata"]["name"])

    await eventually(cleared, "the container of the first attempt to end with its node's return", patience=PATIENCE)
    await ann.stop(agent_id)
    await ann.until(agent_id, "terminated", patience=PATIENCE)
    assert land.names() == []


@pytest.mark.parametrize("seconds", [pytest.param(10, id="10 s"), pytest.param(60, id="60 s", marks=pytest.mark.chaos)])
async def test_lives_go_on_when_the_api_server_comes_back(stack: LocalStack, land: Land, seconds: int) -> None:
    ann, stays = await running(stack, f"ann-{seconds}")
    ben, goes = await running(stack, f"ben-{seconds}")
    eve = await stack.user(f"eve-{seconds}", "of-eve")
    land.cluster.stop_api_server()
    try:
        comes = await eve.start("of-eve")
        await ben.stop(goes)
        await eve.until(comes, "starting")
        await ben.until(goes, "draining")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            states = [(await who.agent(which))["state"] for who, which in ((ann, stays), (ben, goes), (eve, comes))]
            assert states == ["running", "draining", "starting"]
            await asyncio.sleep(_LOOK_EVERY)
    finally:
        land.cluster.start_api_server()
    assert (await eve.until(comes, "running", "failed", patience=PATIENCE))["state"] == "running"
    assert (await ben.until(goes, "terminated", patience=PATIENCE))["restartCount"] == 0
    for who, which in ((ann, stays), (eve, comes)):
        agent = await who.agent(which)
        assert (agent["state"], agent["restartCount"]) == ("running", 0), await who.events(which)
    assert sorted(pod["metadata"]["annotations"]["berth.dev/agent-id"] for pod in pods(land)) == sorted([stays, comes])
    for who, which in ((ann, stays), (eve, comes)):
        await who.stop(which)
        await who.until(which, "terminated", patience=PATIENCE)
    assert land.names() == []

"""What administrators change of an agent that runs: its size, and the machine it is on."""

from typing import Any

import httpx2
import pytest

from api.auth import Role
from core.domain.lifecycle import AgentState
from core.domain.orders import OrderAnswer, Verdict
from core.domain.sizes import Size
from core.domain.templates import Resources, Template
from core.errors import Unavailable
from core.settings import Settings
from tests.fixtures.api import Api

BOTH = {"resize": {"memory": "2Gi"}, "migrate": None}


async def order(api: Api, agent_id: str, what: str, body: Any = None) -> httpx2.Response:
    return await api.ask("POST", f"/api/admin/agents/{agent_id}/{what}", "admin", role=Role.ADMIN, json=body)


async def test_admin_gives_a_running_agent_other_limits_and_what_is_not_said_stays(api: Api) -> None:
    agent_id = await api.running()
    answer = await order(api, agent_id, "resize", {"cpu": "1500m", "memory": "2Gi"})
    assert (answer.status_code, answer.json()["agentId"], answer.json()["state"]) == (202, agent_id, "running")
    await order(api, agent_id, "resize", {"memory": "1536Mi"})
    await api.sql("UPDATE agents SET cpu_limit = 3, memory_limit_mib = 3000 RETURNING agent_id")
    await order(api, agent_id, "resize", {"cpu": "2"})
    assert api.lives.sizes == [
        Size(cpu=1.5, memory_mib=2048), Size(cpu=1.0, memory_mib=1536), Size(cpu=2, memory_mib=3000),
    ]  # fmt: skip


async def test_admin_moves_a_running_agent(api: Api) -> None:
    agent_id = await api.running()
    answer = await order(api, agent_id, "migrate")
    assert (answer.status_code, answer.json()["agentId"]) == (202, agent_id)
    assert api.lives.orders["migrate"] == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"cpu": None}, "invalid_request"),
        ({"cpu": "many"}, "invalid_request"),
        ({"cpu": "-1"}, "invalid_request"),
        ({"cpu": 2}, "invalid_request"),
        ({"memory": "2 Gi"}, "invalid_request"),
        ({"memory": "2Gi", "disk": "1Gi"}, "invalid_request"),
        ({"cpu": "0"}, "size_out_of_range"),
        ({"memory": "0Gi"}, "size_out_of_range"),
        ({"cpu": "499m"}, "size_out_of_range"),
        ({"memory": "511Mi"}, "size_out_of_range"),
        ({"memory": "2"}, "size_out_of_range"),
        ({"cpu": "5"}, "size_out_of_range"),
        ({"memory": "9Gi"}, "size_out_of_range"),
        ({"memory": "999999999999999Ti"}, "size_out_of_range"),
    ],
)
async def test_size_that_makes_no_sense_is_refused_before_anybody_is_asked(
    api: Api, body: dict[str, Any], code: str
) -> None:
    agent_id = await api.running()
    answer = await order(api, agent_id, "resize", body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert not api.lives.sizes


@pytest.fixture
def settings(settings: Settings) -> Settings:
    most = Template(resources=Resources(cpu_most=4, memory_most_mib=8192))
    return settings.model_copy(update={"templates": {"default": most}})


@pytest.mark.parametrize("what", BOTH)
async def test_neither_its_user_nor_a_stranger_may_change_an_agent(api: Api, what: str) -> None:
    agent_id = await api.running()
    for path in (agent_id, "ag-none"):
        for user in ("owner", "stranger"):
            refused = await api.ask("POST", f"/api/admin/agents/{path}/{what}", user, json=BOTH[what])
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    nobody = await api.http.post(f"/api/admin/agents/{agent_id}/{what}", json=BOTH[what])
    assert (nobody.status_code, nobody.json()["code"]) == (401, "unauthenticated")
    assert not api.lives.orders[what]
    assert (await order(api, "ag-none", what, BOTH[what])).status_code == 404


@pytest.mark.parametrize("what", BOTH)
async def test_only_an_agent_that_runs_is_changed(api: Api, what: str) -> None:
    starting = (await api.start()).json()["agent"]["agentId"]
    early = await order(api, starting, what, BOTH[what])
    assert (early.status_code, early.json()["code"], early.json()["state"]) == (409, "wrong_state", "starting")
    await api.lives.run(starting)
    await api.lives.end(starting)
    late = await order(api, starting, what, BOTH[what])
    assert (late.status_code, late.json()["state"]) == (409, "terminated")
    assert not api.lives.orders[what]


@pytest.mark.parametrize("what", BOTH)
@pytest.mark.parametrize(
    ("verdict", "state", "status", "code"),
    [
        (Verdict.WRONG_STATE, AgentState.DRAINING, 409, "wrong_state"),
        (Verdict.REFUSED, AgentState.RUNNING, 409, "order_refused"),
        (Verdict.UNAVAILABLE, AgentState.RUNNING, 503, "runtime_unavailable"),
        (Verdict.TOO_LARGE, AgentState.RUNNING, 422, "size_out_of_range"),
        (Verdict.PENDING, AgentState.RUNNING, 202, None),
    ],
)
async def test_what_its_life_says_is_what_is_answered(
    api: Api, what: str, verdict: Verdict, state: AgentState, status: int, code: str | None
) -> None:
    agent_id = await api.running()
    api.lives.verdict = OrderAnswer(verdict=verdict, state=state, detail="node-2 has no room for it")
    answer = await order(api, agent_id, what, BOTH[what])
    assert (answer.status_code, answer.json().get("code")) == (status, code)
    if status in {422, 503} or code == "order_refused":
        assert answer.json()["detail"] == "node-2 has no room for it"
    if status == 409:
        assert answer.json()["state"] == state


@pytest.mark.parametrize("what", BOTH)
async def test_order_that_nobody_takes_is_to_be_given_again(api: Api, what: str) -> None:
    agent_id = await api.running()
    api.lives.away = Unavailable("no worker has answered yet", code="worker_silent")
    answer = await order(api, agent_id, what, BOTH[what])
    assert (answer.status_code, answer.json()["code"]) == (503, "worker_silent")
    assert answer.headers["retry-after"]

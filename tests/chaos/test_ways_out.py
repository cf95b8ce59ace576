"""Every command that docs/operations.md gives an operator for agents, typed as it stands there, in every state."""

import asyncio
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowExecutionStatus

from tests.fixtures.guide import Typist, commands
from tests.fixtures.receivers import SECRET, Backend, Mailbox
from tests.fixtures.stack import LocalStack, Person, eventually, local_stack

pytestmark = pytest.mark.timeout(240)

SECTION = "Agents"
_BRIEF = {"shutdown_seconds": 2, "restart_backoff_seconds": 0}
# One for each state: what stays in it until somebody does something.
TEMPLATES: dict[str, dict[str, Any]] = {
    "steady": {"timings": _BRIEF},
    "slow": {"simulation": {"never_ready": True}, "timings": {**_BRIEF, "ready_deadline_seconds": 600}},
    "frail": {"simulation": {"exit_after_seconds": 1}, "timings": {**_BRIEF, "restart_backoff_seconds": 600}},
    "doomed": {"simulation": {"exit_after_seconds": 0.3}, "timings": _BRIEF},
    "crowded": {},
    "elsewhere": {},
}
POOLS = {
    "full": {"runtime": "memory", "template": "crowded", "capacity": 0},
    "other": {"runtime": "memory", "template": "elsewhere"},
}
STATES = {"queued": "crowded", "starting": "slow", "running": "steady", "restarting": "frail", "draining": "steady"}

STOP_NOW = """temporal workflow signal -w agent/USER/PROJECT --name stop --input '{"grace_seconds": 0}'"""
FORCE = """temporal workflow signal -w agent/USER/PROJECT --name stop --input '{"reason":"maintenance","force":true}'"""
TERMINATE = "temporal workflow terminate -w agent/USER/PROJECT --reason stuck"
END = "berth agents terminate AGENT --force --wait"
ABANDON = "berth agents terminate AGENT --abandon --wait"
# What ends an agent in whatever state, and the reason that its user reads then.
ENDS = {
    END: "operator",
    ABANDON: "operator",
    STOP_NOW: "operator",
    FORCE: "maintenance",
    "temporal workflow signal -w agent/USER/PROJECT --name abandon": "operator",
    "temporal workflow cancel -w agent/USER/PROJECT": "workflow_cancelled",
    TERMINATE: "workflow_gone",
}
TO_THE_FIRST = "temporal workflow reset -w agent/USER/PROJECT --type FirstWorkflowTask --reason stuck"
TO_THE_LAST = "temporal workflow reset -w agent/USER/PROJECT --type LastWorkflowTask --reason stuck"
# Where an agent is, or gets by itself, after each reset.
MENDS = {
    TO_THE_FIRST: {**{state: state for state in STATES}, "draining": "terminated"},
    TO_THE_LAST: {state: state for state in STATES},
}
LOOKS = (
    "temporal workflow describe -w agent/USER/PROJECT",
    "temporal workflow show -w agent/USER/PROJECT",
)
LIST = "berth agents list --everyone"
WARN = "berth agents terminate AGENT"
WARN_BRIEFLY = "berth agents terminate AGENT --reason maintenance --grace 60"
REAP = "temporal schedule trigger --schedule-id berth-reaper"
SHOW = "berth agents show AGENT"
RESTART = "berth agents restart AGENT"
START = "berth agents start PROJECT"
START_OTHER = "berth agents start PROJECT --template TEMPLATE"
OTHERS = {
    "terminate": [
        "temporal workflow terminate -w pool/default --reason stuck",
        "temporal workflow terminate -w notices/webhook --reason stuck",
    ],
    "reset": [
        "temporal workflow reset -w pool/default --type FirstWorkflowTask --reason stuck",
        "temporal workflow reset -w notices/webhook --type LastWorkflowTask --reason stuck",
    ],
}


@dataclass
class Office:
    """An operator's desk at a running Berth, and its user ann, who may have as many agents as there are tries."""

    stack: LocalStack
    operator: Typist
    ann: Person
    backend: Backend
    mailbox: Mailbox
    _given: int = 0

    def project(self) -> str:
        """One that nobody has used yet."""
        self._given += 1
        return f"p{self._given}"

    async def start(self, project: str, template: str) -> str:
        return await self.ann.start(project, template=template)

    async def agent_in(self, state: str, project: str) -> str:
        """A new agent of ann's, in that state and staying there."""
        agent_id = await self.start(project, STATES[state])
        if state == "draining":
            await self.ann.until(agent_id, "running")
            await self.ann.stop(agent_id, grace=600)
        await self.ann.until(agent_id, state)
        return agent_id

    async def say(self, line: str, agent_id: str, project: str) -> str:
        return await self.operator.type(line, agent=agent_id, user="ann", project=project)

    async def settled(self, workflow_id: str) -> None:
        """Its workflow has no decision to make: what was done to it has had its effect."""
        client = await Client.connect(str(self.stack.about["temporal"]))

        async def quiet() -> bool:
            run = await client.get_workflow_handle(workflow_id).describe()
            return not run.raw_description.HasField("pending_workflow_task")

        await eventually(quiet, f"{workflow_id} to be settled")

    async def runs(self, workflow_id: str) -> bool:
        client = await Client.connect(str(self.stack.about["temporal"]))
        return (await client.get_workflow_handle(workflow_id).describe()).status is WorkflowExecutionStatus.RUNNING

    async def last_words(self, agent_id: str) -> str:
        return str((await self.ann.events(agent_id))[-1]["detail"].get("detail"))


@pytest_asyncio.fixture(scope="module")
async def office(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Office]:
    folder = tmp_path_factory.mktemp("office")
    config = folder / "berth.yaml"
    config.write_text(json.dumps({"templates": TEMPLATES, "pools": POOLS}))
    backend, mailbox = Backend(), Mailbox()
    await backend.up()
    await mailbox.up()
    async with AsyncExitStack() as receivers:
        receivers.push_async_callback(backend.down)
        receivers.push_async_callback(mailbox.down)
        stack = await receivers.enter_async_context(
            local_stack(
                folder / "data",
                CONFIG=str(config),
                TIERS__ENTERPRISE="200",
                TIMINGS__REAP_SECONDS="2",
                TIMINGS__GRANT_TICK_SECONDS="2",
                TIMINGS__SNAPSHOT_SECONDS="0.5",
                THRESHOLDS__CPU_PERCENT="100",
                WEBHOOK__URL=backend.url,
                WEBHOOK__SECRETS=SECRET,
                WEBHOOK__ALLOW_PRIVATE="true",
                SMTP__HOST="127.0.0.1",
                SMTP__PORT=str(mailbox.port),
                SMTP__FROM="berth@example.org",
            )
        )
        root = await stack.user("root", admin=True)
        ann = await stack.user("ann", *(f"p{number}" for number in range(1, 100)), tier="enterprise")
        yield Office(stack, Typist(stack, root.token), ann, backend, mailbox)


async def test_every_state_can_be_left_by_every_command_that_ends_an_agent(office: Office) -> None:
    ann, at_once = office.ann, asyncio.Semaphore(6)

    async def end(state: str, line: str, reason: str) -> None:
        project = office.project()
        async with at_once:
            agent_id = await office.agent_in(state, project)
            await office.say(line, agent_id, project)
        ended = await ann.until(agent_id, "terminated", "cancelled")
        assert (ended["state"] == "cancelled") == (state == "queued"), (state, line, ended)
        # One that is told to go already goes for the reason that it was told first.
        told = "user_requested" if state == "draining" and line != TERMINATE else reason
        assert ended["reason"] == told, (state, line, ended)

    async with asyncio.TaskGroup() as tries:
        for state, (line, reason) in itertools.product(STATES, ENDS.items()):
            tries.create_task(end(state, line, reason))
    await office.stack.sound()


@pytest.mark.chaos
async def test_agent_that_was_reset_in_any_state_is_where_it_was_and_ends_as_any_other(office: Office) -> None:
    at_once = asyncio.Semaphore(4)

    async def mend(state: str, line: str, expected: str) -> str:
        project = office.project()
        async with at_once:
            agent_id = await office.agent_in(state, project)
            for each in (*LOOKS, line):
                await office.say(each, agent_id, project)
            await office.settled(f"agent/ann/{project}")
        await office.ann.until(agent_id, expected)
        if state == "running":
            assert await office.ann.kinds(agent_id) == ["requested", "queued", "admitted", "starting", "ready"]
        return agent_id

    async with asyncio.TaskGroup() as tries:
        tasks = [
            tries.create_task(mend(state, line, there[state])) for line, there in MENDS.items() for state in STATES
        ]
    mended = [task.result() for task in tasks]
    await office.stack.sound()
    for agent_id in mended:
        if (await office.ann.agent(agent_id))["endedAt"] is None:
            await office.ann.stop(agent_id, grace=0)
    for agent_id in mended:
        await office.ann.until(agent_id, "terminated", "cancelled")
    # Over is over, however it is reset.
    project = office.project()
    over = await office.agent_in("running", project)
    await office.ann.stop(over)
    await office.ann.until(over, "terminated")
    for line in MENDS:
        await office.say(line, over, project)
        await eventually(lambda: _not(office.runs(f"agent/ann/{project}")), "the reset run to end")
    await office.stack.sound()


@pytest.mark.chaos
async def test_agent_that_is_reset_while_it_saves_or_is_made_loses_neither_time_nor_attempt(office: Office) -> None:
    saving, starting = office.project(), office.project()
    agent_id, other = await office.agent_in("running", saving), await office.start(starting, "steady")
    await office.ann.stop(agent_id)
    await office.say(TO_THE_LAST, agent_id, saving)
    await office.say(TO_THE_LAST, other, starting)
    assert (await office.ann.until(agent_id, "terminated"))["reason"] == "user_requested"
    assert (await office.ann.until(other, "running"))["restartCount"] == 0
    await office.ann.stop(other)
    await office.ann.until(other, "terminated")


@pytest.mark.chaos
async def test_warned_by_the_command_line_with_the_reason_and_the_grace_that_were_given(office: Office) -> None:
    plain, told = office.project(), office.project()
    first, second = await office.agent_in("running", plain), await office.agent_in("running", told)
    assert first in await office.operator.type(LIST)
    await office.say(WARN, first, plain)
    await office.say(WARN_BRIEFLY, second, told)
    reasons = [(await office.ann.until(agent_id, "draining"))["reason"] for agent_id in (first, second)]
    assert reasons == ["operator", "maintenance"]
    for agent_id, project in ((first, plain), (second, told)):
        await office.say(END, agent_id, project)
        assert await office.operator.type(WARN, code=3, agent=agent_id) == ""


@pytest.mark.chaos
async def test_agent_whose_runtime_does_not_answer_is_given_up_and_removed_when_it_does(office: Office) -> None:
    stack, ann = office.stack, office.ann
    projects = [office.project() for _ in range(3)]
    states = ("running", "running", "draining")
    ids = [await office.agent_in(state, project) for state, project in zip(states, projects, strict=True)]
    host = stack.pid("host")
    os.kill(host, signal.SIGSTOP)
    try:
        # One that nothing but the runtime holds, one that nobody carries, and one that its successor would clear away.
        await ann.stop(ids[0])
        await ann.until(ids[0], "draining")
        for agent_id, project in zip(ids[1:], projects[1:], strict=True):
            await office.say(TERMINATE, agent_id, project)
        again = await ann.ask(
            "POST",
            f"/api/projects/{projects[2]}/start-agent",
            headers={"Idempotency-Key": "again"},
            json={"template": "default"},
        )
        assert again.json() == {"status": "pending"}
        for agent_id, project in zip(ids, projects, strict=True):
            said = await office.say(ABANDON, agent_id, project)
            assert "terminated" in said
            assert "an operator gave up on its runtime" in await office.last_words(agent_id)
    finally:
        os.kill(host, signal.SIGCONT)
    successor = await ann.start(projects[2], key="again", template="default")
    await ann.until(successor, "running")
    await ann.stop(successor)
    await ann.until(successor, "terminated")
    # What was given up is an orphan until the reaper has been there.
    await office.operator.type(REAP)
    await stack.sound()


@pytest.mark.chaos
@pytest.mark.parametrize("how", OTHERS)
async def test_queue_and_notices_that_were_ended_by_hand_go_on(office: Office, how: str) -> None:
    ann, project = office.ann, office.project()
    root = Person(office.stack, "root", office.operator.token)
    await root.ask("PUT", "/api/admin/pools/default", json={"paused": True})
    waiting = await office.start(project, "steady")
    await ann.until(waiting, "queued")
    for line in OTHERS[how]:
        await office.operator.type(line)
    await root.ask("PUT", "/api/admin/pools/default", json={"paused": False})
    await ann.until(waiting, "running")
    await ann.stop(waiting)
    await ann.until(waiting, "terminated")
    await eventually(lambda: _heard(office.backend, waiting), "the backend to hear of its end")
    ids = [each.id for each in office.backend.taken]
    assert len(ids) == len(set(ids)), "a notice was sent twice"


@pytest.mark.chaos
async def test_failed_agents_user_starts_again_from_the_letter_as_it_was_or_elsewhere(office: Office) -> None:
    ann, project = office.ann, office.project()
    root = Person(office.stack, "root", office.operator.token)
    assert (await root.ask("PUT", "/api/admin/users/ann", json={"email": "ann@example.org"})).status_code == 200
    failed = await office.start(project, "doomed")
    await ann.until(failed, "failed")
    await eventually(lambda: _arrived(office.mailbox, failed), "a letter")
    link = next(_links(office.mailbox, failed))
    async with httpx2.AsyncClient(timeout=10) as http:
        page = await http.get(link)
    assert (page.status_code, page.headers["content-type"].split(";")[0]) == (200, "text/html")
    assert urlsplit(link).fragment == f"/agents/{failed}"

    # What the page's button and `berth agents restart` do: the same template, a new life.
    typist = Typist(office.stack, ann.token)
    again = (await typist.type(RESTART, agent=failed)).split()[0]
    assert again != failed
    begun = await ann.agent(again)
    assert (begun["template"], begun["projectId"], begun["restartCount"]) == ("doomed", project, 0)
    joined = await ann.ask("POST", f"/api/agents/{failed}/restart")
    if (await ann.agent(again))["endedAt"] is None:
        assert (joined.status_code, joined.json()["agent"]["agentId"]) == (200, again)
    await ann.until(again, "failed")
    assert "failed" in await typist.type(SHOW, agent=again)

    moved = await typist.type(START_OTHER, project=project, template="elsewhere")
    there = await ann.until(moved.split()[0], "running")
    assert (there["template"], there["pool"]) == ("elsewhere", "other")
    await ann.stop(there["agentId"])
    await ann.until(there["agentId"], "terminated")
    plain = await ann.until((await typist.type(START, project=project)).split()[0], "running")
    assert (plain["template"], plain["pool"]) == ("default", "default")
    await ann.stop(plain["agentId"])
    await ann.until(plain["agentId"], "terminated")


def test_no_command_of_the_guide_is_left_out() -> None:
    tried = {*ENDS, *MENDS, *LOOKS, *OTHERS["terminate"], *OTHERS["reset"]}
    tried |= {LIST, WARN, WARN_BRIEFLY, REAP, RESTART, START, START_OTHER, SHOW}
    assert set(commands(SECTION)) == tried


async def _not(asked: Any) -> bool:
    return not await asked


async def _heard(backend: Backend, agent_id: str) -> bool:
    return any(
        each.told["type"] == "agent.terminated" and each.told["data"]["agentId"] == agent_id for each in backend.taken
    )


async def _arrived(mailbox: Mailbox, agent_id: str) -> bool:
    return any(_links(mailbox, agent_id))


def _links(mailbox: Mailbox, agent_id: str) -> Any:
    for letter in mailbox.letters:
        for line in letter.get_content().splitlines():
            if agent_id in line and "://" in line:
                yield line.strip()

"""The embedded Temporal, with a real server."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from core import launch
from core.dev.ports import Ports
from core.dev.probe import http_status
from core.dev.supervise import Supervised, running
from core.dev.temporal import Temporal
from tests.integration.waiting import until

ACCOUNT = launch.Account(209_991, 209_991) if os.geteuid() == 0 else None
AGENT_ID = SearchAttributeKey.for_keyword("AgentId")


@pytest.fixture
async def temporal(tmp_path: Path) -> Temporal:
    ports = Ports()
    return Temporal(
        tmp_path / "temporal",
        ports.pick(0),
        ports.pick(0),
        ports.pick(0),
        namespace="harbour",
        search_attributes={"AgentId": "Keyword"},
        account=ACCOUNT,
    )


@pytest.fixture
async def server(temporal: Temporal, tmp_path: Path) -> AsyncIterator[Supervised]:
    async with running(temporal.part(), tmp_path / "log") as supervised:
        yield supervised


async def test_killed_server_comes_back_with_its_workflows(temporal: Temporal, server: Supervised) -> None:
    client = await Client.connect(temporal.address, namespace="harbour")
    attributes = TypedSearchAttributes([SearchAttributePair(AGENT_ID, "ag-1")])
    started = await client.start_workflow("Life", id="life", task_queue="none", search_attributes=attributes)
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: server.pid not in (None, first) and server.ready)
    found = await client.get_workflow_handle("life").describe()
    assert (found.run_id, found.status) == (started.result_run_id, WorkflowExecutionStatus.RUNNING)
    assert found.typed_search_attributes[AGENT_ID] == "ag-1"


@pytest.mark.usefixtures("server")
async def test_web_ui_answers(temporal: Temporal) -> None:
    assert await http_status(f"{temporal.ui_url}/namespaces/harbour/workflows") == 200


async def test_later_start_may_bring_new_search_attributes(temporal: Temporal, tmp_path: Path) -> None:
    async with running(temporal.part(), tmp_path / "log"):
        pass
    more = Temporal(
        temporal.folder,
        temporal.port,
        temporal.ui_port,
        temporal.http_port,
        namespace="harbour",
        search_attributes={"AgentId": "Keyword", "AgentPool": "Keyword"},
        account=ACCOUNT,
    )
    async with running(more.part(), tmp_path / "log"):
        client = await Client.connect(temporal.address, namespace="harbour")
        assert (await client.count_workflows("AgentPool = 'default'")).count == 0

"""A worker that is asked for agents of a runtime it has not."""

from typing import cast

import pytest
from structlog.testing import capture_logs
from temporalio.exceptions import ApplicationError

from activities.contracts import Life
from activities.runtime import RuntimeActivities
from core.db.engine import Db
from core.settings import Settings


def life(agent_id: str) -> Life:
    return Life.model_validate(
        {
            "agent_id": agent_id,
            "attempt": 1,
            "user_id": "ann",
            "project_id": "shop",
            "pool": "default",
            "template": "default",
            "runtime": "process",
        }
    )


async def test_each_agent_of_a_runtime_that_is_missing_is_one_line_however_often_it_is_tried() -> None:
    at_runtime = RuntimeActivities(cast(Db, None), Settings(), {})
    with capture_logs() as lines:
        for agent_id in ("ag-1", "ag-1", "ag-2"):
            with pytest.raises(ApplicationError, match="no runtime process"):
                await at_runtime.find_other_machine(life(agent_id))
    assert [(line["event"], line["log_level"], line["agent_id"], line["runtime"]) for line in lines] == [
        ("runtime.missing", "warning", "ag-1", "process"),
        ("runtime.missing", "warning", "ag-2", "process"),
    ]

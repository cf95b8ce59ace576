"""Writes the history of a run down, so that it can be checked in."""

import json
import os
import re
from typing import Any

from tests.fixtures.stage import Stage
from tests.replay.histories import HISTORIES
from tests.replay.record import ANEW
from tests.replay.seals import seal

_WORKER = re.compile(r"\d+@")
_OF_THE_MACHINE = {
    "identity",
    "binaryChecksum",
    "workerVersion",
    "deploymentVersion",
    "workerDeploymentName",
    "stackTrace",
}


async def keep(stage: Stage, name: str, *, run_id: str | None = None, workflow_id: str | None = None) -> None:
    """Write the history of one run, without what it tells of the machine it comes from; one that is there stays."""
    path = HISTORIES / f"{name}.json"
    if path.exists() and ANEW not in os.environ:
        return
    handle = stage.client.get_workflow_handle(workflow_id or stage.workflow().id, run_id=run_id)
    history = await handle.fetch_history()
    events = _without(json.loads(history.to_json()))
    path.write_text(json.dumps({"workflowId": handle.id, **events}, separators=(",", ":")) + "\n")
    seal(path)


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key not in _OF_THE_MACHINE}
    if isinstance(value, list):
        return [_without(inner) for inner in value]
    # A worker's own queue is called by its process and host.
    return "worker" if isinstance(value, str) and _WORKER.match(value) else value

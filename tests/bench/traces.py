"""What the API server and Temporal wrote down themselves of one life: the times of their own clocks."""

import json
from datetime import datetime
from pathlib import Path

from temporalio.client import Client


class AuditLog:
    """The requests to an API server from now on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = file.stat().st_size
        self._asked: dict[tuple[str, str, str], float] = {}

    def asked(self, verb: str, kind: str, name: str) -> float:
        """When the API server got that request, by the wall clock. Raises `KeyError` when it got none."""
        with self._file.open("rb") as log:
            log.seek(self._offset)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                call = json.loads(line)
                ref = call.get("objectRef") or {}
                at = datetime.fromisoformat(call["requestReceivedTimestamp"]).timestamp()
                self._asked.setdefault((call["verb"], ref.get("resource", ""), ref.get("name", "")), at)
        return self._asked[verb, kind, name]


async def signalled(client: Client, workflow_id: str, name: str) -> float:
    """When Temporal recorded the first signal of that name in the latest run. Raises `LookupError`."""
    async for event in client.get_workflow_handle(workflow_id).fetch_history_events():
        if event.workflow_execution_signaled_event_attributes.signal_name == name:
            return event.event_time.ToMicroseconds() / 1e6
    raise LookupError(f"no signal {name} in {workflow_id}")

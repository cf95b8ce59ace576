"""What a supervisor notes about each attempt, so that the one after it knows what to clear away and to report."""

from datetime import datetime
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from core.domain.recovery import FailureKind
from core.runtime import private

_log = structlog.get_logger()


class Record(BaseModel):
    """One attempt. `pid` and `started` name its main process; all None before it was begun. No secrets."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    agent_id: str
    attempt: int
    user_id: str
    project_id: str
    token_hash: str
    created_at: datetime
    work: Path
    group: str
    uid: int | None = None
    pid: int | None = None
    started: int | None = None
    exited: bool = False
    exit_code: int | None = None
    failure: FailureKind | None = None
    detail: str = ""
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None


class Records:
    """A file for each attempt in a private folder; written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, record: Record) -> None:
        private.write(self._path(record.agent_id, record.attempt), record.model_dump_json())

    def remove(self, agent_id: str, attempt: int) -> None:
        self._path(agent_id, attempt).unlink(missing_ok=True)

    def load(self) -> list[Record]:
        """All that can be read. A torn one (the machine lost power) belongs to an agent that died with the machine."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                found.append(Record.model_validate_json(path.read_text()))
            except (ValidationError, ValueError):
                _log.error("attempt.unreadable", file=str(path))
                path.unlink()
        return found

    def _path(self, agent_id: str, attempt: int) -> Path:
        return self._folder / f"{agent_id}-{attempt}.json"

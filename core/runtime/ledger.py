"""Which simulated agents there are, on disk, so that a supervisor knows those of the one before it."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from core.runtime import private

_SLACK = 10_000  # lines that need not be there, before the file is written anew


class Entry(NamedTuple):
    agent_id: str
    attempt: int
    user_id: str
    project_id: str
    token_hash: str
    created_at: str


class Ledger:
    """One line for each agent that came or went. Ten microseconds a line; no promise beyond the process's own end."""

    def __init__(self, path: Path) -> None:
        """Read what is there, `known`, and go on from it. A torn last line is dropped."""
        self._path = path
        self.known: dict[tuple[str, int], Entry] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                self._apply(line)
        self._rewrite()

    def came(self, entry: Entry) -> None:
        self.known[entry.agent_id, entry.attempt] = entry
        self._append(list(entry))

    def went(self, agent_id: str, attempt: int) -> None:
        self.known.pop((agent_id, attempt), None)
        self._append([agent_id, attempt])

    def close(self) -> None:
        os.close(self._file)

    def _append(self, line: list[object]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")
        self._lines += 1
        if self._lines > 2 * len(self.known) + _SLACK:
            os.close(self._file)
            self._rewrite()

    def _rewrite(self) -> None:
        private.write(self._path, "".join(json.dumps(list(entry)) + "\n" for entry in self.known.values()))
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._lines = len(self.known)

    def _apply(self, line: str) -> None:
        try:
            match json.loads(line):
                case [str(agent_id), int(attempt)]:
                    self.known.pop((agent_id, attempt), None)
                case [str(), int(), str(), str(), str(), str()] as fields:
                    entry = Entry(*fields)
                    self.known[entry.agent_id, entry.attempt] = entry
                case _:
                    pass  # no line that this release writes
        except ValueError:
            return

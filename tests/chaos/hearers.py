"""A backend and a mail server that hear of all that happens in a rehearsal, and what was told wrongly."""

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Set
from typing import Any

import asyncpg

from core.domain.events import EventKind
from core.domain.notices import Channel, NoticeState
from tests.fixtures.receivers import SECRET, Backend, Mailbox

# Whoever gave a command has its answer.
_UNTOLD = frozenset({EventKind.COMMAND_EXECUTED.value})
# An agent, and the number of what happened to it.
_Name = tuple[str, int]


class Hearers:
    """Both are up for as long as Berth is."""

    def __init__(self, backend: Backend, mailbox: Mailbox) -> None:
        self._backend, self._mailbox = backend, mailbox

    @property
    def settings(self) -> dict[str, str]:
        """BERTH_ variables, without the prefix, of a Berth that tells them."""
        return {
            "WEBHOOK__URL": self._backend.url,
            "WEBHOOK__SECRETS": SECRET,
            "WEBHOOK__ALLOW_PRIVATE": "true",
            "SMTP__HOST": "127.0.0.1",
            "SMTP__PORT": str(self._mailbox.port),
            "SMTP__FROM": "berth@example.test",
        }

    async def wrong(self, database: str) -> list[str]:
        """One look: what is not told yet, was told in two ways, or never happened."""
        connection = await asyncpg.connect(database, timeout=5)
        try:
            rows = await connection.fetch("SELECT notice_id, channel, state FROM notices")
            events = await connection.fetch("SELECT agent_id, seq, kind FROM events WHERE agent_id IS NOT NULL")
        finally:
            await connection.close()
        found = [f"{row['notice_id']} is {row['state']}" for row in rows if row["state"] != NoticeState.SENT]
        found += self._posted({(each["agent_id"], each["seq"]) for each in events if each["kind"] not in _UNTOLD})
        return found + self._mailed({row["notice_id"] for row in rows if row["channel"] == Channel.EMAIL})

    def _posted(self, happened: set[_Name]) -> list[str]:
        """Each event once: one that is sent again, since nobody knew that it had come, is the same to the byte."""
        came: dict[_Name, set[tuple[str, bytes]]] = defaultdict(set)
        for each in self._backend.taken:
            data = each.told["data"]
            if data["agentId"] is not None:
                came[data["agentId"], data["seq"]].add((each.id, each.body))
        several = sorted(name for name, as_what in came.items() if len(as_what) > 1)
        return _differ("webhooks", happened, set(came)) + [f"webhooks of {several} differ"] * bool(several)

    def _mailed(self, notices: set[str]) -> list[str]:
        ids = [str(letter["Message-ID"]).strip("<>").rpartition("@")[0] for letter in self._mailbox.letters]
        return _differ("letters", notices, set(ids))


def _differ(what: str, written: Set[Any], heard: Set[Any]) -> list[str]:
    lost, invented = sorted(written - heard), sorted(heard - written)
    return [f"{what} {lost} came never"] * bool(lost) + [f"{what} {invented} are of nothing"] * bool(invented)


@contextlib.asynccontextmanager
async def hearers() -> AsyncIterator[Hearers]:
    backend, mailbox = Backend(), Mailbox()
    await backend.up()
    await mailbox.up()
    try:
        yield Hearers(backend, mailbox)
    finally:
        await backend.down()
        await mailbox.down()

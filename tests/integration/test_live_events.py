"""The user's event stream: everything once and in order, nobody else's, and clients that misbehave."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from api.live.feed import cursor_of
from core.db.repositories import agents, events, replicas, tickets
from core.db.repositories.events import Fact
from core.db.repositories.tickets import TicketGrant, TicketKind
from core.domain.events import EventKind
from core.domain.lifecycle import AgentState
from tests.fixtures.live import Berthed, LiveStage, eventually, raise_stage

WAIT = 10.0


@asynccontextmanager
async def stream(live: LiveStage, user_id: str, query: str = "", replica: int = 0) -> AsyncIterator[ClientConnection]:
    url = live.replicas[replica].replace("http", "ws") + f"/ws/events{query}"
    async with connect(url, additional_headers=live.bearer(user_id), proxy=None) as socket:
        yield socket


async def refused(live: LiveStage, query: str = "", headers: dict[str, str] | None = None) -> tuple[int, str]:
    url = live.replicas[0].replace("http", "ws") + f"/ws/events{query}"
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, additional_headers=headers or {}, proxy=None)
    response = caught.value.response
    return response.status_code, str(json.loads(response.body or b"{}").get("code"))


async def note(live: LiveStage, agent: Berthed, text: str) -> None:
    async with live.db.transaction() as session:
        row = await agents.lock(session, agent.agent_id)
        assert row is not None
        fact = Fact(kind=EventKind.NOTICE_SENT, state=AgentState(row.state), detail={"text": text})
        await events.append(session, row, datetime.now(UTC), fact)


async def take(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(WAIT):
        while len(found) < count:
            found.append(json.loads(await socket.recv()))
    return found


async def closed(socket: ClientConnection) -> int | None:
    async with asyncio.timeout(WAIT):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.recv()
    return socket.close_code


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return [message["detail"]["text"] for message in messages]


async def test_user_sees_own_events_on_every_replica_and_nobody_elses(live: LiveStage) -> None:
    ann, eve = await live.user("ann"), await live.user("eve")
    mine, other = await live.agent(ann), await live.agent(eve)
    await note(live, mine, "0")
    first = f"?after={await here(live, ann)}"
    async with stream(live, ann, first) as one, stream(live, ann, first, replica=1) as two:
        for number in range(1, 4):
            await note(live, other, "eve's")
            await note(live, mine, str(number))
        for socket in (one, two):
            messages = await take(socket, 3)
            assert texts(messages) == ["1", "2", "3"]
            assert {message["agentId"] for message in messages} == {mine.agent_id}
            assert [message["seq"] for message in messages] == [2, 3, 4]
            assert messages[0]["kind"] == "notice.sent"


async def here(live: LiveStage, user_id: str) -> str:
    """The cursor of the user's newest event: without it a stream begins whenever the server came to look."""
    async with live.db.transaction() as session:
        return cursor_of(await events.head(session, user_id))


async def test_after_replays_what_was_missed_and_goes_on_without_a_gap(live: LiveStage) -> None:
    ann = await live.user("ann")
    agent = await live.agent(ann)
    begin = await here(live, ann)
    async with stream(live, ann, f"?after={begin}") as socket:
        await note(live, agent, "1")
        cursor = (await take(socket, 1))[0]["cursor"]
    for number in range(2, 450):
        await note(live, agent, str(number))
    async with stream(live, ann, f"?after={cursor}") as socket:
        writing = asyncio.create_task(_write_on(live, agent, 450, 500))
        messages = await take(socket, 498)
        await writing
    assert texts(messages) == [str(number) for number in range(2, 500)]


async def _write_on(live: LiveStage, agent: Berthed, first: int, end: int) -> None:
    for number in range(first, end):
        await note(live, agent, str(number))


async def test_event_that_commits_late_is_still_delivered(live: LiveStage) -> None:
    ann = await live.user("ann")
    slow, quick = await live.agent(ann), await live.agent(ann)
    begin = await here(live, ann)
    async with stream(live, ann, f"?after={begin}") as socket:
        async with live.db.transaction() as session:
            row = await agents.lock(session, slow.agent_id)
            assert row is not None
            fact = Fact(kind=EventKind.NOTICE_SENT, detail={"text": "late"})
            await events.append(session, row, datetime.now(UTC), fact)
            overtaking = asyncio.create_task(note(live, quick, "early"))
            # The other wants to commit first, and must not take a cursor that readers have passed by.
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(overtaking), 0.3)
        await overtaking
        assert texts(await take(socket, 2)) == ["late", "early"]


async def test_many_writers_at_once_lose_no_event(live: LiveStage) -> None:
    ann = await live.user("ann")
    mine = [await live.agent(ann) for _ in range(4)]
    begin = await here(live, ann)
    async with stream(live, ann, f"?after={begin}", replica=1) as socket:
        await asyncio.gather(*(_write_on(live, agent, 0, 25) for agent in mine))
        messages = await take(socket, 100)
    assert len({message["cursor"] for message in messages}) == 100
    for agent in mine:
        own = [message["seq"] for message in messages if message["agentId"] == agent.agent_id]
        assert own == list(range(1, 26))


async def test_events_arrive_although_the_listening_connection_was_lost(live: LiveStage) -> None:
    ann = await live.user("ann")
    agent = await live.agent(ann)
    begin = await here(live, ann)
    async with stream(live, ann, f"?after={begin}") as socket:
        await note(live, agent, "1")
        await take(socket, 1)
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'berth-listener' "
        await live.rows(query + "AND datname = current_database()")
        await note(live, agent, "2")
        assert texts(await take(socket, 1)) == ["2"]


async def test_ticket_opens_one_stream_once(live: LiveStage) -> None:
    ann = await live.user("ann")
    ticket = await _ticket(live, ann, TicketKind.EVENTS)
    url = live.replicas[1].replace("http", "ws") + f"/ws/events?ticket={ticket}&after={await here(live, ann)}"
    async with connect(url, proxy=None, origin=Origin("http://berth.example")) as socket:
        agent = await live.agent(ann)
        await note(live, agent, "seen")
        assert texts(await take(socket, 1)) == ["seen"]
    assert await refused(live, f"?ticket={ticket}") == (401, "unauthenticated")


async def _ticket(live: LiveStage, user_id: str, kind: TicketKind, **lifetime: float) -> str:
    async with live.db.transaction() as session:
        grant = TicketGrant(kind=kind, user_id=user_id)
        ticket = await tickets.issue(session, grant, datetime.now(UTC), timedelta(**(lifetime or {"minutes": 1})))
    return ticket.get_secret_value()


async def test_wrong_expired_and_foreign_credentials_open_nothing(live: LiveStage) -> None:
    ann = await live.user("ann")
    agent = await live.agent(ann)
    assert await refused(live) == (401, "unauthenticated")
    assert await refused(live, headers={"Authorization": "Bearer nonsense"}) == (401, "unauthenticated")
    assert await refused(live, headers={"Authorization": f"Bearer {agent.token}"}) == (401, "unauthenticated")
    assert await refused(live, "?ticket=tk_unknown") == (401, "unauthenticated")
    assert await refused(live, f"?ticket={'x' * 3000}") == (401, "unauthenticated")
    assert await refused(live, f"?after={'x' * 3000}") == (422, "invalid_request")
    expired = await _ticket(live, ann, TicketKind.EVENTS, seconds=-1)
    assert await refused(live, f"?ticket={expired}") == (401, "unauthenticated")
    other = await _ticket(live, ann, TicketKind.DESKTOP)
    assert await refused(live, f"?ticket={other}") == (401, "unauthenticated")
    assert await refused(live, headers=live.bearer("nobody")) == (404, "unknown_user")
    foreign = live.bearer(ann) | {"Origin": "https://evil.example"}
    assert await refused(live, headers=foreign) == (403, "forbidden")
    assert await refused(live, "?after=12", live.bearer(ann)) == (422, "invalid_request")


async def test_refused_handshake_leaves_no_ticket_and_no_error_in_the_log(
    live: LiveStage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="uvicorn.error")
    await refused(live, "?ticket=tk_secret")
    assert [record.getMessage() for record in caplog.records if "/ws/events" in record.getMessage()]
    assert "tk_secret" not in caplog.text
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_client_that_talks_is_cut_off(live: LiveStage) -> None:
    async with stream(live, await live.user("ann")) as socket:
        await socket.send("hello?")
        assert await closed(socket) == 4400


async def test_client_that_does_not_read_is_let_go(live: LiveStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.live.feed.SEND_SECONDS", 0.3)
    ann = await live.user("ann")
    agent = await live.agent(ann)
    seats = live.apps[0].state.live.seats
    begin = await here(live, ann)
    for _ in range(40):
        await note(live, agent, "x" * 500_000)
    url = live.replicas[0].replace("http", "ws") + f"/ws/events?after={begin}"
    socket = await connect(url, additional_headers=live.bearer(ann), proxy=None, max_queue=1, close_timeout=0.1)
    try:
        await eventually(lambda: seats.taken(ann) == 1)
        await eventually(lambda: seats.taken(ann) == 0)
    finally:
        socket.transport.abort()


async def test_stream_ends_after_its_lifetime_and_asks_to_come_again(live: LiveStage) -> None:
    ann = await live.user("ann")
    async with (
        raise_stage(live.url, live.settings, count=1, user_socket_seconds=0.2) as short,
        stream(short, ann) as socket,
    ):
        assert await closed(socket) == 4408


async def test_twenty_first_socket_of_a_user_is_refused_and_others_are_served(live: LiveStage) -> None:
    ann = await live.user("ann")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(stream(live, ann))
        assert await refused(live, headers=live.bearer(ann)) == (503, "too_many_requests")
        await stack.enter_async_context(stream(live, await live.user("eve")))


async def test_waiting_user_sees_the_place_in_the_queue_change(live: LiveStage) -> None:
    ann, bob = await live.user("ann"), await live.user("bob")
    ahead = await live.agent(bob, AgentState.QUEUED)
    mine = await live.agent(ann, AgentState.QUEUED)
    async with stream(live, ann) as socket:
        (first,) = await take(socket, 1)
        assert (first["kind"], first["agentId"]) == ("agent.position_changed", mine.agent_id)
        place = first["detail"]["position"]
        await live.change(ahead, state="cancelled")
        await live.rows("SELECT pg_notify('berth_queue', 'default')")
        (second,) = await take(socket, 1)
        assert second["detail"]["position"] == place - 1
        assert second["detail"]["estimatedWait"].keys() == {"low", "high"}
        # It was told, never stored, and its cursor is one to go on from.
        assert await live.rows("SELECT 1 FROM events WHERE user_id = :u", u=ann) == []
    await note(live, mine, "next")
    async with stream(live, ann, f"?after={second['cursor']}") as socket:
        stored = [one for one in await take(socket, 2) if one["kind"] == "notice.sent"]
        assert texts(stored) == ["next"]


async def test_replica_says_that_it_is_up_and_counts_anew_after_a_gap(live: LiveStage) -> None:
    name = live.apps[0].state.live.replica
    query = "SELECT up_since, seen_at FROM replicas WHERE replica = :r"
    (before,) = await live.rows(query, r=name)
    async with live.db.transaction() as session:
        await replicas.beat(session, name)
    (beaten,) = await live.rows(query, r=name)
    assert beaten["up_since"] == before["up_since"]
    assert beaten["seen_at"] > before["seen_at"]
    old = "UPDATE replicas SET seen_at = seen_at - interval '16 seconds' WHERE replica = :r RETURNING 1"
    await live.rows(old, r=name)
    async with live.db.transaction() as session:
        await replicas.beat(session, name)
    (anew,) = await live.rows(query, r=name)
    assert anew["up_since"] > before["up_since"]

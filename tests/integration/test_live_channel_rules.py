"""The agents' socket: who may speak there, and what is too much."""

import asyncio
import contextlib
import itertools
import json
from datetime import UTC, datetime

import asyncpg
import pytest
from sqlalchemy import text
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from core.tokens import hash_token
from tests.fixtures.live import LiveStage, eventually


async def knock(live: LiveStage, headers: dict[str, str]) -> int:
    """The status that a handshake is refused with."""
    url = live.replicas[0].replace("http", "ws") + "/ws/agent"
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, additional_headers=headers, proxy=None)
    assert json.loads(refused.value.response.body or b"{}")["code"]
    return refused.value.response.status_code


async def test_old_token_is_refused_after_a_restart_and_after_the_end(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent).online() as fake:
        await live.change(agent, attempt=2, token_hash="another")
        await fake.status("still here")
        await fake.until(lambda fake: fake.closed_with == 4401)
    assert await knock(live, {"Authorization": f"Bearer {agent.token}"}) == 401
    await live.change(agent, state="terminated", token_hash=None)
    assert await knock(live, {"X-Agent-Token": agent.token}) == 401


async def test_wrong_missing_and_user_tokens_and_pages_are_refused(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    assert await knock(live, {}) == 401
    assert await knock(live, {"X-Agent-Token": "agent_wrong"}) == 401
    assert await knock(live, {"X-Agent-Token": "x" * 4000}) == 401
    assert await knock(live, live.bearer(agent.user_id)) == 401
    assert await knock(live, {"X-Agent-Token": agent.token, "Origin": "https://evil.example"}) == 403


async def test_agent_cannot_speak_for_another(live: LiveStage) -> None:
    user = await live.user("ann")
    one, other = await live.agent(user), await live.agent(user)
    async with live.fake(one).online() as fake:
        fake.agent_id = other.agent_id
        await fake.ready()
        await fake.until(lambda fake: fake.closed_with == 4403)
    assert await live.rows("SELECT 1 FROM channels WHERE agent_id = :a", a=other.agent_id) == []


async def test_token_of_one_attempt_cannot_claim_another(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with connect(live.fake(agent).url, additional_headers={"X-Agent-Token": agent.token}, proxy=None) as socket:
        at = datetime.now(UTC).isoformat()
        online = {"type": "agent_online", "agentId": agent.agent_id, "seq": 1, "at": at, "attempt": 7}
        await socket.send(json.dumps(online))
        await asyncio.wait_for(socket.wait_closed(), 5)
        assert socket.close_code == 4401


async def test_a_little_garbage_is_overlooked_and_much_closes(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent).online() as fake:
        for garbage in ("", "{", "[]", '{"type": "ready"}', b"\xff\x00", "[" * 5000):
            await fake.raw(garbage)
        await fake.raw(json.dumps({"type": "from_the_future", "agentId": agent.agent_id, "seq": 1}))
        await fake.status("fine")
        await fake.heard_all()
        for _ in range(10):
            await fake.raw("garbage")
        await fake.until(lambda fake: fake.closed_with == 4400)


async def test_large_messages_of_an_unknown_type_are_garbage(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent).online() as fake:
        for _ in range(20):
            with contextlib.suppress(ConnectionClosed):
                await fake.raw(json.dumps({"type": "from_the_future", "padding": "x" * 10_000}))
        await fake.until(lambda fake: fake.closed_with == 4400)


async def test_agent_that_brings_too_many_bytes_is_read_slowly_and_others_are_served(
    live: LiveStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So slowly that the test does not see it.
    monkeypatch.setattr(live.apps[0].state.live.volumes, "_rate", 1.0)
    monkeypatch.setattr(live.apps[0].state.live.volumes, "_burst", 100_000.0)
    user = await live.user("ann")
    greedy, other = await live.agent(user), await live.agent(user)
    async with live.fake(greedy).online() as fake, live.fake(other).online():
        await fake.status("large", data="x" * 90_000)
        await fake.heard_all()
        await fake.status("large", data="x" * 90_000)
        assert (await live.execute(other, {"command": "state"})).status_code == 200
        # A new socket is heard at once, and has no more to spend.
        again = live.fake(greedy)
        again.next_seq = 2
        async with again.online():
            assert again.resumed_from == [1]
            await again.status("large", data="x" * 90_000)
            assert (await live.execute(other, {"command": "state"})).status_code == 200
            assert again.unacknowledged
        # Nothing is lost by it.
        live.apps[0].state.live.volumes.of(hash_token(greedy.token)).owe(-1e6)
        async with again.online():
            await again.heard_all()


async def test_of_many_sockets_with_one_token_the_newest_stay(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with contextlib.AsyncExitStack() as stack:
        knocks = [connect(live.fake(agent).url, additional_headers={"X-Agent-Token": agent.token}) for _ in range(20)]
        sockets = [await stack.enter_async_context(each) for each in knocks]
        async with live.fake(agent).online() as fake:
            for each in sockets[:-2]:
                await asyncio.wait_for(each.wait_closed(), 20)
                assert each.close_code == 4409
            await fake.status("here")
            await fake.heard_all()


async def test_agent_that_knocks_while_its_knocks_are_unanswered_is_told_to_come_again(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with live.db.transaction() as session:
        # Nobody is told who an agent is.
        await session.execute(text("LOCK TABLE agents IN ACCESS EXCLUSIVE MODE"))
        knocks = [asyncio.create_task(knock(live, {"X-Agent-Token": agent.token})) for _ in range(8)]
        refused = [await each for each in itertools.islice(asyncio.as_completed(knocks), 3)]
        assert refused == [503] * 3
    for each in knocks:
        each.cancel()
    await eventually(lambda: not live.apps[0].state.live.knocking.taken(hash_token(agent.token)))
    async with live.fake(agent).online():
        pass


async def test_socket_that_does_not_begin_with_agent_online_is_closed(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with connect(live.fake(agent).url, additional_headers={"X-Agent-Token": agent.token}, proxy=None) as socket:
        at = datetime.now(UTC).isoformat()
        await socket.send(json.dumps({"type": "ready", "agentId": agent.agent_id, "seq": 1, "at": at, "seconds": 1}))
        await asyncio.wait_for(socket.wait_closed(), 5)
        assert socket.close_code == 4400


async def test_message_over_a_mebibyte_closes_the_socket(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    async with live.fake(agent).online() as fake:
        await fake.raw("x" * ((1 << 20) + 1))
        await fake.until(lambda fake: fake.closed_with == 1009)


async def test_flood_closes_the_socket_and_others_are_served(live: LiveStage) -> None:
    user = await live.user("ann")
    loud, quiet = await live.agent(user), await live.agent(user)
    async with live.fake(loud).online() as fake, live.fake(quiet).online():
        with contextlib.suppress(ConnectionClosed):
            for _ in range(2000):
                await fake.beat()
        await fake.until(lambda fake: fake.closed_with == 4429)
        assert (await live.execute(quiet, {"command": "state"})).status_code == 200


async def test_agent_is_told_to_come_again_and_not_refused_while_the_database_is_away(live: LiveStage) -> None:
    agent = await live.agent(await live.user("ann"))
    deps = live.apps[0].state.deps
    await deps.db.engine.dispose()
    name = live.url.rsplit("/", 1)[1]
    admin = live.url.rsplit("/", 1)[0] + "/postgres"
    connection = await asyncpg.connect(admin)
    try:
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        assert await knock(live, {"X-Agent-Token": agent.token}) == 503
    finally:
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await connection.close()
    async with live.fake(agent, replica=0).online() as fake:
        # The listener's connection was lost as well, and a command still arrives.
        answer = await live.execute(agent, {"command": "state"}, replica=1)
        assert answer.status_code == 200
        assert len(fake.runs) == 1

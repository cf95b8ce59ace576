"""The process itself: health, readiness, metrics, and every kind of bad request as a problem with a code."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import httpx2
import pytest
from fastapi.responses import JSONResponse

from api.routes import docs
from api.routes.service import SHOWN_SECONDS
from core.db.engine import Db
from core.db.repositories import tallies
from core.db.repositories.tallies import Waited
from core.domain.waits import Wait
from core.settings import Settings
from tests.fakes.lives import SimulatedLives
from tests.fixtures.api import Api, replica
from tests.fixtures.live import eventually, serve


async def test_health_needs_nothing(api: Api) -> None:
    answer = await api.http.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


async def test_ready_names_the_part_that_does_not_answer(api: Api) -> None:
    probes = api.app.state.deps.probes
    assert (await api.http.get("/ready")).status_code == 200

    async def well() -> None:
        pass

    async def ill() -> None:
        raise ConnectionError("secret address")

    async def stuck() -> None:
        await asyncio.Event().wait()

    probes.update({"database": well, "temporal": ill, "other": stuck})
    answer = await api.http.get("/ready")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (503, "not_ready")
    assert problem["checks"] == {"database": "ok", "temporal": "failed", "other": "no answer"}
    assert "secret" not in answer.text


@pytest.mark.parametrize(("answer", "up"), [(None, "1.0"), (ConnectionError("away"), "0.0")], ids=["well", "away"])
async def test_metrics_tell_whether_temporal_answers(api: Api, answer: Exception | None, up: str) -> None:
    async def probe() -> None:
        if answer is not None:
            raise answer

    api.app.state.deps.probes["temporal"] = probe
    assert f"berth_temporal_up {up}\n" in (await api.http.get("/metrics")).text


async def test_parts_are_asked_once_for_all_who_ask_whether_they_are_ready(api: Api) -> None:
    asked, go = 0, asyncio.Event()

    async def slow() -> None:
        nonlocal asked
        asked += 1
        await go.wait()

    api.app.state.deps.probes["database"] = slow
    api.app.state.ready.seconds = SHOWN_SECONDS
    callers = [asyncio.create_task(api.http.get("/ready")) for _ in range(30)]
    await eventually(lambda: asked)
    # One that gives up takes the answer from nobody else.
    callers.pop(0).cancel()
    go.set()
    assert {answer.status_code for answer in await asyncio.gather(*callers)} == {200}
    assert asked == 1
    await eventually(lambda: _ready_again(api, lambda: asked))


async def _ready_again(api: Api, asked: Callable[[], int]) -> bool:
    """What was found is not shown for ever."""
    assert (await api.http.get("/ready")).status_code == 200
    return asked() == 2


_WAITING = """SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE NOT granted AND datname = current_database()"""


async def test_crowd_at_the_metrics_leaves_the_database_to_everybody_else(api: Api, database_url: str) -> None:
    api.app.state.shown.seconds = 60
    locker = await asyncpg.connect(database_url)
    try:
        async with locker.transaction():
            await locker.execute("LOCK TABLE wait_tallies IN ACCESS EXCLUSIVE MODE")
            crowd = [asyncio.create_task(api.http.get("/metrics")) for _ in range(30)]

            async def held_up() -> bool:
                return bool(await locker.fetchval(_WAITING))

            await eventually(held_up)
            assert (await api.ask("GET", "/api/me")).status_code == 200
            assert not any(each.done() for each in crowd)
        shown = {answer.text for answer in await asyncio.gather(*crowd)}
    finally:
        await locker.close()
    assert len(shown) == 1


async def test_metrics_count_requests_by_route_and_agents_by_state(api: Api) -> None:
    agent_id = await api.running()
    await api.ask("GET", f"/api/agents/{agent_id}")
    await api.http.get("/nothing/here")
    shown = (await api.http.get("/metrics")).text
    assert 'berth_http_requests_total{method="GET",route="/api/agents/{agentId}",status="200"} 1.0' in shown
    assert 'berth_http_requests_total{method="GET",route="unmatched",status="404"} 1.0' in shown
    assert 'berth_agents{pool="default",state="running"} 1.0' in shown
    assert "berth_database_up 1.0" in shown
    assert agent_id not in shown
    assert "owner" not in shown


async def test_metrics_hold_real_waits_against_what_was_told(api: Api) -> None:
    async with api.db.transaction() as session:
        waits = [(30, 1), (90, 1), (3000, 20)]
        told = [Waited(seconds=seconds, told=Wait(minutes=most, low=0, high=most)) for seconds, most in waits]
        await tallies.count(session, "default", [*told, Waited(seconds=90000, told=None)])
        await tallies.count(session, "side", [Waited(seconds=0, told=None)])
    shown = (await api.http.get("/metrics")).text
    for line in (
        'berth_queue_waited_seconds_bucket{le="15",pool="default"} 0.0',
        'berth_queue_waited_seconds_bucket{le="120",pool="default"} 2.0',
        'berth_queue_waited_seconds_bucket{le="+Inf",pool="default"} 4.0',
        'berth_queue_waited_seconds_sum{pool="default"} 93120.0',
        'berth_queue_waited_seconds_bucket{le="1",pool="side"} 1.0',
        'berth_queue_wait_error_minutes_bucket{le="0.5",pool="default"} 2.0',
        'berth_queue_wait_error_minutes_count{pool="default"} 3.0',
        'berth_queue_wait_error_minutes_sum{pool="default"} 31.0',
        'berth_queue_wait_foretold_total{came="within",pool="default"} 1.0',
        'berth_queue_wait_foretold_total{came="later",pool="default"} 2.0',
        'berth_queue_wait_foretold_total{came="sooner",pool="default"} 0.0',
    ):
        assert line in shown.splitlines()


async def test_metrics_tell_what_each_pool_would_need_and_what_shuts_it(api: Api) -> None:
    await api.running()
    await api.sql("INSERT INTO pool_overrides (pool, capacity, paused) VALUES ('default', 1, true) RETURNING pool")
    await api.member("late", ["new"])
    await api.start("late", "new")
    await api.sql("UPDATE agents SET created_at = now() - interval '50 s' WHERE user_id = 'late' RETURNING agent_id")
    shown = (await api.http.get("/metrics")).text.splitlines()
    assert 'berth_pool_agents_wanted{pool="default"} 2.0' in shown
    assert 'berth_pool_capacity{pool="default"} 1.0' in shown
    assert 'berth_pool_closed{pool="default",reason="pool_paused"} 1.0' in shown
    assert 'berth_pool_closed{pool="default",reason="insufficient_cluster_resources"} 0.0' in shown
    (longest,) = [line for line in shown if line.startswith('berth_queue_oldest_seconds{pool="default"}')]
    assert 50 <= float(longest.split()[1]) < 3600
    await api.sql("UPDATE clusters SET measured_at = now() - interval '1 hour' RETURNING cluster")
    await api.sql("UPDATE pool_overrides SET paused = false RETURNING pool")
    shown = (await api.http.get("/metrics")).text.splitlines()
    assert 'berth_pool_closed{pool="default",reason="insufficient_cluster_resources"} 1.0' in shown


async def test_metrics_tell_that_the_scheduler_finds_no_place_where_there_should_be_one(api: Api) -> None:
    closed = 'berth_pool_closed{pool="default",reason="no_suitable_node"}'
    assert f"{closed} 0.0" in (await api.http.get("/metrics")).text.splitlines()
    await api.sql("UPDATE clusters SET refused = jsonb_build_object('default', now()) RETURNING cluster")

    async def told() -> bool:
        return f"{closed} 1.0" in (await api.http.get("/metrics")).text.splitlines()

    await eventually(told)


async def test_metrics_tell_each_clusters_use_age_and_evictions(api: Api) -> None:
    await api.lives.look(9, memory_percent=93.5, network_mbit=120)
    await api.sql(
        """UPDATE clusters SET evictions = '{"user_away": 3}', measured_at = now() - interval '40 s' RETURNING 1"""
    )
    for _ in range(2):  # all of it is told anew each time
        shown = (await api.http.get("/metrics")).text
        assert 'berth_cluster_memory_percent{cluster="local"} 93.5' in shown
        assert 'berth_cluster_network_mbit{cluster="local"} 120.0' in shown
        assert "berth_cluster_cpu_percent{" not in shown
        assert 'berth_cluster_choked{cluster="local"} 1.0' in shown
        assert 'berth_evictions_total{cluster="local",reason="user_away"} 3.0' in shown
        assert 'berth_evictions_total{cluster="local",reason="oldest_of_lowest_tier"} 0.0' in shown
    age = next(line for line in shown.splitlines() if line.startswith('berth_snapshot_age_seconds{cluster="local"}'))
    assert float(age.split()[1]) >= 40


async def test_metrics_count_running_agents_that_have_fallen_silent(api: Api) -> None:
    agent_id = await api.running()
    assert "berth_agents_silent 0.0\n" in (await api.http.get("/metrics")).text
    await api.sql(
        """INSERT INTO channels (agent_id, attempt, last_seen_at) VALUES (:a, 1, now() - interval '70 s')
        ON CONFLICT (agent_id, attempt) DO UPDATE SET last_seen_at = excluded.last_seen_at RETURNING 1""",
        a=agent_id,
    )
    assert "berth_agents_silent 1.0\n" in (await api.http.get("/metrics")).text


async def test_metrics_tell_nothing_of_a_cluster_that_no_pool_is_of_any_more(api: Api) -> None:
    await api.lives.look(9)
    await api.sql("UPDATE clusters SET cluster = 'yesterday' RETURNING 1")
    assert "yesterday" not in (await api.http.get("/metrics")).text


async def test_unknown_paths_and_methods_are_problems(api: Api) -> None:
    nowhere = await api.http.get("/api/nowhere")
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "not_found")
    wrong = await api.http.delete("/api/agents")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"]
    for answer in (nowhere, wrong):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"template": "\\ud800"}', b'{"template": NaN}', b"1e999999"]
)
async def test_body_that_is_no_json_is_a_problem(api: Api, content: bytes) -> None:
    answer = await api.start(content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) in {(422, "invalid_request"), (422, "unknown_template")}
    assert answer.headers["content-type"] == "application/problem+json"


async def test_body_over_a_mebibyte_is_refused_with_and_without_its_length(api: Api) -> None:
    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield b" " * 65_536

    announced = await api.start(content=b" " * (2 << 20), headers={"Content-Type": "application/json"})
    chunked = await api.start(content=unannounced(), headers={"Content-Type": "application/json"})
    for answer in (announced, chunked):
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert answer.headers["content-type"] == "application/problem+json"
    assert not api.lives.orders


async def test_client_that_sends_all_of_a_long_body_first_reads_why_it_is_refused(api: Api) -> None:
    async with serve(api.app) as url, httpx2.AsyncClient(base_url=url) as http:
        answer = await http.post("/api/projects/shop/start-agent", headers=api.bearer(), content=b" " * (6 << 20))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "path", ["x" * 257, "%00", "%C3%28", ".", "..", "%0A", "%7F", "a%00b", "%ED%A0%80"], ids=lambda path: path[:9]
)
async def test_malformed_ids_are_refused(api: Api, path: str) -> None:
    transport = httpx2.ASGITransport(api.app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://berth") as http:
        url = httpx2.URL("http://berth/", raw_path=f"/api/projects/{path}/start-agent".encode())
        answer = await http.post(url, headers=api.bearer())
    assert answer.status_code in {404, 422}, answer.text
    assert answer.json()["code"] in {"not_found", "invalid_request"}
    assert not api.lives.orders


async def test_fault_of_ours_tells_its_text_to_nobody(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(api.lives, "start", broken)
    answer = await api.start()
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "hunter2" not in answer.text
    assert answer.headers["x-request-id"]


async def test_database_that_is_away_is_unavailable_and_comes_back(database_url: str, settings: Settings) -> None:
    async with Db.open(database_url, application="test", pool_size=2) as db:
        lives = SimulatedLives(db, settings)
        await lives.look(10)
        async with replica(db, settings, lives) as api:
            await api.member("owner", ["shop"])
            name = database_url.rsplit("/", 1)[1]
            server = await _admin(database_url)
            try:
                await server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
                await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
                for _ in range(3):
                    answer = await api.start()
                    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
                    assert "retry-after" in answer.headers
                assert "berth_database_up 0.0" in (await api.http.get("/metrics")).text
                await server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            finally:
                await server.close()
            assert (await api.start()).status_code == 201


@pytest.mark.parametrize("where", ["127.0.0.1:9", "localhost:9", "nobody.invalid", "/berth?host=/nowhere"])
async def test_database_that_cannot_be_reached_is_unavailable_whatever_is_in_the_way(
    settings: Settings, where: str
) -> None:
    async with (
        Db.open(f"postgresql://{where}", application="test", pool_size=1) as db,
        replica(db, settings, SimulatedLives(db, settings)) as api,
    ):
        answer = await api.start()
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")


async def test_trouble_with_a_file_is_not_told_as_a_database_that_is_away(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(api.lives, "start", full)
    answer = await api.start()
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")


async def _admin(database_url: str) -> asyncpg.Connection:
    return await asyncpg.connect(database_url.rsplit("/", 1)[0] + "/postgres")


async def test_refusals_do_not_repeat_what_was_sent(api: Api) -> None:
    answer = await api.ask("PUT", "/api/projects/shop/start-agent", json={"password": "hunter2"})
    assert "hunter2" not in answer.text
    answer = await api.start(json={"template": 5, "password": "hunter2"})
    assert answer.status_code == 422
    assert "hunter2" not in answer.text
    assert {each["where"] for each in answer.json()["errors"]} == {"body.template", "body.password"}


async def test_docs_are_one_page_without_anything_from_elsewhere(api: Api) -> None:
    page = await api.http.get("/docs")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "/api/projects/{projectId}/start-agent" in page.text
    assert "<script" not in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text


async def test_docs_and_their_document_are_written_once_however_often_a_stranger_asks(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    page, render = docs.page, JSONResponse.render

    def counted_page(found: dict[str, Any]) -> str:
        written.append("page")
        return page(found)

    def counted_render(answer: JSONResponse, found: Any) -> bytes:
        written.append("document")
        return render(answer, found)

    monkeypatch.setattr(docs, "page", counted_page)
    monkeypatch.setattr(JSONResponse, "render", counted_render)
    for path, kind in (("/docs", "text/html; charset=utf-8"), ("/openapi.json", "application/json")):
        first, *others = [await api.http.get(path) for _ in range(3)]
        assert (first.status_code, first.headers["content-type"]) == (200, kind)
        assert {each.content for each in others} == {first.content}
    assert sorted(written) == ["document", "page"]
    assert (await api.http.get("/openapi.json")).json() == api.app.openapi()

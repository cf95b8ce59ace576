"""Nobody gets in with a token that is not theirs, and nobody reaches what is not theirs."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import api.auth
from api.auth import Role, issue, open_verifier
from core.errors import Unauthenticated
from core.settings import Auth
from tests.fixtures.api import SECRET, Api
from tests.fixtures.live import eventually


def _claims(**changes: Any) -> dict[str, Any]:
    claims = {"sub": "owner", "role": "user", "exp": datetime.now(UTC) + timedelta(minutes=5)} | changes
    return {name: value for name, value in claims.items() if value is not None}


_HOUR_AGO = datetime(2020, 1, 1, tzinfo=UTC)

BAD_TOKENS = {
    "another secret": jwt.encode(_claims(), "x" * 64, "HS256"),
    "expired": jwt.encode(_claims(exp=_HOUR_AGO), SECRET, "HS256"),
    "no algorithm": jwt.encode(_claims(), "", "none"),
    "another algorithm": jwt.encode(_claims(), SECRET, "HS512"),
    "for another audience": jwt.encode(_claims(aud="someone"), SECRET, "HS256"),
    "no subject": jwt.encode(_claims(sub=None), SECRET, "HS256"),
    "subject too long": jwt.encode(_claims(sub="x" * 257), SECRET, "HS256"),
    "subject with NUL": jwt.encode(_claims(sub="a\x00b"), SECRET, "HS256"),
    "no role": jwt.encode(_claims(role=None), SECRET, "HS256"),
    "unknown role": jwt.encode(_claims(role="root"), SECRET, "HS256"),
    "no end": jwt.encode(_claims(exp=None), SECRET, "HS256"),
    "not yet": jwt.encode(_claims(nbf=datetime.now(UTC) + timedelta(hours=1)), SECRET, "HS256"),
    "garbage": "a.b.c",
    "empty": "",
    "huge": "x" * 20_000,
}


@pytest.mark.parametrize("what", BAD_TOKENS)
async def test_token_is_refused(api: Api, what: str) -> None:
    answer = await api.http.get("/api/me", headers={"Authorization": f"Bearer {BAD_TOKENS[what]}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert BAD_TOKENS[what][:20] not in answer.text or not BAD_TOKENS[what]


async def test_right_token_is_let_in(api: Api) -> None:
    assert (await api.ask("GET", "/api/me")).status_code == 200


async def test_valid_token_makes_no_user(api: Api) -> None:
    for method, path, operation in _routes(api, "ag-x", "shop", "owner"):
        if "/admin/" not in path:
            answer = await api.ask(method, path, "nobody", json=_BODIES.get(operation))
            assert (answer.status_code, answer.json()["code"]) == (404, "unknown_user"), path
    assert await api.sql("SELECT user_id FROM users WHERE user_id = 'nobody'") == []


_PUBLIC = {"/health", "/ready", "/metrics"}
_AGENTS_OWN = {"/agent-register", "/agent-heartbeat", "/agent-artefacts/{commandId}"}
_BODIES = {
    "putUser": {"tier": "free"},
    "putProject": {"members": []},
    "putPool": {"paused": False},
    "orderMaintenance": {"pool": "default"},
    "resizeAgent": {"cpu": "1"},
    "execute": {"command": "state"},
}


def _routes(api: Api, agent_id: str, project_id: str, user_id: str) -> list[tuple[str, str, str]]:
    """Every operation of ours in the OpenAPI document, its path filled in."""
    values = {"agentId": agent_id, "projectId": project_id, "userId": user_id, "pool": "default"}
    values |= {
        "commandId": "cmd-1",
        "artefactId": "ar-1",
        "scheduledStartId": "ss-1",
        "noticeId": "no-1",
        "channel": "email",
    }
    found = []
    for path, methods in api.app.openapi()["paths"].items():
        if path in _PUBLIC | _AGENTS_OWN:
            continue
        for method, operation in methods.items():
            needs_body = operation.get("requestBody", {}).get("required", False)
            assert operation["operationId"] in _BODIES or not needs_body, (
                "without its body it is refused for that alone"
            )
            found.append((method.upper(), path.format(**values), operation["operationId"]))
    return found


async def test_no_route_answers_without_a_token(api: Api) -> None:
    routes = _routes(api, "ag-x", "shop", "owner")
    assert len(routes) >= 20
    for method, path, operation in routes:
        answer = await api.http.request(method, path, json=_BODIES.get(operation))
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), (method, path)


async def test_stranger_finds_nothing_on_any_route(api: Api) -> None:
    agent_id = await api.running()
    before = await api.sql("SELECT * FROM agents")
    asked = 0
    for method, path, operation in _routes(api, agent_id, "shop", "owner"):
        if agent_id not in path and "/projects/shop" not in path and "/admin/" not in path:
            continue
        answer = await api.ask(method, path, "stranger", json=_BODIES.get(operation))
        expected = 403 if "/admin/" in path else 404
        assert answer.status_code == expected, (method, path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert agent_id not in answer.text
        asked += 1
    assert asked >= 15
    assert await api.sql("SELECT * FROM agents") == before
    assert not api.lives.stops


async def test_what_is_not_there_and_what_is_not_yours_look_alike(api: Api) -> None:
    agent_id = await api.running()
    theirs = await api.ask("GET", f"/api/agents/{agent_id}", "stranger")
    nothing = await api.ask("GET", "/api/agents/ag-0000", "stranger")
    assert theirs.json() == nothing.json()
    no_project = await api.start("stranger", "nowhere")
    not_mine = await api.start("stranger", "shop")
    assert no_project.json() == not_mine.json()


async def test_lists_hold_only_what_is_yours(api: Api) -> None:
    await api.start()
    assert (await api.ask("GET", "/api/agents", "stranger")).json() == {"items": [], "nextCursor": None}
    assert (await api.ask("GET", "/api/agents?projectId=shop", "stranger")).json()["items"] == []
    assert (await api.ask("GET", "/api/queue", "stranger")).json() == {"items": []}


async def test_one_who_was_put_out_of_a_project_cannot_keep_its_agent(api: Api) -> None:
    agent_id = await api.running()
    await api.ask("POST", f"/api/agents/{agent_id}/stop", json={"graceSeconds": 60})
    await api.ask("PUT", "/api/admin/projects/shop", "admin", role=Role.ADMIN, json={"members": []})
    assert (await api.ask("POST", f"/api/agents/{agent_id}/keep")).status_code == 404
    assert (await api.start()).status_code == 404


async def test_role_in_the_token_decides_about_admin_routes_and_the_user_must_be_known(api: Api) -> None:
    assert (await api.ask("GET", "/api/admin/pools", "owner")).json()["code"] == "forbidden"
    assert (await api.ask("GET", "/api/admin/pools", "admin", role=Role.ADMIN)).status_code == 200
    assert (await api.ask("GET", "/api/admin/pools", "nobody", role=Role.ADMIN)).json()["code"] == "unknown_user"


async def test_token_does_not_stand_in_the_log(api: Api, capfd: pytest.CaptureFixture[str]) -> None:
    headers = api.bearer()
    await api.http.get("/api/agents?cursor=zzz", headers=headers)
    seen = capfd.readouterr()
    assert headers["Authorization"].split(".")[-1] not in seen.out + seen.err


class _Issuer:
    """An issuer with one key, whose key set is fetched over true HTTP."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.kid = "one"
        self.asked = 0

    def document(self) -> dict[str, Any]:
        self.asked += 1
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [public | {"kid": self.kid, "alg": "RS256", "use": "sig"}]}

    def token(self, **changes: Any) -> str:
        claims = _claims(aud="berth") | changes
        return jwt.encode(claims, self.key, "RS256", headers={"kid": self.kid})


@pytest.fixture
def issuer() -> _Issuer:
    return _Issuer()


async def test_issuers_token_is_let_in_and_its_keys_are_fetched_once(issuer: _Issuer, serve_json: Any) -> None:
    verifier = open_verifier(Auth(jwks_url=await serve_json(issuer.document), audience="berth"))
    for _ in range(3):
        assert (await verifier.verify(issuer.token())).user_id == "owner"
    assert issuer.asked == 1


async def test_issuers_public_key_signs_nothing(issuer: _Issuer, serve_json: Any) -> None:
    verifier = open_verifier(Auth(jwks_url=await serve_json(issuer.document), audience="berth"))
    public = str(issuer.document()["keys"][0]["n"])
    forged = [
        jwt.encode(_claims(aud="berth"), public, "HS256", headers={"kid": "one"}),
        jwt.encode(_claims(aud="berth"), "", "none", headers={"kid": "one"}),
        issuer.token(aud="another"),
        jwt.encode(_claims(), issuer.key, "RS256", headers={"kid": "one"}),
        _Issuer().token(),
        issuer.token() + "x",
    ]
    for token in forged:
        with pytest.raises(Unauthenticated):
            await verifier.verify(token)


async def test_unknown_key_ids_do_not_make_berth_ask_the_issuer_each_time(issuer: _Issuer, serve_json: Any) -> None:
    verifier = open_verifier(Auth(jwks_url=await serve_json(issuer.document), audience="berth"))
    await verifier.verify(issuer.token())
    issuer.kid = "another"
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            await verifier.verify(issuer.token())
    assert issuer.asked == 1


async def test_known_keys_let_in_at_once_while_the_issuer_hangs(
    issuer: _Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    never, asked = asyncio.Event(), asyncio.Event()
    served = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        if served > 1:
            asked.set()
            await never.wait()
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps(issuer.document()).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        verifier = open_verifier(Auth(jwks_url=f"http://127.0.0.1:{port}/keys", audience="berth"))
        await verifier.verify(issuer.token())
        monkeypatch.setattr(api.auth, "_KEYS_LAST_SECONDS", 0.0)
        for _ in range(3):
            assert (await verifier.verify(issuer.token())).user_id == "owner"
        monkeypatch.setattr(api.auth, "_REFETCH_SECONDS", 0.0)
        async with asyncio.timeout(4):
            for _ in range(3):
                assert (await verifier.verify(issuer.token())).user_id == "owner"
            # The renewal is under way all the same, beside those who are let in.
            await asked.wait()
            assert (await verifier.verify(issuer.token())).user_id == "owner"
        never.set()


async def test_all_who_come_while_the_issuer_is_asked_in_vain_are_told_of_that_one_failure(issuer: _Issuer) -> None:
    asked, fails = 0, asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        await fails.wait()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        verifier = open_verifier(Auth(jwks_url=f"http://127.0.0.1:{port}/keys", audience="berth"))
        token = issuer.token()
        callers = [asyncio.create_task(verifier.verify(token)) for _ in range(100)]
        await eventually(lambda: asked == 1)
        # One who hangs up takes nobody's answer along, not even as the first who came.
        callers.pop(0).cancel()
        fails.set()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert {getattr(outcome, "error_code", outcome) for outcome in outcomes} == {"issuer_unavailable"}
    assert asked == 1


def test_berth_makes_no_tokens_for_an_issuer() -> None:
    with pytest.raises(ValueError, match="JWKS"):
        issue(Auth(jwks_url="http://x", audience="b"), "a", Role.USER, datetime.now(UTC), timedelta(1))

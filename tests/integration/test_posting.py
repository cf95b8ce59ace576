"""Webhooks over true HTTP: signed, sent where they may go and nowhere else, and never waited for without end."""

import asyncio
import base64
import contextlib
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from activities.posting import WebhookSender
from core.db.repositories.notices import Taken
from core.domain.notices import Channel, Trouble
from core.domain.webhooks import body_of, headers_of
from tests.capabilities import ROOT
from tests.fixtures.receivers import OTHER_SECRET, SECRET, Backend, self_signed
from tests.unit.test_domain_notices import happened

NOTICE = Taken(
    notice_id="ag-1-7-webhook", channel=Channel.WEBHOOK, recipient=None, tries=1, tired=False, happened=happened()
)


def guide() -> dict[str, Any]:
    """What the receivers' guide shows, run as it stands."""
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/notices.md").read_text(), re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(snippet, namespace)  # noqa: S102  it is our own document that is tried
    return namespace


async def test_what_arrives_is_taken_by_the_code_of_the_receivers_guide(backend: Backend) -> None:
    assert await WebhookSender(backend.settings()).send(NOTICE) is None
    (delivery,) = backend.taken
    verify = guide()["verify"]
    assert verify(SECRET, delivery.headers, delivery.body) == delivery.told
    assert delivery.told["type"] == "agent.failed"
    assert delivery.headers["host"] == f"127.0.0.1:{backend.port}"
    assert delivery.headers["content-type"] == "application/json"


async def test_forged_altered_and_old_deliveries_are_refused_by_the_code_of_the_guide(backend: Backend) -> None:
    await WebhookSender(backend.settings()).send(NOTICE)
    (delivery,) = backend.taken
    verify, headers = guide()["verify"], delivery.headers
    for wrong in (
        (OTHER_SECRET, headers, delivery.body),
        (SECRET, headers, delivery.body + b" "),
        (SECRET, {**headers, "webhook-id": "ag-1-8-webhook"}, delivery.body),
        (SECRET, {**headers, "webhook-timestamp": str(int(time.time()) + 1)}, delivery.body),
        (SECRET, {**headers, "webhook-signature": "v1,AAAA v2,BBBB"}, delivery.body),
    ):
        with pytest.raises(ValueError, match="signature"):
            verify(*wrong)
    keys = WebhookSender(backend.settings())._keys
    old = headers_of(NOTICE.notice_id, int(time.time()) - 600, delivery.body, keys)
    with pytest.raises(ValueError, match="old"):
        verify(SECRET, old, delivery.body)


async def test_while_a_secret_is_changed_both_receivers_take_it(backend: Backend) -> None:
    both = backend.settings(secrets=SecretStr(f"{OTHER_SECRET},{SECRET}"))
    await WebhookSender(both).send(NOTICE)
    (delivery,) = backend.taken
    verify = guide()["verify"]
    for secret in (SECRET, OTHER_SECRET):
        assert verify(secret, delivery.headers, delivery.body)


def test_signature_is_that_of_the_specification() -> None:
    """Made with another implementation: printf '%s' "$id.$time.$body" | openssl dgst -sha256 -mac HMAC -binary."""
    body = body_of(happened())
    headers = headers_of("ag-1-7-webhook", 1767225600, body, [b"0123456789abcdef0123456789abcdef"])
    signed = b"ag-1-7-webhook.1767225600." + body
    made = subprocess.run(
        ["openssl", "dgst", "-sha256", "-hmac", "0123456789abcdef0123456789abcdef", "-binary"],
        input=signed,
        capture_output=True,
        check=True,
        timeout=10,
    ).stdout
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(made).decode()}"


PRIVATE = [
    "127.0.0.1",
    "localhost",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.100.100.200",
    "0.0.0.0",  # noqa: S104  an address to refuse
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::7f00:1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "2130706433",
    "0x7f.1",
    "017700000001",
]


@pytest.mark.parametrize("host", PRIVATE)
async def test_address_that_is_not_public_is_refused_before_anything_is_sent(backend: Backend, host: str) -> None:
    closed = backend.settings(url=f"http://{host}:{backend.port}/", allow_private=False)
    failure = await WebhookSender(closed).send(NOTICE)
    assert failure is not None
    assert failure.trouble in {Trouble.PRIVATE_ADDRESS, Trouble.UNKNOWN_HOST}
    if not host.startswith("0"):
        assert failure.trouble is Trouble.PRIVATE_ADDRESS
    assert not failure.final
    assert backend.connections == 0


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Make the resolver give these, one after the other, and then the last for ever; the names that are asked for."""
    asked: list[str] = []
    left = list(answers)

    async def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo, raising=False)
    return asked


async def test_name_that_leads_to_a_private_address_is_refused(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, ["127.0.0.1", "10.1.2.3"])
    closed = backend.settings(url=f"http://hooks.example:{backend.port}/", allow_private=False)
    failure = await WebhookSender(closed).send(NOTICE)
    assert failure is not None
    assert failure.trouble is Trouble.PRIVATE_ADDRESS
    assert backend.connections == 0


async def test_address_that_was_checked_is_the_one_connected_to(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that means something else a moment later gains nothing: it is asked for once."""
    asked = names(monkeypatch, ["127.0.0.1"], ["192.0.2.1"])
    named = backend.settings(url=f"http://hooks.example:{backend.port}/a?b=c")
    assert await WebhookSender(named).send(NOTICE) is None
    assert asked == ["hooks.example"]
    assert backend.taken[0].headers["host"] == f"hooks.example:{backend.port}"


async def test_of_several_addresses_the_next_is_tried_when_one_takes_no_connection(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = _sender_to(backend, monkeypatch, "127.0.0.9", "127.0.0.1")
    assert await sender.send(NOTICE) is None
    assert len(backend.taken) == 1


async def test_of_several_addresses_the_next_is_tried_when_one_never_answers_at_all(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = _sender_to(backend, monkeypatch, "127.0.0.9", "127.0.0.1", timeout_seconds=4)
    with _black_hole("127.0.0.9", backend.port):
        assert await sender.send(NOTICE) is None
    assert len(backend.taken) == 1


async def test_of_several_addresses_that_take_nothing_is_told_what_says_most(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one does not say in time says more than that this machine has no way to another."""
    sender = _sender_to(backend, monkeypatch, "127.0.0.9", "127.0.0.8", timeout_seconds=1)
    with _black_hole("127.0.0.9", backend.port):
        failure = await sender.send(NOTICE)
    assert failure is not None
    assert failure.trouble is Trouble.TIMEOUT


@contextlib.contextmanager
def _black_hole(host: str, port: int) -> Iterator[None]:
    """Nobody takes those who are in its full queue of connections, so who comes after them is not even refused."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind((host, port))
        server.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((host, port))
        yield


def _sender_to(backend: Backend, monkeypatch: pytest.MonkeyPatch, *addresses: str, **settings: float) -> WebhookSender:
    """One whose receiver's name has these addresses, in this order."""
    names(monkeypatch, list(addresses))
    return WebhookSender(backend.settings(url=f"http://hooks.example:{backend.port}/", **settings))


async def test_host_that_never_answers_is_left_after_a_while(backend: Backend) -> None:
    backend.silent = True
    failure = await WebhookSender(backend.settings(timeout_seconds=0.3)).send(NOTICE)
    assert failure is not None
    assert (failure.trouble, failure.detail) == (Trouble.TIMEOUT, "no answer within 0.3 s")


async def test_host_that_hangs_up_without_an_answer_is_told_apart(backend: Backend) -> None:
    backend.silent = True
    sending = asyncio.create_task(WebhookSender(backend.settings()).send(NOTICE))
    async with asyncio.timeout(10):
        while backend.connections == 0:  # noqa: ASYNC110  it happens on the other side of a socket
            await asyncio.sleep(0.01)
    await backend.down()
    failure = await sending
    assert failure is not None
    assert failure.trouble in {Trouble.NO_ANSWER, Trouble.UNREACHABLE}


async def test_nobody_at_home_and_a_name_that_is_none_have_codes_of_their_own(backend: Backend) -> None:
    gone = await WebhookSender(backend.settings(url="http://127.0.0.1:1/")).send(NOTICE)
    assert gone is not None
    assert gone.trouble is Trouble.UNREACHABLE
    nowhere = await WebhookSender(backend.settings(url="http://nowhere.invalid/")).send(NOTICE)
    assert nowhere is not None
    assert nowhere.trouble is Trouble.UNKNOWN_HOST


async def test_redirect_is_not_followed(backend: Backend) -> None:
    backend.status, backend.headers = 307, f"location: http://127.0.0.1:{backend.port}/other\r\n"
    failure = await WebhookSender(backend.settings()).send(NOTICE)
    assert failure is not None
    assert (failure.trouble, failure.detail) == (Trouble.REDIRECT, "HTTP 307")
    assert backend.connections == 1


async def test_answer_that_is_no_success_is_tried_later_and_may_say_when(backend: Backend) -> None:
    backend.status, backend.headers = 429, "retry-after: 120\r\n"
    failure = await WebhookSender(backend.settings()).send(NOTICE)
    assert failure is not None
    assert (failure.trouble, failure.detail, failure.asked, failure.final) == (Trouble.STATUS, "HTTP 429", 120, False)


async def test_endless_answer_is_not_listened_to() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                await writer.drain()
                sent += 0x10000
        except OSError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert await WebhookSender(Backend().settings(url=url)).send(NOTICE) is None
    assert sent < 64 << 20


async def test_certificate_must_be_of_the_name_although_an_address_is_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, cert = await asyncio.to_thread(self_signed, "hooks.example", tmp_path)
    taken: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=mine) as server:
        port = server.sockets[0].getsockname()[1]
        for host, trusted, trouble in (
            ("hooks.example", True, None),
            ("others.example", True, Trouble.TLS),
            ("hooks.example", False, Trouble.TLS),
        ):
            sender = WebhookSender(Backend().settings(url=f"https://{host}:{port}/"))
            if trusted:
                known = ssl.create_default_context(cafile=str(cert))
                sender._http = httpx2.AsyncClient(verify=known, trust_env=False)
            names(monkeypatch, ["127.0.0.1"])
            failure = await sender.send(NOTICE)
            assert (failure and failure.trouble) == trouble, failure
    assert len(taken) == 1

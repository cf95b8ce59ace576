"""The decision about one address, without a browser: every way to write loopback is loopback."""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agent_image.agent.addresses import AddressPolicy, Refused, check_scheme
from agent_image.agent.gateway import Gateway
from core.dev.demo.shop import Shop
from core.domain.addresses import is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.0.3", "0.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "100.100.100.200", "224.0.0.251", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1",
        "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "fe80::1", "fc00::1",
        "fd00:ec2::254", "fec0::1", "ff02::1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:db8::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2", "64:ff9b:1:7f00:0:100:808:808",
    ],
)  # fmt: skip
def test_address_of_no_public_place_is_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    with pytest.raises(Refused):
        AddressPolicy.of(()).choose("some.name", 80, [ipaddress.ip_address(address)])


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "::ffff:1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"]
)
def test_address_of_a_public_place_is_open(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("entry", "host", "port", "address", "open_"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80, "127.0.0.1", True),
        ("127.0.0.1:80", "127.0.0.1", 81, "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1", 81, "127.0.0.1", True),
        ("127.0.0.1:80", "[::ffff:127.0.0.1]", 80, "::ffff:127.0.0.1", True),
        ("127.0.0.1:80", "rebound.example", 81, "127.0.0.1", False),
        ("shop.internal", "shop.internal", 8080, "10.0.0.7", True),
        ("shop.internal", "SHOP.internal.", 8080, "10.0.0.7", True),
        ("shop.internal", "evil.shop.internal", 8080, "10.0.0.7", False),
        ("10.0.0.0/24", "anything", 1, "10.0.0.7", True),
        ("10.0.0.0/24", "anything", 1, "10.0.1.7", False),
        ("[::1]:80", "::1", 80, "::1", True),
        ("::1", "::1", 9, "::1", True),
    ],
)
def test_allow_list_opens_what_it_names_and_nothing_beside_it(
    entry: str, host: str, port: int, address: str, open_: bool
) -> None:
    policy = AddressPolicy.of([entry])
    found = [ipaddress.ip_address(address)]
    if open_:
        assert policy.choose(host, port, found) == found
    else:
        with pytest.raises(Refused):
            policy.choose(host, port, found)


@pytest.mark.parametrize("entry", ["", "a b", "host:port", "host:99999", "10.0.0.0/99", "http://host", "user@host"])
def test_entry_that_is_no_host_is_an_error_with_its_name(entry: str) -> None:
    with pytest.raises(ValueError, match="allowed_hosts"):
        AddressPolicy.of([entry])


@pytest.mark.parametrize("url", ["file:///x", " file:///x", "chrome://x", "view-source:http://x", "ws://x", "x", ""])
def test_page_of_another_kind_than_the_webs_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        check_scheme(url)


@pytest.fixture
def secret() -> Iterator[Shop]:
    with Shop() as shop:
        yield shop


async def test_name_that_turns_into_loopback_between_two_questions_gains_nothing(
    secret: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when the page is checked, loopback when it is fetched."""
    answers = ["93.184.216.34", "127.0.0.1"]

    def rebound(host: str, port: int, **kwargs: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

    gateway = Gateway(AddressPolicy.of(()))
    await gateway.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        monkeypatch.setattr(socket, "getaddrinfo", rebound)
        await gateway.check(f"http://rebound.example:{secret.port}/secret")
        writer.write(f"GET http://rebound.example:{secret.port}/secret HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    finally:
        await gateway.stop()
    assert answer.startswith(b"HTTP/1.1 403")
    assert answers == []
    assert secret.seen == []


async def test_names_that_nobody_answers_for_hold_up_nothing_but_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nameserver that is away, or one of a page's own that never answers: the agent's health needs a thread too."""
    asked, answered = threading.Semaphore(0), threading.Event()

    def silent(host: str, port: int, **kwargs: Any) -> list[Any]:
        asked.release()
        answered.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    gateway = Gateway(AddressPolicy.of(()))
    lookups = [asyncio.create_task(gateway.check(f"http://{number}.silent.example/")) for number in range(100)]
    try:
        assert await asyncio.wait_for(asyncio.to_thread(asked.acquire), 10)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "well"), 10) == "well"
        assert not any(lookup.done() for lookup in lookups)
    finally:
        answered.set()
    assert all(isinstance(end, OSError) for end in await asyncio.gather(*lookups, return_exceptions=True))
    await gateway.stop()


async def test_name_that_cannot_be_one_is_a_site_that_is_not_found() -> None:
    gateway = Gateway(AddressPolicy.of(()))
    with pytest.raises(socket.gaierror):
        await gateway.check(f"http://{'a' * 64}.example/")
    await gateway.stop()


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n",
        b"CONNECT localhost:%d HTTP/1.1\r\n\r\n",
        b"GET http://127.0.0.1:%d/secret HTTP/1.1\r\n\r\n",
        b"GET gopher://127.0.0.1:%d/secret HTTP/1.1\r\n\r\n",
        b"GET http://127.0.0.1:%d/secret\r\n\r\n",
        b"POST http://127.0.0.1:%d/secret HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\r\n\r\n",
        b"\0\xff\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\n\r\n",
    ],
)
async def test_gateway_passes_nothing_to_loopback_whatever_it_is_asked(secret: Shop, request_: bytes) -> None:
    gateway = Gateway(AddressPolicy.of(()))
    await gateway.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request_ % secret.port if b"%d" in request_ else request_)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    finally:
        await gateway.stop()
    assert answer == b"" or answer.split(b" ")[1] in {b"400", b"403"}
    assert secret.seen == []


async def test_second_request_on_one_connection_is_not_sent_to_the_first_ones_host(secret: Shop) -> None:
    """A site that keeps its connection open must not get what is meant for another."""
    with Shop() as first:
        gateway = Gateway(AddressPolicy.of([f"127.0.0.1:{first.port}"]))
        await gateway.start()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            for shop, path in ((first, "/order"), (secret, "/secret")):
                writer.write(f"GET {shop.url}{path} HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n".encode())
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
        finally:
            await gateway.stop()
        assert answer.count(b"HTTP/1.") == 1
        assert b"connection: close" in answer.lower()
        assert first.seen == ["/order"]
        assert secret.seen == []

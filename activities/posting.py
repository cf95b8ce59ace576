"""Webhooks over the wire: to the address that was checked, signed, once, and never for longer than a moment."""

import asyncio
import ipaddress
import socket
import ssl
import time

import httpx2

from core.db.repositories.notices import Taken
from core.domain.addresses import IpAddress, is_public
from core.domain.notices import Failure, Trouble
from core.domain.webhooks import body_of, headers_of
from core.settings import Webhook

# A name that leads to many machines: so many of them are tried.
_MOST_ADDRESSES = 4
# A name may have addresses of a kind that this machine has no way to at all: what they say tells least.
_TELLING = (Trouble.UNREACHABLE, Trouble.TIMEOUT, Trouble.TLS)
# Of what is left at the very end; the limit of the whole comes first then.
_LEAST_SECONDS = 0.01
_MOST_ASKED_SECONDS = 86_400


class WebhookSender:
    """Connects to what the name meant when it was checked, so that a name which changes its meaning gains nothing.

    No redirect is followed and no proxy used, for both would lead to addresses that nobody checked.
    """

    at_once = 16

    def __init__(self, settings: Webhook) -> None:
        """Raises ValueError when there is no address, or no secret to sign with."""
        if settings.url is None:
            raise ValueError("WEBHOOK__URL is not set")
        self._settings = settings
        self._url = httpx2.URL(settings.url)
        self._keys = settings.keys()
        self._http = httpx2.AsyncClient(
            timeout=settings.timeout_seconds,
            follow_redirects=False,
            trust_env=False,
            limits=httpx2.Limits(max_connections=self.at_once, max_keepalive_connections=0),
        )

    async def send(self, notice: Taken) -> Failure | None:
        """None: it was taken. Sent again it has the same id and body, and the time and signature of that try."""
        try:
            until = asyncio.get_running_loop().time() + self._settings.timeout_seconds
            async with asyncio.timeout_at(until):
                addresses = await self._resolve()
                if isinstance(addresses, Failure):
                    return addresses
                return await self._post_to_one_of(addresses, notice, until)
        except (TimeoutError, httpx2.TimeoutException):
            return _failure(Trouble.TIMEOUT, f"no answer within {self._settings.timeout_seconds:g} s")

    async def _resolve(self) -> list[IpAddress] | Failure:
        host, port = self._url.raw_host.decode("ascii"), self._url.port
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return _failure(Trouble.UNKNOWN_HOST, f"{host} has no address")
        each = (ipaddress.ip_address(str(info[4][0]).split("%")[0]) for info in found)
        addresses = list(dict.fromkeys(each))
        allowed = [address for address in addresses if self._settings.allow_private or is_public(address)]
        if not allowed:
            return _failure(
                Trouble.PRIVATE_ADDRESS, f"{host} is not a public address, and WEBHOOK__ALLOW_PRIVATE is not set"
            )
        return allowed[:_MOST_ADDRESSES]

    async def _post_to_one_of(self, addresses: list[IpAddress], notice: Taken, until: float) -> Failure | None:
        """By `until` of the loop's clock; when none takes it, what tells most of why."""
        failures: list[Failure] = []
        for number, address in enumerate(addresses):
            # One that never answers leaves the others their part of the time.
            part = max((until - asyncio.get_running_loop().time()) / (len(addresses) - number), _LEAST_SECONDS)
            timeout = httpx2.Timeout(self._settings.timeout_seconds, connect=part)
            try:
                return await self._post(address, notice, timeout)
            except httpx2.ConnectTimeout:
                failures.append(_failure(Trouble.TIMEOUT, f"no connection within {part:.1f} s"))
            except httpx2.ConnectError as error:
                # Nothing has been sent, so the next one may be asked.
                trouble = Trouble.TLS if _is_tls(error) else Trouble.UNREACHABLE
                failures.append(_failure(trouble, f"no connection: {_said(error)}"))
            except httpx2.TimeoutException:
                raise
            except httpx2.TransportError as error:
                return _failure(Trouble.NO_ANSWER, f"the connection ended without an answer ({type(error).__name__})")
        return max(failures, key=lambda failure: _TELLING.index(failure.trouble))

    async def _post(self, address: IpAddress, notice: Taken, timeout: httpx2.Timeout) -> Failure | None:
        body = body_of(notice.happened)
        headers = {
            "Host": self._url.netloc.decode("ascii"),
            "Content-Type": "application/json",
            "User-Agent": "Berth-Webhooks/1",
            **headers_of(notice.notice_id, int(time.time()), body, self._keys),
        }
        # The certificate is still asked to be of the name, not of the address.
        named = {"sni_hostname": self._url.raw_host.decode("ascii")}
        url = self._url.copy_with(host=str(address))
        async with self._http.stream(
            "POST", url, content=body, headers=headers, extensions=named, timeout=timeout
        ) as answer:
            # What it says besides is not read: it could be without end.
            if answer.is_success:
                return None
            trouble = Trouble.REDIRECT if 300 <= answer.status_code < 400 else Trouble.STATUS
            asked = answer.headers.get("retry-after", "")
            seconds = min(int(asked), _MOST_ASKED_SECONDS) if asked.isascii() and asked.isdigit() else None
            return Failure(trouble=trouble, detail=f"HTTP {answer.status_code}", asked=seconds)


def _failure(trouble: Trouble, detail: str) -> Failure:
    return Failure(trouble=trouble, detail=detail)


def _is_tls(error: BaseException) -> bool:
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLError):
            return True
        found = found.__cause__ or found.__context__
    return False


def _said(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__

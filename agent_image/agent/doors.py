"""Who may come in over HTTP: whoever shows the agent's token, and never a web page."""

import hmac
import ipaddress

from aiohttp import web


class Doorkeeper:
    """Compares tokens in constant time."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def admits(self, request: web.Request) -> bool:
        """True for `Authorization: Bearer` or `X-Agent-Token` with the agent's token."""
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        shown = bearer.strip() if scheme.lower() == "bearer" else request.headers.get("X-Agent-Token", "")
        return hmac.compare_digest(shown.encode(errors="replace"), self._token)

    def trusts(self, request: web.Request) -> bool:
        """True for whoever shows the token, or asks from this machine."""
        return self.admits(request) or is_loopback(request.remote)

    def refusal(self, request: web.Request) -> web.Response | None:
        """The answer for a caller who must stay outside, None for one who may enter."""
        if "Origin" in request.headers:
            return web.json_response({"code": "origin_refused", "detail": "web pages may not call this"}, status=403)
        if not self.admits(request):
            return web.json_response({"code": "token_refused", "detail": "the agent's token is needed"}, status=401)
        return None


def is_loopback(peer: str | None) -> bool:
    """Whether a socket's other end is on this machine's loopback, also where IPv4 comes in by an IPv6 socket."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return False
    # Python before 3.13 takes a mapped address for one of IPv6.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback

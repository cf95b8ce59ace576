"""Which addresses the browser may reach: everything public, and what the template allows by name."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from core.domain.addresses import IpAddress, is_public

_IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

ALLOWED_SCHEMES = frozenset({"http", "https", "data", "blob", "about"})


class Refused(Exception):
    """The browser must not go there; the message is a sentence for the person who tried."""


@dataclass(frozen=True)
class AddressPolicy:
    """Built from `BrowserSettings.allowed_hosts`: `host`, `host:port`, `[v6]:port` or CIDR."""

    names: frozenset[tuple[str, int | None]]
    networks: tuple[_IpNetwork, ...]

    @classmethod
    def of(cls, allowed: Iterable[str]) -> Self:
        """Raises ValueError with one sentence for an entry that is none of the three forms."""
        names: set[tuple[str, int | None]] = set()
        networks: list[_IpNetwork] = []
        for entry in allowed:
            if "/" in entry:
                try:
                    networks.append(ipaddress.ip_network(entry, strict=False))
                except ValueError:
                    raise ValueError(f"allowed_hosts: {entry!r} is no CIDR") from None
                continue
            try:
                names.add((str(ipaddress.ip_address(entry.strip("[]"))), None))
                continue
            except ValueError:
                pass
            parts = urlsplit(f"//{entry}")
            try:
                port = parts.port
            except ValueError:
                raise ValueError(f"allowed_hosts: {entry!r} has no valid port") from None
            strange = parts.username or parts.path or parts.query or any(each.isspace() for each in entry)
            if not parts.hostname or strange:
                raise ValueError(f"allowed_hosts: {entry!r} is neither host, host:port nor CIDR")
            names.add((normal(parts.hostname), port))
        return cls(frozenset(names), tuple(networks))

    def named(self, host: str, port: int) -> bool:
        """The template names this host itself, so wherever the name leads is meant."""
        host = normal(host)
        return (host, None) in self.names or (host, port) in self.names

    def permits(self, address: IpAddress, port: int) -> bool:
        """May the browser connect to this very address?"""
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        address = mapped or address
        return (
            is_public(address)
            or self.named(str(address), port)
            or any(address.version == network.version and address in network for network in self.networks)
        )

    def choose(self, host: str, port: int, found: Iterable[IpAddress]) -> list[IpAddress]:
        """Those of `found` (what `host` resolves to) that may be connected to; raises `Refused` when there is none."""
        addresses = list(found)
        if self.named(host, port):
            return addresses
        good = [address for address in addresses if self.permits(address, port)]
        if not good:
            raise Refused(f"{host}:{port} is not a public address, and this agent's template does not allow it")
        return good


def normal(host: str) -> str:
    return host.rstrip(".").lower().strip("[]")


def check_scheme(url: str) -> None:
    """Raise `Refused` for a page that is none of the web's: file://, chrome://, view-source: and their like."""
    scheme = url.split(":", 1)[0].strip().lower() if ":" in url else ""
    if scheme not in ALLOWED_SCHEMES:
        raise Refused(f"pages of kind {scheme or 'unknown'!r} are closed to this browser")
    if scheme == "about" and url.strip().lower().split("#")[0].split("?")[0] not in {"about:blank", "about:srcdoc"}:
        raise Refused("only about:blank is open to this browser")

"""Which addresses of the network are public, where a browser or a message of ours may go; how a URL says one."""

import ipaddress

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_CGNAT = ipaddress.ip_network("100.64.0.0/10")  # also where some clouds keep their metadata service
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")  # each network chooses where in it the IPv4 address is
_TEREDO = ipaddress.ip_network("2001::/32")
_SIX_TO_FOUR = ipaddress.ip_network("2002::/16")


def is_public(address: IpAddress) -> bool:
    """False for loopback, private, link-local, multicast, reserved, and for IPv6 forms that carry an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if int(address) >> 32 == 0 or any(address in net for net in (_TEREDO, _SIX_TO_FOUR, _LOCAL_NAT64)):
            return False  # IPv4-compatible, tunnels, local translation: nothing public is served there today
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.is_site_local:
            return False
    elif address in _CGNAT:
        return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_loopback or address.is_link_local
    )


def called(host: str) -> str:
    """What stands in a URL of a server that listens on `host`, for whoever is on the same machine at the least."""
    match host:
        case "0.0.0.0" | "":  # noqa: S104 (compared, not bound)
            return "127.0.0.1"
        case "::":
            return "[::1]"
        case _:
            return f"[{host}]" if ":" in host else host

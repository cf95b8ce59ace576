"""The addresses of a cluster, its bridge on this machine, and the network namespace of each node.

    this machine: bridge btN, 10.X.0.1  ── veth ──  node-1: eth0 10.X.0.11, pods 10.X.64.0/20 behind its own bridge
                                        ── veth ──  node-2: eth0 10.X.0.12, pods 10.X.80.0/20

A node has a network namespace of its own, so it has the usual ports, its own kube-proxy and its own nftables. Pods and
this machine reach each other without translation; what pods send elsewhere leaves under this machine's address.
"""

import ipaddress
import json
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from core.dev.failure import CannotStart

_COMMAND_SECONDS = 20
_FIRST, _LAST = 130, 249  # X: the upper half of 10.0.0.0/8, which fewer people's networks use


class Network(BaseModel):
    """All addresses follow from `second`, the X above, which no other cluster or route of this machine has."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    second: int

    @property
    def everything(self) -> str:
        return f"10.{self.second}.0.0/16"

    @property
    def host(self) -> str:
        """The address of this machine as nodes and pods reach it."""
        return f"10.{self.second}.0.1"

    @property
    def services(self) -> str:
        return f"10.{self.second}.240.0/20"

    @property
    def api_service(self) -> str:
        return f"10.{self.second}.240.1"

    @property
    def dns_service(self) -> str:
        return f"10.{self.second}.240.10"

    @property
    def bridge(self) -> str:
        return f"bt{self.second}"

    @property
    def table(self) -> str:
        """The nftables table on this machine that lets pods out."""
        return f"berth-{self.second}"

    def node(self, number: int) -> str:
        return f"10.{self.second}.0.{10 + number}"

    def pods(self, number: int) -> str:
        return f"10.{self.second}.{48 + 16 * number}.0/20"

    def namespace(self, number: int) -> str:
        return f"berth-{self.second}-{number}"

    def veth(self, number: int) -> str:
        return f"bt{self.second}n{number}"


def free_network(taken: Sequence[Network]) -> Network:
    """One that no cluster of `taken` has and no route of this machine overlaps. Raises `CannotStart`."""
    routes = [
        ipaddress.ip_network(route["dst"], strict=False)
        for route in json.loads(_run("ip", "-json", "-4", "route", "show", "table", "all"))
        if route["dst"] != "default"
    ]
    for second in range(_FIRST, _LAST + 1):
        network = Network(second=second)
        mine = ipaddress.ip_network(network.everything)
        if network not in taken and not any(mine.overlaps(route) for route in routes):
            return network
    raise CannotStart(f"No 10.X.0.0/16 between 10.{_FIRST} and 10.{_LAST} is free on this machine.")


def make(network: Network, nodes: int) -> None:
    """Make the bridge, the namespaces and the routes. What is left of an earlier try is removed first."""
    remove(network, nodes)
    mtu = str(_mtu())
    _run("ip", "link", "add", network.bridge, "mtu", mtu, "type", "bridge")
    _run("ip", "address", "add", f"{network.host}/24", "dev", network.bridge)
    _run("ip", "link", "set", network.bridge, "up")
    for number in range(1, nodes + 1):
        name, veth = network.namespace(number), network.veth(number)
        inside = ("ip", "-netns", name)
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", veth, "mtu", mtu, "type", "veth", "peer", "name", "eth0", "mtu", mtu, "netns", name)
        _run("ip", "link", "set", veth, "master", network.bridge, "up")
        _run(*inside, "address", "add", f"{network.node(number)}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _run(*inside, "link", "set", link, "up")
        _run(*inside, "route", "add", "default", "via", network.host)
        for other in range(1, nodes + 1):
            if other != number:
                _run(*inside, "route", "add", network.pods(other), "via", network.node(other))
        _run("ip", "route", "add", network.pods(number), "via", network.node(number), "dev", network.bridge)
    _let_out(network)


def remove(network: Network, nodes: int) -> None:
    """Remove what `make` made, in full or in part."""
    for number in range(1, nodes + 1):
        # The link first: a namespace that something still holds would keep it alive.
        _try("ip", "link", "delete", network.veth(number))
        if Path("/run/netns", network.namespace(number)).exists():
            _try("ip", "netns", "delete", network.namespace(number))
    _try("ip", "link", "delete", network.bridge)
    _try("nft", "delete", "table", "ip", network.table)


def left(network: Network, nodes: int) -> list[str]:
    """What of `make` is there, in words."""
    links = [network.bridge, *(network.veth(number) for number in range(1, nodes + 1))]
    found = [f"link {link}" for link in links if Path("/sys/class/net", link).exists()]
    names = [network.namespace(number) for number in range(1, nodes + 1)]
    return found + [f"network namespace {name}" for name in names if Path("/run/netns", name).exists()]


def _let_out(network: Network) -> None:
    rules = f"""
        table ip {network.table} {{
          chain out {{
            type nat hook postrouting priority srcnat;
            ip saddr {network.everything} ip daddr != {network.everything} masquerade
          }}
        }}"""
    _run("nft", "-f", "-", stdin=rules)


def _mtu() -> int:
    """The smallest of this machine's own links: pods must not send packets that are lost on the way."""
    links = json.loads(_run("ip", "-json", "link", "show", "up"))
    return min([link["mtu"] for link in links if link.get("link_type") == "ether"], default=1500)


def _run(*argv: str, stdin: str | None = None) -> str:
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CannotStart(f"{' '.join(argv)} did not end within {_COMMAND_SECONDS} s.") from error
    if done.returncode:
        raise CannotStart(f"{' '.join(argv)} failed: {done.stderr.strip()}")
    return done.stdout


def _try(*argv: str) -> None:
    with suppress(CannotStart):
        _run(*argv)

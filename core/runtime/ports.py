"""Ports of this machine that are free just now."""

import socket


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has now. An agent whose port is taken in between ends, and is begun again."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()

"""Picks ports that nobody listens on."""

import socket

from core.dev.failure import CannotStart

_TRIES = 50


class Ports:
    """Hands out ports of one address, none of them twice."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._given: set[int] = set()

    def pick(self, wanted: int) -> int:
        """`wanted`, or the next free port above it; 0 means any. Raises `CannotStart` when 50 in a row are taken."""
        for port in range(wanted, min(wanted + _TRIES, 65536)) if wanted else [0] * _TRIES:
            if port in self._given:
                continue
            try:
                found = self._bind(port)
            except PermissionError:
                raise CannotStart(f"Port {port} needs root; choose one from 1024 up.") from None
            except OSError:
                continue
            if found not in self._given:
                self._given.add(found)
                return found
        raise CannotStart(f"No free port on {self._host} from {wanted} to {wanted + _TRIES - 1}; choose another.")

    def _bind(self, port: int) -> int:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: a port that only waits for its last connections to time out counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((self._host, port))
            return int(probe.getsockname()[1])

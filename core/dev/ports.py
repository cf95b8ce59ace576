"""Picks ports that nobody listens on."""

import errno
import secrets
import socket

from core.dev.failure import CannotStart

_TRIES = 50
# Where any port will do: below the range (from 32768 on) out of which the kernel lends ports to outgoing connections,
# one of which could otherwise take a port between our look and the server's start.
_ANY_FROM, _ANY_TO = 20_000, 32_000


class Ports:
    """Hands out ports, none of them twice."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def pick(self, wanted: int, host: str = "127.0.0.1") -> int:
        """`wanted`, or the next free port above it on `host`; 0 means any.

        Raises `CannotStart` when 50 in a row are taken or `host` is no address of this machine.
        """
        first = wanted or _ANY_FROM + secrets.randbelow(_ANY_TO - _ANY_FROM)
        for port in range(first, min(first + _TRIES, 65536)):
            if port not in self._given and _is_free(host, port):
                self._given.add(port)
                return port
        raise CannotStart(f"No free port on {host} from {first} to {first + _TRIES - 1}; choose another.")


def _is_free(host: str, port: int) -> bool:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: a port that only waits for its last connections to time out counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except PermissionError:
        raise CannotStart(f"Port {port} needs root; choose one from 1024 up.") from None
    except socket.gaierror:
        raise CannotStart(f"{host} is no address to listen on.") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise CannotStart(f"Nothing can listen on {host}: {error.strerror}.") from None
    return True

"""Names of hosts, looked up in threads of their own: nothing else of the agent waits behind a dead nameserver."""

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor

from core.domain.addresses import IpAddress

# As many as Chromium connects at once through a proxy: what a page fills is its own browser's way out, and no more.
_THREADS = 32


class Names:
    """Asks the machine's resolver. Whoever gives up a lookup leaves its thread to it: it cannot be taken back."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "name")

    async def addresses(self, host: str, port: int) -> list[IpAddress]:
        """The addresses of `host`, each once, in the resolver's order. Raises OSError when it has none."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _look_up, host, port)
        return list(dict.fromkeys(found))

    def close(self) -> None:
        """Look nothing up any more. What hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[IpAddress]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label of more than 63 letters, or an empty one
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from None
    return [ipaddress.ip_address(str(info[4][0]).split("%")[0]) for info in found]

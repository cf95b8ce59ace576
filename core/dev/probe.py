"""Small questions that tell whether a part is ready, without its client library (that would cost start-up time)."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

_TIMEOUT = 2.0


async def http_status(url: str) -> int | None:
    """The status of one GET of an `http://` URL, or None when nobody answers within 2 s."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    request = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(_TIMEOUT):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(request.encode())
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return None
    words = line.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None


async def can_connect(host: str, port: int) -> bool:
    """Whether something accepts TCP connections at `host`:`port`; False after 2 s."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def announces(path: Path, pid: int) -> bool:
    """Whether the file `path`, which a part writes when it is ready, holds the id of this very process."""
    try:
        return path.read_text().strip() == str(pid)
    except OSError:
        return False

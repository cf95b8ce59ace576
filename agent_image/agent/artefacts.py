"""Pictures, documents, saved work: stored at Berth by `PUT /agent-artefacts/{commandId}`, never sent on the channel."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO
from urllib.parse import quote

import aiohttp
from pydantic import ValidationError

from agent_image.agent.commands import CommandFailed, Document
from core.domain.wire import MAX_ARTEFACT_BYTES, Artefact, CommandFault

_ATTEMPTS = 4
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 2.0
_BLOCK = 1 << 18


class ArtefactStore:
    """Berth's store as an agent sees it."""

    def __init__(self, http: aiohttp.ClientSession, backend_url: str, work: Path) -> None:
        self._http = http
        self._url = f"{backend_url}/agent-artefacts"
        self._work = work

    async def put(self, command_id: str, document: Document) -> Artefact:
        """Store the document; safe to repeat. Raises `CommandFailed` when it is too large or cannot be stored."""
        with tempfile.TemporaryFile(dir=self._work) as file:
            size = 0
            async with contextlib.aclosing(document.chunks) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    size += len(chunk)
                    if size > MAX_ARTEFACT_BYTES:
                        raise CommandFailed(CommandFault.RESULT_TOO_LARGE, "the document is over 50 MiB")
                    file.write(chunk)
            return await self.keep(command_id, document.content_type, file, size)

    async def keep(
        self, command_id: str, content_type: str, file: IO[bytes], size: int, *, attempts: int = _ATTEMPTS
    ) -> Artefact:
        """Store a file of `size` bytes; safe to repeat. Raises `CommandFailed` when it cannot be stored."""
        headers = {"Content-Type": content_type, "Content-Length": str(size)}
        why = ""
        for attempt in range(attempts):
            if attempt:
                await asyncio.sleep(min(_FIRST_WAIT * 2 ** (attempt - 1), _LONGEST_WAIT))
            file.seek(0)
            try:
                async with self._http.put(
                    f"{self._url}/{quote(command_id, safe='')}",
                    data=_blocks(file),
                    headers=headers,
                    timeout=aiohttp.ClientTimeout(total=120, connect=10),
                ) as answer:
                    body = await answer.content.read(1 << 16)
                    if answer.status < 300:
                        return Artefact.model_validate_json(body)
                    why = f"HTTP {answer.status}"
                    if answer.status < 500:
                        break
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                why = type(error).__name__
            except ValidationError:
                why = "the answer is not an artefact"
                break
        raise CommandFailed(CommandFault.NOT_STORED, f"the document was made but could not be stored: {why}")


async def _blocks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while block := file.read(_BLOCK):
        yield block

"""Saving: what a stopping agent brings to Berth, so that its user finds it after the agent is gone."""

import asyncio
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any

from agent_image.agent.artefacts import ArtefactStore
from agent_image.agent.commands import CommandFailed
from agent_image.agent.config import Config
from agent_image.agent.journal import log
from agent_image.agent.packing import Packed, pack
from core.domain.wire import MAX_ARTEFACT_BYTES, ZIP, saved_work_id

# While Berth is being rolled out its door is closed for seconds; the time that is left is the true bound.
_ATTEMPTS = 20
_LEAVE_FREE = 16 << 20


class Saver:
    """Packs and stores the work of one attempt."""

    def __init__(self, config: Config, store: ArtefactStore, tell: Callable[[str, str], None]) -> None:
        self._config = config
        self._store = store
        self._tell = tell

    async def save(self, task: dict[str, Any] | None, reason: str, until: float) -> None:
        """Save what there is by the time `until` (of the loop's clock, which is `time.monotonic`).

        Does not fail: an agent that could not save leaves all the same, and says so.
        """
        began = asyncio.get_running_loop().time()
        try:
            with tempfile.TemporaryFile(dir=self._config.work) as file:
                # Half of the time, for it has to go over the network too.
                packing = asyncio.to_thread(self._pack, file, task, reason, began + (until - began) / 2)
                async with asyncio.timeout_at(until):
                    packed = await packing
                    if packed is None:
                        log.info("work.nothing_to_save")
                        return
                    size = file.seek(0, os.SEEK_END)
                    stored = await self._store.keep(
                        saved_work_id(self._config.attempt), ZIP, file, size, attempts=_ATTEMPTS
                    )
        except TimeoutError:
            self._failed("there was no time left")
        except CommandFailed as failure:
            self._failed(str(failure))
        except OSError as error:
            self._failed(f"it could not be packed: {error.strerror}")
        else:
            seconds = round(asyncio.get_running_loop().time() - began, 3)
            counts = {"files": len(packed.files), "left_out": len(packed.left_out), "task": task is not None}
            log.info("work.saved", artefact=stored.artefact_id, bytes=size, seconds=seconds, **counts)
            self._tell("work_saved", stored.artefact_id)

    def _pack(self, file: IO[bytes], task: dict[str, Any] | None, reason: str, until: float) -> Packed | None:
        config, now = self._config, datetime.now(UTC).isoformat(timespec="seconds")
        about = {"agentId": config.agent_id, "attempt": config.attempt, "savedAt": now, "reason": reason}
        space = os.statvfs(config.work)
        limit = min(MAX_ARTEFACT_BYTES, space.f_bavail * space.f_frsize - _LEAVE_FREE)
        return pack(config.work, file, limit, until, task, about)

    def _failed(self, why: str) -> None:
        log.error("work.not_saved", why=why[:300])
        self._tell("work_not_saved", why)

"""What the browser downloads, kept within bounds: a page must not fill the agent's scratch space.

A pod that holds more than it may is evicted at once, and saves nothing then: neither work nor cookies.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_image.agent.journal import log
from agent_image.agent.packing import UNFINISHED
from agent_image.agent.pipe import CdpPipe, Message

Tell = Callable[[str, str], None]
_BEHAVIOUR = "Browser.setDownloadBehavior"


class Downloads:
    """Where too much is there the oldest that are finished go, and what is still too much is cancelled."""

    def __init__(self, pipe: CdpPipe, folder: Path, most_bytes: int, tell: Tell) -> None:
        self._pipe = pipe
        self._folder = folder
        self._most_bytes = most_bytes
        self._tell = tell
        self._names: dict[str, str] = {}

    async def start(self) -> None:
        """Allow downloads, of any page, without asking; again for each browser."""
        self._names.clear()
        self._pipe.on_root("Browser", self._heard)
        await self._pipe.call(_BEHAVIOUR, self._how())

    def set_again(self) -> None:
        """For when a session is gone that had set this too: Chromium then goes back to its own folder, for all."""
        self._pipe.send({"method": _BEHAVIOUR, "params": self._how()}, None, _told)

    def _how(self) -> Message:
        return {"behavior": "allow", "downloadPath": str(self._folder), "eventsEnabled": True}

    def _heard(self, message: Message) -> None:
        params = message["params"]
        match message["method"]:
            case "Browser.downloadWillBegin":
                self._names[params["guid"]] = params["suggestedFilename"]
            case "Browser.downloadProgress":
                self._went_on(params)
            case _:
                pass

    def _went_on(self, params: dict[str, Any]) -> None:
        guid = params["guid"]
        if params["state"] == "canceled":
            self._names.pop(guid, None)
            return
        fits = self._make_room()
        if params["state"] == "completed":
            self._names.pop(guid, None)
        elif not fits and guid in self._names:
            name = self._names.pop(guid)
            log.warning("download.cancelled", received=params["receivedBytes"], most=self._most_bytes)
            self._pipe.send({"method": "Browser.cancelDownload", "params": {"guid": guid}}, None, lambda _: None)
            self._tell("download_cancelled", f"{name[:200]} is larger than the {self._most_bytes >> 20} MiB there are")

    def _make_room(self) -> bool:
        """Whether what is there fits, at last."""
        there = [(path, path.lstat()) for path in self._folder.iterdir() if path.is_file() and not path.is_symlink()]
        total = sum(found.st_size for _, found in there)
        finished = [(found.st_mtime, path, found.st_size) for path, found in there if path.suffix != UNFINISHED]
        for _, path, size in sorted(finished):
            if total <= self._most_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
            log.warning("download.removed", bytes=size, most=self._most_bytes)
        return total <= self._most_bytes


def _told(answer: Message) -> None:
    # A browser that is gone has no downloads, and the next one is taken over by `start`.
    if "error" in answer and not answer["error"].get("closed"):
        log.error("downloads.not_set", error=answer["error"].get("message"))

"""Orders to a keeper, from any process of this machine that may enter its folder."""

import json
import os
import socket
import time
from pathlib import Path

from core.dev.failure import CannotStart

_ANSWER_SECONDS = 10.0
_ASK_EVERY = 0.02


class Orders:
    """Speaks to the keeper of `folder`. Every call raises `CannotStart` when it does not answer within 10 s."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def wait(self, seconds: float) -> None:
        """Return when the keeper takes orders."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.pids()
            except CannotStart:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_ASK_EVERY)
            else:
                return

    def start(self, part: str) -> int:
        """Run the part, from now on for good; nothing happens when it runs. Its pid, as the keeper sees it."""
        return int(str(self._ask(verb="start", part=part)["pid"]))

    def kill(self, part: str) -> None:
        """Kill the part (SIGKILL) and let it stay dead; nothing happens when it does not run."""
        self._ask(verb="kill", part=part)

    def pids(self) -> dict[str, int]:
        """The parts that run, with their pids as the keeper sees them."""
        pids = self._ask(verb="status")["pids"]
        return pids if isinstance(pids, dict) else {}

    def _ask(self, **order: str) -> dict[str, object]:
        try:
            handle = os.open(self.folder, os.O_PATH | os.O_DIRECTORY)
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
                    caller.settimeout(_ANSWER_SECONDS)
                    caller.connect(f"/proc/self/fd/{handle}/keeper.sock")
                    with caller.makefile("rw") as stream:
                        stream.write(json.dumps(order) + "\n")
                        stream.flush()
                        answer: dict[str, object] = json.loads(stream.readline())
            finally:
                os.close(handle)
        except (OSError, ValueError) as error:
            raise CannotStart(f"The keeper of {self.folder} does not answer: {error}") from error
        if "error" in answer:
            raise CannotStart(str(answer["error"]))
        return answer

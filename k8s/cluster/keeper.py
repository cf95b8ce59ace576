"""The process above a cluster's parts, or above a node's: runs what it is ordered to, and all of it dies with it.

    python -m k8s.cluster.keeper PLAN.json

A part that ends by itself is started again. The keeper starts nothing on its own: whoever brings the cluster up gives
the orders, in order. It also is process 1 of a node's process namespace, so it reaps whatever is orphaned there.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from core import launch
from k8s.cluster import cgroups
from k8s.cluster.plan import Part, Plan

_LOOK_SECONDS = 0.2
_SHORT_PAUSE, _LONG_PAUSE = 0.2, 5.0
_STEADY_SECONDS = 10.0
_ANSWER_SECONDS = 5.0
_END_SECONDS = 10.0


class Keeper:
    """Keeps the parts of `plan` that are wanted."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._parts = {part.name: part for part in plan.parts}
        self._pids: dict[str, int] = {}
        self._wanted: set[str] = set()
        self._due: dict[str, float] = {}  # a part that ended: when to start it again
        self._pause: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._ending = False

    def run(self) -> None:
        """Take orders until told to end; every part is dead when this returns."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        if self._plan.group is not None:
            cgroups.join(self._plan.group)
        (self._plan.folder / "log").mkdir(exist_ok=True)
        with _listener(self._plan.folder) as listener:
            while not self._ending:
                with suppress(TimeoutError):
                    caller, _ = listener.accept()
                    with caller:
                        self._serve(caller)
                self._reap()
                self._start_due()
        for name in reversed(list(self._pids)):
            self._kill(name)
        self._await_end()

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self._ending = True

    def _serve(self, caller: socket.socket) -> None:
        caller.settimeout(_ANSWER_SECONDS)
        try:
            with caller.makefile("rw") as stream:
                order = json.loads(stream.readline())
                stream.write(json.dumps(self._obey(order)) + "\n")
        except (OSError, ValueError) as error:
            print(f"keeper: an order was lost: {error}", file=sys.stderr, flush=True)  # noqa: T201 - its log

    def _obey(self, order: dict[str, str]) -> dict[str, object]:
        verb, name = order.get("verb"), order.get("part", "")
        if verb == "status":
            return {"pids": self._pids}
        if name not in self._parts:
            return {"error": f"there is no part {name!r} here"}
        if verb == "start":
            self._wanted.add(name)
            self._pause.pop(name, None)
            if name not in self._pids:
                self._start(self._parts[name])
            return {"pid": self._pids.get(name)}
        if verb == "kill":
            self._wanted.discard(name)
            self._due.pop(name, None)
            self._kill(name)
            return {}
        return {"error": f"unknown order {verb!r}"}

    def _start(self, part: Part) -> None:
        with open(self._plan.folder / "log" / f"{part.name}.log", "ab") as log:
            process = subprocess.Popen(
                launch.command(part.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **part.environment},
                start_new_session=True,
            )
        # Reaped by `_reap` like any other child of ours; the object must not reap or complain.
        process.returncode = 0
        self._pids[part.name] = process.pid
        self._began[part.name] = time.monotonic()

    def _kill(self, name: str) -> None:
        pid = self._pids.pop(name, None)
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for name in [name for name, own in self._pids.items() if own == pid]:
                del self._pids[name]
                self._plan_restart(name)

    def _plan_restart(self, name: str) -> None:
        if name not in self._wanted:
            return
        now = time.monotonic()
        steady = now - self._began[name] > _STEADY_SECONDS
        pause = _SHORT_PAUSE if steady else self._pause.get(name, _SHORT_PAUSE)
        self._pause[name] = min(pause * 2, _LONG_PAUSE)
        self._due[name] = now + pause

    def _start_due(self) -> None:
        now = time.monotonic()
        for name in [name for name, due in self._due.items() if due <= now]:
            del self._due[name]
            self._start(self._parts[name])

    def _await_end(self) -> None:
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline:
            try:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    time.sleep(0.02)
            except ChildProcessError:
                return


def _listener(folder: Path) -> socket.socket:
    address = folder / "keeper.sock"
    address.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        # By way of the open folder: the address of a socket may have no more than 107 characters.
        listener.bind(f"/proc/self/fd/{handle}/{address.name}")
    finally:
        os.close(handle)
    address.chmod(0o600)
    listener.listen(16)
    listener.settimeout(_LOOK_SECONDS)
    return listener


if __name__ == "__main__":
    Keeper(Plan.model_validate_json(Path(sys.argv[1]).read_text())).run()

"""The steps of the demo as a person sees them: each with its time, bounded, and with the right log when it fails."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.text import Text

_TAIL_LINES = 15
_TAIL_BYTES = 16_384


class Unexpected(RuntimeError):
    """Something happened otherwise than the demo wants it; the text says what."""


class StepFailed(Exception):
    """A step did not happen. `logs` are the files that may say why."""

    def __init__(self, title: str, why: str, logs: Sequence[Path]) -> None:
        super().__init__(f"{title}: {why}")
        self.title, self.why, self.logs = title, why, logs


class Step:
    """One step under way. What is put into `outcome` is printed with it at its end, `logs` when it fails."""

    def __init__(self, status: Status | None, logs: Sequence[Path]) -> None:
        self.outcome = ""
        self.logs = list(logs)
        self._status = status

    def now(self, what: str) -> bool:
        """Show `what` in place, on a terminal; says whether it did."""
        if self._status is None:
            return False
        self._status.update(Text(what))
        return True


class Steps:
    """Prints to `console`: on a terminal with colour and what is under way, elsewhere plain lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    @asynccontextmanager
    async def step(self, title: str, *, seconds: float, logs: Sequence[Path] = ()) -> AsyncIterator[Step]:
        """Raises `StepFailed` when the block raises, or takes longer than `seconds`."""
        began = time.monotonic()
        status = self._console.status(Text(title)) if self._console.is_terminal else None
        step = Step(status, logs)
        if status is not None:
            status.start()
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                yield step
        except Exception as error:
            late = isinstance(error, TimeoutError) and limit.expired()
            why = f"took longer than {seconds:g} s" if late else str(error) or type(error).__name__
            raise StepFailed(title, why, step.logs) from error
        finally:
            if status is not None:
                status.stop()
        took = time.monotonic() - began
        self._line("+", "green", took, f"{title}: {step.outcome}" if step.outcome else title)

    def say(self, text: str = "") -> None:
        """A line of its own."""
        self._console.print(Text(text), soft_wrap=True)

    def note(self, text: str) -> None:
        """Something on the way, without being a step."""
        self._console.print(Text(f"                    {text}", style="dim"), soft_wrap=True)

    def failed(self, error: StepFailed) -> None:
        """Print which step failed, why, and the tail of each of its logs."""
        self._line("!", "bold red", None, f"{error.title}: {error.why}")
        for path in error.logs:
            lines = _tail(path)
            if lines:
                self.say(f"--- the end of {path}")
                for line in lines:
                    self.say(f"    {line}")

    def _line(self, mark: str, style: str, took: float | None, text: str) -> None:
        since = time.monotonic() - self._began
        line = Text(f"{since:6.1f} s ")
        line.append(f"{took:6.1f} s  " if took is not None else " " * 10, style="dim")
        line.append(f"{mark} ", style=style)
        line.append(text)
        self._console.print(line, soft_wrap=True)


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return ["".join(c if c.isprintable() else " " for c in line) for line in text.splitlines()[-_TAIL_LINES:]]

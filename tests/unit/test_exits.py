"""How an agent's user is told of its end."""

import pytest

from core.domain.recovery import FailureKind
from core.runtime.exits import told_of

STOPPING = (
    '{"level": "info", "event": "ready"}\n'
    '{"level": "info", "event": "stopping", "code": 75, "reason": "the browser ended with -9: \\"x\\"\\nno display"}\n'
    '{"level": "info", "event": "stopped", "code": 75}'
)

SIGTERM = '{"level": "info", "event": "stopping", "code": 143, "reason": "signal SIGTERM"}'


@pytest.mark.parametrize(
    ("code", "log", "failure", "told"),
    [
        (75, STOPPING, FailureKind.CRASH, 'the browser ended with -9: "x" no display'),
        # Also where a long line was cut.
        (75, STOPPING.partition(": \\")[0], FailureKind.CRASH, "the browser ended with -9"),
        # What it said of another end is not of this one.
        (137, STOPPING[:60], FailureKind.CRASH, 'it was killed (exit code 137): {"level": "info", "event": "ready"}'),
        (137, "", FailureKind.OUT_OF_MEMORY, "it used more memory than its limit and was killed"),
        (143, SIGTERM, FailureKind.EXITED, "its machine told it to go (exit code 143)"),
        (1, "oops\n\nat the end", FailureKind.CRASH, "it ended with exit code 1: oops | at the end"),
    ],
)
def test_an_end_is_told_in_the_agents_own_word_else_by_its_code_and_last_lines(
    code: int, log: str | None, failure: FailureKind, told: str
) -> None:
    assert told_of(code, log, failure).startswith(told)

"""How an agent's user is told of its end."""

import pytest

from core.domain.recovery import FailureKind
from core.runtime.exits import told_of

LOG = '{"level": "info", "event": "ready"}\n'


@pytest.mark.parametrize(
    ("code", "said", "log", "failure", "told"),
    [
        (
            75,
            'the browser ended with -9: "x"\nno display',
            LOG,
            FailureKind.CRASH,
            'the browser ended with -9: "x" no display',
        ),
        (76, "the browser ran out of memory", LOG, FailureKind.OUT_OF_MEMORY, "the browser ran out of memory"),
        (137, "", LOG, FailureKind.CRASH, "it was killed (exit code 137)"),
        (137, "", "", FailureKind.OUT_OF_MEMORY, "it used more memory than its limit and was killed"),
        (143, "", LOG, FailureKind.EXITED, "its machine told it to go (exit code 143)"),
        (1, "", "oops\n\nat the end", FailureKind.CRASH, "it ended with exit code 1: oops | at the end"),
    ],
)
def test_an_end_is_told_in_the_agents_own_word_else_by_its_code_and_of_an_unknown_one_by_last_lines(
    code: int, said: str, log: str | None, failure: FailureKind, told: str
) -> None:
    assert told_of(code, said=said, log=log, failure=failure) == told

"""How activities are called: whoever dies with one in hand is noticed soon, however long it may take."""

from datetime import timedelta
from typing import Any

import pytest

from workflows import options

# A try that is over so soon needs no beats: the next begins when its time is up.
SHORT = timedelta(seconds=15)
CALLS = (
    {name: value for name, value in vars(options).items() if isinstance(value, dict) and name.isupper()}
    | {made.__name__: made("default", 30.0) for made in (options.create_options, options.removal_options)}
    | {"order_options": options.order_options("default")}
)


@pytest.mark.parametrize("call", CALLS)
def test_a_try_that_may_take_long_is_given_up_soon_after_its_worker_died(call: str) -> None:
    given: dict[str, Any] = CALLS[call]
    longest = given["start_to_close_timeout"]
    assert longest <= SHORT or given["heartbeat_timeout"] < SHORT

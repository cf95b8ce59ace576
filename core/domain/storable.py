"""Makes text and JSON from outside fit for Postgres, which refuses some of what both allow.

What cannot be stored must not reach a step of a life: the step would be tried again for ever, and the life with it.
"""

import math
from typing import Annotated, Any

from pydantic import AfterValidator

_MAX_INTEGER = 1 << 63


def text(value: str) -> str:
    """`value` without NUL characters and lone surrogates, which Postgres cannot hold."""
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


Text = Annotated[str, AfterValidator(text)]


def json(value: Any) -> Any:
    """`value` with every string made fit, and numbers that JSON in Postgres cannot hold as null."""
    match value:
        case str():
            return text(value)
        case bool() | None:
            return value
        case int():
            return value if -_MAX_INTEGER <= value < _MAX_INTEGER else None
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {text(str(key)): json(item) for key, item in value.items()}
        case _:
            return [json(item) for item in value]

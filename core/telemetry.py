"""How every part logs: events with fields, one line each on stderr, the standard library's loggers included."""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "**********"
_SECRET_WORDS = ("token", "authorization", "secret", "password", "api_key", "cookie")
# They log each request at INFO; the API logs requests itself, with our fields.
_CHATTY = ("uvicorn.access", "httpx2", "httpcore2", "asyncio")


def configure(part: str, *, json: bool = False, level: int = logging.INFO) -> None:
    """Set up logging of the process that is `part`. Call once and first: loggers keep what they find."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Named(part),
        redact,
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    last: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if json
        else [
            # Plain tracebacks: the pretty ones print local variables, which may hold tokens.
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask the values of fields whose names speak of a secret, at any depth of mappings."""
    _mask(event)
    return event


def _mask(fields: MutableMapping[str, Any]) -> None:
    for key, value in fields.items():
        if any(word in str(key).lower() for word in _SECRET_WORDS):
            fields[key] = MASK
        elif isinstance(value, Mapping):
            inner = dict(value)
            _mask(inner)
            fields[key] = inner


class _Named:
    def __init__(self, part: str) -> None:
        self._part = part

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("part", self._part)
        return event

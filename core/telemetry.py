"""How every part logs: events with fields, one line each on stderr, the standard library's loggers included."""

import io
import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

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
        else [show_controls, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_traceback)]
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


def show_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Have what no terminal prints shown escaped: it may be a stranger's, and order the reader's terminal about.

    JSON is escaped by its nature, and so is every value here that is no text by its `repr`.
    """
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            # The renderer prints the words of an event as they are.
            event[key] = _escaped(value.rstrip()) if key == "event" else _Quoted(value)
    return event


class _Quoted:
    """A text that the renderer shows as Python writes it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


def _escaped(text: str, kept: str = "") -> str:
    return "".join(each if each.isprintable() or each in kept else repr(each)[1:-1] for each in text)


def _traceback(out: TextIO, exc_info: ExcInfo) -> None:
    # A plain one: the pretty ones print local variables, which may hold tokens.
    found = io.StringIO()
    structlog.dev.plain_traceback(found, exc_info)
    out.write(_escaped(found.getvalue(), kept="\n\t"))


class _Named:
    def __init__(self, part: str) -> None:
        self._part = part

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("part", self._part)
        return event

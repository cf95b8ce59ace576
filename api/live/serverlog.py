"""What uvicorn logs about sockets, made fit for our log."""

import logging

# Logged by uvicorn 0.54 as an error whenever a handshake is answered with an HTTP refusal, which is no error.
_NO_ERROR = "ASGI callable returned without completing handshake."
_LOGGER = "uvicorn.error"


class ServerLog(logging.Filter):
    """Drops that line, and the query of a socket's address, which may hold a ticket."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == _NO_ERROR:
            return False
        if "WebSocket %s" in str(record.msg) and isinstance(record.args, tuple):
            record.args = tuple(item.partition("?")[0] if isinstance(item, str) else item for item in record.args)
        return True


def install() -> None:
    """Safe to call again."""
    logger = logging.getLogger(_LOGGER)
    if not any(isinstance(known, ServerLog) for known in logger.filters):
        logger.addFilter(ServerLog())

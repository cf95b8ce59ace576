"""A command posted to the agent's own HTTP door, and its answer, of which no more is taken than a message may have.

An agent may be in the hands of the pages it visits: what it answers is read with a limit of bytes and of time.
"""

import asyncio
import ssl
from contextlib import aclosing
from typing import Any

import httpx2
from pydantic import TypeAdapter, ValidationError

from api.live.ports import now
from core.domain.wire import MAX_MESSAGE_BYTES, CommandFault, CommandResult, Execute, mended
from core.runtime.base import Reach

_MARGIN_SECONDS = 5.0
# Made once: reading the machine's certificates for every call would stop the event loop for tens of milliseconds.
_TLS = ssl.create_default_context()
_PLAIN = "identity"
_BODY: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


async def post(reach: Reach, agent_id: str, order: Execute) -> CommandResult:
    """The agent's answer as the message that its channel would have brought; `result_too_large` beyond 1 MiB.

    Raises `httpx2.HTTPError`, OSError (also when the time is over), ValueError for what is no answer to a command.
    """
    limit = order.timeout_seconds + _MARGIN_SECONDS
    headers = {"X-Agent-Token": reach.token.get_secret_value(), "Accept-Encoding": _PLAIN}
    url, body = f"{reach.api_url.rstrip('/')}/execute", order.model_dump(by_alias=True, exclude={"type"})
    # Never through a proxy of the environment's: it would see the agent's token. The client's own time-out starts anew
    # with every byte.
    async with (
        asyncio.timeout(limit),
        httpx2.AsyncClient(timeout=limit, verify=_TLS, trust_env=False) as client,
        client.stream("POST", url, json=body, headers=headers) as answer,
    ):
        content = await _bounded(answer)
    if content is None:
        return _message(agent_id, order, fault=CommandFault.RESULT_TOO_LARGE)
    try:
        found = _BODY.validate_json(content)
    except ValidationError:
        found = _BODY.validate_json(mended(content))
    fault = found.get("fault") or (found.get("code") if answer.is_error else None)
    detail = str(found.get("detail") or "")[:2000]
    try:
        return _message(agent_id, order, result=None if fault else found["result"], fault=fault, detail=detail)
    except (ValidationError, KeyError) as error:
        raise ValueError("not an answer to a command") from error


async def _bounded(answer: httpx2.Response) -> bytes | None:
    """The body; None when it is larger than a message, or packed, so that nobody knows how large it is."""
    if answer.headers.get("Content-Encoding", _PLAIN).strip().lower() != _PLAIN:
        return None
    content = bytearray()
    async with aclosing(answer.aiter_raw()) as chunks:
        async for chunk in chunks:
            content += chunk
            if len(content) > MAX_MESSAGE_BYTES:
                return None
    return bytes(content)


def _message(agent_id: str, order: Execute, **ended: Any) -> CommandResult:
    head = {"agent_id": agent_id, "seq": 1, "at": now(), "command_id": order.command_id}
    return CommandResult.model_validate({**head, **ended})

"""Berth's own word that a token is over, told from the 401 or 403 of anybody between it and the agent.

A proxy, a firewall or a mesh policy in front of Berth refuses with the same status, and knows nothing of agents.
"""

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from pydantic import BaseModel, ValidationError

from core.domain.wire import TOKEN_REFUSED

_MOST_BYTES = 1 << 16


class TokenRefused(Exception):
    """Berth does not know our token."""


class _Problem(BaseModel):
    type: str


async def heed_refusal(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """For a session's middlewares: raises `TokenRefused` where the channel's handshake is refused by Berth itself.

    Whatever else is answered goes on to whoever asked, a handshake's body unread or not.
    """
    answer = await handler(request)
    # Other requests have callers who want the body; a handshake's is read by nobody after us.
    if answer.status == 401 and request.headers.get("Upgrade", "").lower() == "websocket":
        said = await answer.content.read(_MOST_BYTES)
        try:
            problem = _Problem.model_validate_json(said)
        except ValidationError:
            return answer
        if problem.type == TOKEN_REFUSED:
            answer.close()
            raise TokenRefused
    return answer

"""`logs`: the text an agent wrote."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from api import problems
from api.deps import Caller
from api.schemas.base import AgentIdPath
from api.services.logs import LogReader, LogStream
from core.errors import Busy, NotFound, Unavailable

router = APIRouter(prefix="/api/agents", tags=["agents"])


class _Text(StreamingResponse):
    """Closes its log whatever becomes of the answer, also when the caller left before the first chunk.

    The answer to a log that is torn has no end: the server then cuts the connection, and the caller sees that it broke.
    """

    def __init__(self, stream: LogStream) -> None:
        super().__init__(stream.chunks(), media_type="text/plain; charset=utf-8")
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_unless_torn(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not (last and self._stream.torn):
                await send(message)

        try:
            await super().__call__(scope, receive, send_unless_torn)
        finally:
            await self._stream.close()


@router.get(
    "/{agentId}/logs",
    operation_id="agentLogs",
    summary="The agent's own log as text",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **problems.responses(NotFound, Busy, (Unavailable, "runtime_unavailable")),
    },
)
async def logs(
    request: Request,
    who: Caller,
    agent_id: AgentIdPath,
    follow: Annotated[bool, Query(description="go on as it grows, for at most 15 minutes: then ask again")] = False,
) -> StreamingResponse:
    reader: LogReader = request.app.state.logs
    return _Text(await reader.open(who, agent_id, follow=follow))

"""Whose life a line of the log is about: the agent and the attempt that an activity was asked of."""

from typing import Any

from structlog.contextvars import bind_contextvars
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.contracts import Life, Registration


class LifeLog(Interceptor):
    """Makes every line of an activity carry `agent_id` and `attempt`, and those that Temporal's client logs of it."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Named(next)


class _Named(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        # Not taken back: each activity is a task of its own, whose last line, of its failure, comes after this.
        bind_contextvars(**_life_in(input.args))
        return await super().execute_activity(input)


def _life_in(asked: object) -> dict[str, str | int]:
    match asked:
        case [Life() as life] | [object(life=Life() as life)]:
            return {"agent_id": life.agent_id, "attempt": life.attempt}
        case [Registration(request=request)]:
            return {"agent_id": request.agent_id, "attempt": 1}
        case _:
            return {}

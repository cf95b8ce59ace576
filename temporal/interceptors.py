"""Drops what is said to a workflow in a form that its handler does not take: a person may have typed it.

The SDK drops words that do not parse, and keeps signals that nobody handles, without a word. What it passes on none
the less (one word too many, bytes) would raise in the handler, and the workflow task that a signal fails is tried
again for ever: one typing error would stop a life.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ExecuteWorkflowInput,
    HandleSignalInput,
    HandleUpdateInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)


class Sieve(Interceptor):
    """For every worker that runs workflows. Handlers are methods of the name that they are called by."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _Inbound


class _Inbound(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        workflow.set_dynamic_signal_handler(_none_of_ours)
        return await super().execute_workflow(input)

    async def handle_signal(self, input: HandleSignalInput) -> None:
        if workflow.get_signal_handler(input.signal) is not None and not _takes(_handler(input.signal), input.args):
            _drop(input.signal, input.args)
            return
        await super().handle_signal(input)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        if not _takes(_handler(input.update), input.args):
            raise ApplicationError(f"{input.update} does not take that", type="invalid_request", non_retryable=True)
        return await super().handle_update_handler(input)


def _none_of_ours(name: str, words: Sequence[RawValue]) -> None:
    _drop(name, words)


def _drop(name: str, words: Sequence[Any]) -> None:
    workflow.logger.warning("signal.dropped", extra={"signal": name, "words": len(words)})


def _handler(name: str) -> Callable[..., Any]:
    handler: Callable[..., Any] = getattr(workflow.instance(), name)
    return handler


def _takes(handler: Callable[..., Any], words: Sequence[Any]) -> bool:
    taken = list(inspect.signature(handler).parameters.values())
    needed = sum(parameter.default is inspect.Parameter.empty for parameter in taken)
    return needed <= len(words) <= len(taken) and all(
        isinstance(word, parameter.annotation) for word, parameter in zip(words, taken, strict=False)
    )

"""Drops what is said to a workflow in a form that its handler does not take: a person may have typed it.

The SDK drops words that do not parse, with a traceback of fifty lines, which is made one line here, and keeps signals
that nobody handles, without a word. What it passes on none the less (one word too many, bytes) would raise in the
handler, and the workflow task that a signal fails is tried again for ever: one typing error would stop a life.
"""

import inspect
import logging
from collections.abc import Sequence
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

from core.domain.excerpts import one_line

_SDK = "temporalio.worker._workflow_instance"
_NOT_PARSED = "Failed deserializing signal input for "


class Sieve(Interceptor):
    """For every worker that runs workflows. Handlers are methods of the name that they are called by."""

    def __init__(self) -> None:
        # Once a process, however many workers it has: a filter that is there already is not added again.
        logging.getLogger(_SDK).addFilter(_in_one_line)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _Inbound


class _Inbound(WorkflowInboundInterceptor):
    """One for each run. Thousands may say the same to it, so what the handler of a signal takes is looked up once."""

    def __init__(self, next: WorkflowInboundInterceptor) -> None:
        super().__init__(next)
        self._taken: dict[str, _Taken | None] = {}

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        workflow.set_dynamic_signal_handler(_none_of_ours)
        return await super().execute_workflow(input)

    async def handle_signal(self, input: HandleSignalInput) -> None:
        if input.signal not in self._taken:
            known = workflow.get_signal_handler(input.signal) is not None
            self._taken[input.signal] = _Taken(input.signal) if known else None
        taken = self._taken[input.signal]
        if taken is not None and not taken.matches(input.args):
            _drop(input.signal, input.args)
            return
        await super().handle_signal(input)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        if not _Taken(input.update).matches(input.args):
            raise ApplicationError(f"{input.update} does not take that", type="invalid_request", non_retryable=True)
        return await super().handle_update_handler(input)


def _none_of_ours(name: str, words: Sequence[RawValue]) -> None:
    _drop(name, words)


def _drop(name: str, words: Sequence[Any]) -> None:
    # The name is in the words of the line, too: fields of the standard library's lines are not printed.
    told = f"signal.dropped: {name} takes no {len(words)} words of that kind, or is no signal of ours"
    workflow.logger.warning(told, extra={"signal": name, "words": len(words)})


def _in_one_line(record: logging.LogRecord) -> bool:
    """What the SDK says of a signal that does not parse: its name and why, without the way through the SDK."""
    told, error = record.getMessage(), record.exc_info[1] if record.exc_info else None
    if told.startswith(_NOT_PARSED) and error is not None:
        while error.__cause__ is not None:
            error = error.__cause__
        which = one_line(told.removeprefix(_NOT_PARSED))
        record.msg, record.args = f"signal.dropped: {which}: {one_line(str(error))}", ()
        record.exc_info = record.exc_text = None
    return True


class _Taken:
    """What the handler of that name takes in the workflow that asks."""

    def __init__(self, name: str) -> None:
        taken = inspect.signature(getattr(workflow.instance(), name)).parameters.values()
        self._types = [parameter.annotation for parameter in taken]
        self._needed = sum(parameter.default is inspect.Parameter.empty for parameter in taken)

    def matches(self, words: Sequence[Any]) -> bool:
        return self._needed <= len(words) <= len(self._types) and all(map(isinstance, words, self._types))

"""An open task as far as it got: what it was to do, and what browser-use did about it up to now."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent_image.agent.journal import log
from core.domain.wire import RunTask

MOST_BYTES = 4 << 20
_TEXT = 20_000
_URLS, _URL = 200, 2000


@dataclass
class OpenTask:
    """A task that has begun. `agent` is browser-use's, once there is one."""

    command_id: str
    asked: RunTask
    began_at: datetime
    agent: Any = None

    def told(self, at: datetime) -> dict[str, Any]:
        """It in JSON, of at most 4 MiB; the oldest steps go first, and `stepsLeftOut` counts them. Never fails."""
        told: dict[str, Any] = {
            "commandId": self.command_id,
            "task": self.asked.task,
            "maxSteps": self.asked.max_steps,
            "beganAt": self.began_at.isoformat(),
            "stoppedAt": at.isoformat(),
            "steps": [],
            "urls": [],
            "lastResults": [],
            "stepsLeftOut": 0,
        }
        try:
            steps = [_step(number, each) for number, each in enumerate(self._history(), 1)]
        except Exception as error:  # owner: the saved work, which goes without the steps rather than not at all
            log.error("checkpoint.no_steps", error=repr(error)[:300])
            return {**told, "detail": f"its steps could not be read: {type(error).__name__}"}
        told["urls"] = list(dict.fromkeys(step["url"][:_URL] for step in steps if step["url"]))[-_URLS:]
        told["lastResults"] = steps[-1]["results"] if steps else []
        kept = list(steps)
        while kept and len(json.dumps(kept)) > MOST_BYTES - (1 << 20):
            del kept[: max(1, len(kept) // 4)]
        return {**told, "steps": kept, "stepsLeftOut": len(steps) - len(kept)}

    def _history(self) -> list[Any]:
        return [] if self.agent is None else list(self.agent.history.history)


def _step(number: int, done: Any) -> dict[str, Any]:
    """One item of browser-use's history. What it holds more, such as pictures of the page, is not taken along."""
    thought = done.model_output.current_state if done.model_output is not None else None
    actions = done.model_output.action if done.model_output is not None else []
    return {
        "number": done.metadata.step_number if done.metadata is not None else number,
        "beganAt": _moment(done.metadata.step_start_time) if done.metadata is not None else None,
        "endedAt": _moment(done.metadata.step_end_time) if done.metadata is not None else None,
        "url": _cut(done.state.url),
        "title": _cut(done.state.title),
        "goal": _cut(thought.next_goal) if thought is not None else None,
        "memory": _cut(thought.memory) if thought is not None else None,
        "actions": [_bounded(action.model_dump(exclude_none=True, mode="json")) for action in actions],
        "results": [_result(each) for each in done.result],
    }


def _result(each: Any) -> dict[str, Any]:
    told = {
        "extracted": _cut(each.extracted_content),
        "remembered": _cut(each.long_term_memory),
        "error": _cut(each.error),
    }
    return {name: value for name, value in told.items() if value}


def _bounded(action: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(action)
    return action if len(text) <= _TEXT else {"cut": text[:_TEXT]}


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _TEXT else f"{text[:_TEXT]}…"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()

"""Every way that a workflow can take is in some recorded history: what is not recorded could be changed unnoticed."""

import base64
import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow

from tests.replay.check import WORKFLOWS
from tests.replay.seals import recorded
from workflows import options

CODE = {path: path.read_text() for path in Path(options.__file__).parent.glob("*.py")}


@dataclass
class Seen:
    """What all histories of one type of workflow have in them."""

    signals: set[str] = field(default_factory=set)
    updates: set[str] = field(default_factory=set)
    activities: set[str] = field(default_factory=set)
    rung: set[str] = field(default_factory=set)
    patches: set[str] = field(default_factory=set)
    handed_on: bool = False

    def take(self, events: list[dict[str, Any]]) -> None:
        timers: dict[str, str] = {}
        for event in events:
            match event:
                case {"workflowExecutionSignaledEventAttributes": {"signalName": name}}:
                    self.signals.add(name)
                case {"workflowExecutionUpdateAcceptedEventAttributes": {"acceptedRequest": {"input": {"name": name}}}}:
                    self.updates.add(name)
                case {"activityTaskScheduledEventAttributes": {"activityType": {"name": name}}}:
                    self.activities.add(name)
                case {"markerRecordedEventAttributes": {"markerName": "core_patch", "details": details}}:
                    self.patches.add(_told(details["patch-data"]["payloads"][0])["id"])
                case {"markerRecordedEventAttributes": {"details": details}}:
                    self.activities.add(_told(details["data"]["payloads"][0])["activity_type"])
                case {"timerStartedEventAttributes": {"timerId": timer}, "userMetadata": {"summary": summary}}:
                    timers[timer] = _told(summary)
                case {"timerFiredEventAttributes": {"timerId": timer}} if timer in timers:
                    self.rung.add(timers[timer])
                case {"workflowExecutionContinuedAsNewEventAttributes": _}:
                    self.handed_on = True
                case _:
                    pass


def _told(payload: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(payload["data"]))


@pytest.fixture(scope="module")
def seen() -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    for path in recorded():
        events = json.loads(path.read_text())["events"]
        begun = events[0]["workflowExecutionStartedEventAttributes"]
        found.setdefault(begun["workflowType"]["name"], Seen()).take(events)
    return found


def _found(pattern: str) -> Iterator[str]:
    for text in CODE.values():
        yield from re.findall(pattern, text)


def test_every_workflow_signal_and_update_has_a_history(seen: dict[str, Seen]) -> None:
    for kind in WORKFLOWS:
        known = workflow._Definition.must_from_class(kind)
        recorded_of_it = seen.get(known.name or "", Seen())
        assert known.name in seen, f"no history of {known.name}"
        assert known.signals.keys() <= recorded_of_it.signals, known.name
        assert known.updates.keys() <= recorded_of_it.updates, known.name


def test_every_workflow_is_replayed() -> None:
    defined = set(_found(r'@workflow\.defn\(\s*name="(\w+)"'))
    assert defined == {workflow._Definition.must_from_class(kind).name for kind in WORKFLOWS}


def test_every_step_has_a_history(seen: dict[str, Seen]) -> None:
    called = set(_found(r"_activity\(\s*contracts\.(\w+)"))
    assert "register" in called
    assert called <= set().union(*(one.activities for one in seen.values()))


def test_every_timer_rings_in_some_history(seen: dict[str, Seen]) -> None:
    summaries = {name for line in _found(r"timeout_summary=(.*)") for name in re.findall(r'"([^"]+)"', line)}
    assert "grace" in summaries
    assert summaries <= set().union(*(one.rung for one in seen.values()))


def test_every_change_that_was_guarded_has_a_history(seen: dict[str, Seen]) -> None:
    guarded = {getattr(options, name) for name in _found(r"workflow\.patched\((\w+)\)")}
    assert len(guarded) >= 3
    assert guarded <= set().union(*(one.patches for one in seen.values()))


def test_every_workflow_that_hands_on_has_a_history_of_it(seen: dict[str, Seen]) -> None:
    for kind in WORKFLOWS:
        if "workflow.continue_as_new(" in inspect.getsource(sys.modules[kind.__module__]):
            name = workflow._Definition.must_from_class(kind).name
            assert seen[name or ""].handed_on, name

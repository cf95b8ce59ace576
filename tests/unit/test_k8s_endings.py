"""What an agent's user is told of a pod that came to its end: by itself, by its machine, or by our own hand."""

from typing import Any

import pytest

from core.domain.recovery import FailureKind, Restart, decide, spends
from core.runtime.base import Phase
from k8s.diagnose import Diagnosis, diagnose, lost_with, wants_events
from tests.fakes.pods import JSON_WORD, condition, container, disrupted, ended, event, pod, running, waiting


def said(code: int, reason: str) -> str:
    return JSON_WORD.format(code=code, reason=reason)


# ---- ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (ended(75, message=said(75, "chromium ended with -9")), FailureKind.CRASH),
        (ended(76, message=said(76, "a page was killed for memory")), FailureKind.OUT_OF_MEMORY),
        (ended(78, message=said(78, "No usable sandbox!")), FailureKind.CANNOT_START),
        # OOMKilled is said of the container although only one process in it was killed, once.
        (ended(78, "OOMKilled", said(78, "the desktop did not start")), FailureKind.CANNOT_START),
        (ended(0, "OOMKilled"), None),
        (ended(0, "Completed"), None),
        (ended(143, "OOMKilled"), FailureKind.EXITED),
        (ended(137, "OOMKilled", "some last\nlines"), FailureKind.OUT_OF_MEMORY),
        (ended(137), FailureKind.CRASH),
        (ended(137, message=said(0, "ordered")), None),
        (ended(1, message="Traceback\nValueError: no\n"), FailureKind.CRASH),
        (ended(143), FailureKind.EXITED),
        (ended(128, "StartError", 'exec: "agent": executable file not found in $PATH'), FailureKind.CANNOT_START),
        (ended(137, "ContainerStatusUnknown", "The container could not be located"), FailureKind.HOST_LOST),
    ],
)
def test_end_is_judged_by_code_and_own_word_before_kubernetes_reason(
    status: dict[str, Any], kind: FailureKind | None
) -> None:
    found = diagnose(pod(**status))
    assert (found.phase, found.failure) == (Phase.EXITED, kind)
    assert found.exit_code == status["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    assert bool(found.detail) is (kind is not None)


def test_crash_is_told_with_its_code_and_the_last_lines_of_its_log() -> None:
    log = "\n".join(f"line {number}" for number in range(50)) + "\n\x1b[31mValueError: no\x00\n"
    found = diagnose(pod(**ended(1, message=log)))
    assert found.detail == "it ended with exit code 1: line 48 | line 49 | ValueError: no"


def test_own_word_is_found_behind_the_tail_of_a_log() -> None:
    found = diagnose(pod(**ended(75, message="noise\nmore noise\n" + said(75, "the desktop ended"))))
    assert found.detail == "the desktop ended"


@pytest.mark.parametrize(("probe", "kind"), [("Liveness", FailureKind.HEALTH), ("Startup", FailureKind.START_DEADLINE)])
@pytest.mark.parametrize(
    ("code", "word"),
    [
        (0, ""),
        (137, ""),
        (143, ""),
        # It was alive, and only the way to it was not: it notes that it was told to go, and cannot know what for.
        (143, said(143, "signal SIGTERM")),
        (137, said(143, "signal SIGTERM")),
    ],
)
def test_agent_that_did_not_answer_its_probe_is_no_crash(probe: str, kind: FailureKind, code: int, word: str) -> None:
    killed = pod(**ended(code, "OOMKilled", word))
    assert wants_events(killed)
    unhealthy = [
        event("Unhealthy", f"{probe} probe failed: dial tcp 10.0.0.1:8080: connect: connection refused"),
        event("Unhealthy", "Readiness probe failed: timeout"),
    ]
    stopped = event("Killing", "Stopping container agent", "Normal")
    found = diagnose(killed, [*unhealthy, stopped])
    assert (found.failure, found.exit_code) == (kind, code)
    assert "connection refused" in found.detail
    # A probe that failed now and then is no reason, nor is readiness, which ends nothing.
    assert diagnose(killed, unhealthy).failure is not kind
    assert diagnose(killed, [unhealthy[1], stopped]).failure is not kind


# ---- put off -------------------------------------------------------------------------------------------------------


def test_eviction_is_told_with_its_reason() -> None:
    message = 'Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". '
    found = diagnose(pod(**ended(143) | {"phase": "Failed", "reason": "Evicted", "message": message}))
    assert (found.failure, found.exit_code) == (FailureKind.EVICTED, 143)
    assert 'EmptyDir volume "tmp"' in found.detail
    assert isinstance(decide(FailureKind.EVICTED, 0, 2), Restart)


def test_end_in_order_is_no_success_where_the_cluster_ordered_it() -> None:
    """An image that is not ours may end well on SIGTERM; only an agent's own word says that Berth had ordered it."""
    late = {"phase": "Failed", "reason": "DeadlineExceeded", "message": "Pod was active on the node longer than ..."}
    assert diagnose(pod(**ended(0, "Completed") | late)).failure is FailureKind.EXITED
    evicted: dict[str, Any] = {"conditions": [disrupted("EvictionByEvictionAPI")]}
    assert diagnose(pod(deleted=True, **ended(0, "Completed", **evicted))).failure is FailureKind.HOST_LOST
    ordered = ended(0, "Completed", said(0, "ordered"), **evicted)
    assert diagnose(pod(deleted=True, **ordered)).failure is None
    assert not wants_events(pod(**ended(137, message=said(0, "ordered"))))


def test_agent_that_is_asked_to_leave_its_machine_may_save_first() -> None:
    leaving = running() | {"conditions": [disrupted("EvictionByEvictionAPI")]}
    assert diagnose(pod(deleted=True, **leaving)).phase is Phase.STARTED
    found = diagnose(pod(deleted=True, **ended(143, conditions=[disrupted("EvictionByEvictionAPI")])))
    assert (found.phase, found.failure) == (Phase.EXITED, FailureKind.HOST_LOST)


@pytest.mark.parametrize("why", ["EvictionByEvictionAPI", "PreemptionByScheduler", "DeletionByTaintManager"])
def test_machines_that_are_emptied_one_after_the_other_fail_nobody_on_them(why: str) -> None:
    found = diagnose(pod(deleted=True, **ended(143, conditions=[disrupted(why)])))
    assert found.failure is not None
    assert not spends(found.failure, was_usable=True)


def test_agent_that_its_machine_drove_out_for_what_it_took_itself_is_not_begun_for_ever() -> None:
    found = diagnose(pod(**ended(143, conditions=[disrupted("TerminationByKubelet")])))
    assert found.failure is not None
    assert spends(found.failure, was_usable=True)


def test_pod_that_we_delete_is_no_failure() -> None:
    assert diagnose(pod(deleted=True, **running())) == Diagnosis(phase=Phase.STARTED)
    for code in (0, 137, 143):
        assert diagnose(pod(deleted=True, **ended(code))) == Diagnosis(phase=Phase.EXITED, exit_code=code)
    doomed = waiting("CreateContainerError", "cannot load seccomp profile")
    assert diagnose(pod(deleted=True, **doomed)) == Diagnosis(phase=Phase.STARTING)


UNREACHABLE: list[dict[str, Any]] = [
    running() | {"reason": "NodeLost", "message": "Node node-1 which was running pod agent-1 is unresponsive"},
    running() | {"conditions": [disrupted("DeletionByTaintManager"), condition("Ready", "False")]},
    running() | {"conditions": [disrupted("DeletionByPodGC"), condition("Ready", "False")]},
]
SWITCHED_OFF: list[dict[str, Any]] = [
    {"phase": "Failed", "reason": "Terminated", "message": "Pod was terminated in response to imminent node shutdown."},
    ended(143) | {"phase": "Failed", "reason": "Terminated", "message": "imminent node shutdown"},
]


@pytest.mark.parametrize(
    ("status", "deleted"),
    [(status, deleted) for status in UNREACHABLE for deleted in (False, True)]
    + [(each, False) for each in SWITCHED_OFF],
)
def test_lost_machine_takes_its_agents_along(status: dict[str, Any], deleted: bool) -> None:
    found = diagnose(pod(deleted=deleted, **status))
    assert (found.phase, found.failure) == (Phase.EXITED, FailureKind.HOST_LOST)
    assert found.detail


def test_agent_on_a_machine_that_only_closed_its_doors_is_no_lost_agent() -> None:
    leaving = running(ready=True)
    leaving["conditions"].append(disrupted("DeletionByTaintManager"))
    assert diagnose(pod(deleted=True, **leaving)).phase is Phase.STARTED


def test_machine_that_is_not_ready_is_told_by_name() -> None:
    found = lost_with("node-2", "Kubelet stopped posting node status.")
    assert (found.phase, found.failure) == (Phase.EXITED, FailureKind.HOST_LOST)
    assert found.detail == "its machine node-2 does not answer: Kubelet stopped posting node status"


def test_pod_refused_by_its_machine_is_tried_again() -> None:
    status: dict[str, Any] = {
        "phase": "Failed",
        "reason": "OutOfcpu",
        "message": "Node didn't have enough resource: cpu",
    }
    found = diagnose(pod(**status))
    assert (found.phase, found.failure) == (Phase.EXITED, FailureKind.EVICTED)
    assert "OutOfcpu" in found.detail


def test_failed_preparation_is_told_by_name() -> None:
    prepares = container({"terminated": {"exitCode": 3, "reason": "Error"}}) | {"name": "profile"}
    found = diagnose(pod(phase="Failed", initContainerStatuses=[prepares]))
    assert (found.phase, found.failure) == (Phase.EXITED, FailureKind.CANNOT_START)
    assert "(profile) ended with exit code 3" in found.detail

"""What an agent's user is told of a pod in trouble, and when we stop waiting for it."""

from typing import Any

import pytest

from core.domain.recovery import FailureKind, GiveUp, decide
from core.runtime.base import Handle, Phase
from k8s.diagnose import diagnose, wants_events
from k8s.observe import observation_of
from tests.fakes.pods import (
    ended,
    event,
    pod,
    running,
    unschedulable,
    waiting,
)

NO_USE = (
    "no new claims to deallocate, preemption: 0/{n} nodes are available: {n} Preemption is not helpful for scheduling."
)
PROBE = {"berth.dev/ready-by": "probe"}


# ---- the usual course ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ({}, Phase.STARTING),
        ({"phase": "Pending"}, Phase.STARTING),
        (waiting("ContainerCreating"), Phase.STARTING),
        (waiting("PodInitializing"), Phase.STARTING),
        (running(), Phase.STARTED),
        (running(ready=True), Phase.STARTED),
        (ended(0, "Completed"), Phase.EXITED),
    ],
)
def test_pod_goes_its_way_without_a_word_of_trouble(status: dict[str, Any], phase: Phase) -> None:
    found = diagnose(pod(**status))
    assert (found.phase, found.failure, found.detail) == (phase, None, "")


@pytest.mark.parametrize("where", ["labels", "annotations"])
def test_pod_whose_template_trusts_its_probe_is_ready_when_kubernetes_says_so(where: str) -> None:
    marks: Any = {where: PROBE}
    assert diagnose(pod(**marks, **running(ready=True))).phase is Phase.READY
    assert diagnose(pod(**marks, **running())).phase is Phase.STARTED


def test_observation_says_whose_agent_it_is_in_full() -> None:
    seen = observation_of(pod(agent_id="ag-7", attempt=3, **running()))
    assert (seen.agent_id, seen.attempt, seen.user_id, seen.project_id) == ("ag-7", 3, "ann@example.org", "project ü")
    native = {"namespace": "agents", "pod": "agent-1", "uid": "uid-agent-1"}
    assert seen.handle == Handle(runtime="kubernetes", agent_id="ag-7", attempt=3, native=native)
    assert seen.created_at is not None


@pytest.mark.parametrize("marks", [{"berth.dev/agent-id": ""}, {"berth.dev/attempt": "one"}])
def test_pod_that_does_not_say_whose_it_is_is_no_agent(marks: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="does not say which attempt of which agent it is"):
        observation_of(pod(annotations=marks))


# ---- no place ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (f"0/1 nodes are available: 1 Insufficient cpu. {NO_USE.format(n=1)}", "more cpu"),
        (f"0/2 nodes are available: 2 Insufficient memory. {NO_USE.format(n=2)}", "more memory"),
        (f"0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. {NO_USE.format(n=1)}", "cpu and memory"),
        (
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint "
            f"{{node-role.kubernetes.io/control-plane: }}. {NO_USE.format(n=2)}",
            "more cpu",
        ),
    ],
)
def test_agent_larger_than_every_machine_is_given_up_with_the_resource_named(message: str, word: str) -> None:
    found = diagnose(pod(**unschedulable(message)))
    assert (found.phase, found.failure) == (Phase.EXITED, FailureKind.UNSCHEDULABLE)
    assert word in found.detail
    assert isinstance(decide(FailureKind.UNSCHEDULABLE, 0, 2), GiveUp)


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: "
            "1 No preemption victims found for incoming pod.",
            "enough cpu free",
        ),
        (
            "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption ...",
            "places",
        ),
        (
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint "
            f"{{node.kubernetes.io/unreachable: }}. {NO_USE.format(n=2)}",
            "enough cpu free",
        ),
        (
            f"0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. {NO_USE.format(n=1)}",
            "affinity",
        ),
        ("no nodes available to schedule pods", "no machine"),
        ("something new", "something new"),
    ],
)
def test_agent_for_which_there_is_no_place_now_waits_and_says_why(message: str, word: str) -> None:
    found = diagnose(pod(**unschedulable(message)))
    assert (found.phase, found.failure) == (Phase.STARTING, FailureKind.UNSCHEDULABLE)
    assert word in found.detail


@pytest.mark.parametrize(
    "why",
    [
        "3 node(s) had volume node affinity conflict",
        "1 Insufficient memory, 2 node(s) had volume node affinity conflict",
        "3 node(s) exceed max volume count",
        "3 node(s) didn't find available persistent volumes to bind",
        "pod has unbound immediate PersistentVolumeClaims",
    ],
)
def test_agent_whose_own_volume_fits_nowhere_waits_and_says_nothing_of_room_for_others(why: str) -> None:
    found = diagnose(pod(**unschedulable(f"0/3 nodes are available: {why}. {NO_USE.format(n=3)}")))
    assert (found.phase, found.failure) == (Phase.STARTING, FailureKind.CANNOT_START)
    assert found.detail == f"no machine that has room can take its volume ({why})"


def test_cluster_that_grows_is_waited_for() -> None:
    message = f"0/1 nodes are available: 1 Insufficient cpu. {NO_USE.format(n=1)}"
    growing = [event("TriggeredScaleUp", "pod triggered scale-up", "Normal")]
    assert diagnose(pod(**unschedulable(message)), growing).phase is Phase.STARTING


# ---- no image ------------------------------------------------------------------------------------------------------

NOPE = "registry.example/nope:1"
NOT_FOUND = (
    f'rpc error: code = NotFound desc = failed to pull and unpack image "{NOPE}": failed to resolve reference '
    f'"{NOPE}": {NOPE}: not found'
)
DENIED = (
    f'failed to pull and unpack image "{NOPE}": failed to resolve reference "{NOPE}": pull access denied, repository '
    "does not exist or may require authorization: authorization failed: no basic auth credentials"
)


@pytest.mark.parametrize(
    "status",
    [
        waiting("ErrImagePull", NOT_FOUND, NOPE),
        waiting("ErrImagePull", DENIED, NOPE),
        waiting("ImagePullBackOff", f'Back-off pulling image "{NOPE}": ErrImagePull: {NOT_FOUND}', NOPE),
        waiting("InvalidImageName", f'Failed to apply default image tag "{NOPE}": could not parse', NOPE),
        waiting("ErrImageNeverPull", f'Container image "{NOPE}" is not present with pull policy of Never', NOPE),
    ],
)
def test_image_that_does_not_exist_is_given_up_and_named(status: dict[str, Any]) -> None:
    found = diagnose(pod(image=NOPE, **status))
    assert (found.phase, found.failure) == (Phase.EXITED, FailureKind.IMAGE_PULL)
    assert NOPE in found.detail
    assert isinstance(decide(FailureKind.IMAGE_PULL, 0, 2), GiveUp)


@pytest.mark.parametrize(
    "why",
    [
        "dial tcp 10.0.0.1:443: connect: connection refused",
        "dial tcp 10.0.0.1:443: i/o timeout",
        "dial tcp: lookup registry.example: no such host",
        "unexpected status from HEAD request to https://registry.example/v2/nope: 503 Service Unavailable",
        "429 Too Many Requests - Server message: toomanyrequests: You have reached your pull rate limit",
    ],
)
def test_registry_that_does_not_answer_is_waited_for(why: str) -> None:
    message = (
        f'failed to pull and unpack image "{NOPE}": failed to resolve reference "{NOPE}": failed to do request: {why}'
    )
    found = diagnose(pod(image=NOPE, **waiting("ErrImagePull", message, NOPE)))
    assert (found.phase, found.failure) == (Phase.STARTING, FailureKind.IMAGE_PULL)
    assert NOPE in found.detail
    assert why.rpartition(": ")[2] in found.detail


def test_back_off_that_forgot_why_is_explained_by_the_event() -> None:
    backing_off = pod(image=NOPE, **waiting("ImagePullBackOff", f'Back-off pulling image "{NOPE}"', NOPE))
    assert diagnose(backing_off).phase is Phase.STARTING
    assert wants_events(backing_off)
    assert diagnose(backing_off, [event("Failed", f'Failed to pull image "{NOPE}": {NOT_FOUND}')]).phase is Phase.EXITED


def test_name_of_an_image_is_not_taken_for_what_happened_to_it() -> None:
    odd = "registry.example/unauthorized:503"
    message = f'failed to pull and unpack image "{odd}": dial tcp 10.0.0.1:443: i/o timeout'
    assert diagnose(pod(image=odd, **waiting("ErrImagePull", message, odd))).phase is Phase.STARTING


# ---- no sandbox ----------------------------------------------------------------------------------------------------


def test_missing_seccomp_profile_is_given_up_although_kubernetes_would_wait_for_ever() -> None:
    message = 'cannot load seccomp profile "/var/lib/kubelet/seccomp/agent.json": open agent.json: no such file'
    found = diagnose(pod(**waiting("CreateContainerError", message)))
    assert (found.phase, found.failure) == (Phase.EXITED, FailureKind.CANNOT_START)
    assert "lacks the seccomp profile" in found.detail


def test_secret_that_is_just_being_made_is_waited_for() -> None:
    found = diagnose(pod(**waiting("CreateContainerConfigError", 'secret "agent-1" not found')))
    assert found.phase is Phase.STARTING
    assert 'secret "agent-1" not found' in found.detail


@pytest.mark.parametrize(
    "message",
    [
        "container has runAsNonRoot and image will run as root (pod: agent-1)",
        "container's runAsUser breaks non-root policy (pod: agent-1)",
    ],
)
def test_image_that_wants_to_be_root_is_given_up(message: str) -> None:
    found = diagnose(pod(**waiting("CreateContainerConfigError", message)))
    assert (found.phase, found.failure) == (Phase.EXITED, FailureKind.CANNOT_START)


def test_missing_runtime_class_is_told_by_its_event() -> None:
    creating = pod(**waiting("ContainerCreating"))
    assert wants_events(creating)
    why = 'Failed to create pod sandbox: rpc error: failed to get sandbox runtime: no runtime for "runsc" is configured'
    found = diagnose(creating, [event("FailedCreatePodSandBox", why)])
    assert (found.phase, found.failure) == (Phase.EXITED, FailureKind.CANNOT_START)
    assert "runsc" in found.detail


def test_sandbox_and_volume_in_trouble_are_told_and_waited_for() -> None:
    creating = pod(**waiting("ContainerCreating"))
    network = event("FailedCreatePodSandBox", "Failed to create pod sandbox: rpc error: plugin not initialized")
    volume = event("FailedMount", 'MountVolume.SetUp failed for volume "token": secret "agent-1" not found')
    assert (diagnose(creating, [network]).phase, diagnose(creating, [volume]).phase) == (Phase.STARTING, Phase.STARTING)
    assert "plugin not initialized" in diagnose(creating, [network]).detail
    assert "token" in diagnose(creating, [volume]).detail


# ---- all of them ---------------------------------------------------------------------------------------------------


def test_endless_words_become_a_sentence() -> None:
    for status in (
        ended(1, message="x" * 5000),
        waiting("CreateContainerError", "y" * 5000),
        unschedulable("z " * 5000),
    ):
        assert 100 < len(diagnose(pod(**status)).detail) < 500


def test_events_are_asked_for_only_where_they_may_tell_more() -> None:
    assert wants_events(pod(**unschedulable("x")))
    assert wants_events(pod(**ended(137)))
    for quiet in (running(), running(ready=True), ended(75), ended(1)):
        assert not wants_events(pod(**quiet))
    assert not wants_events(pod(deleted=True, **ended(137)))

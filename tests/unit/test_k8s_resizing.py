"""What a pod's status says of a resize, and where a pod could go, as Kubernetes 1.34 writes both."""

from typing import Any

import pytest

from core.domain.placement import KubernetesTemplate
from core.domain.sizes import Size
from core.domain.templates import Resources, Template
from core.errors import NeverSatisfiable, RuntimePermanent
from k8s.capacity import check_size, nodes_with
from k8s.moving import require_other
from k8s.resizing import Progress, guaranteed, limits, progress
from tests.unit.test_k8s_capacity import node, pod

WANTED = Size(cpu=1.5, memory_mib=2048)
DONE = {"cpu": "1500m", "memory": "2Gi"}
EARLIER = {"cpu": "1", "memory": "1Gi"}


def told(*conditions: dict[str, Any], actual: dict[str, str] | None = None, wish: int = 2) -> dict[str, Any]:
    status = {"name": "agent", "resources": {"limits": EARLIER if actual is None else actual}}
    true = [{"status": "True", **condition} for condition in conditions]
    return {"metadata": {"generation": wish}, "status": {"conditions": true, "containerStatuses": [status]}}


def test_resize_is_done_when_the_container_has_the_new_limits() -> None:
    assert progress(told(actual=DONE), WANTED) == Progress(done=True)
    assert not progress(told(), WANTED).known
    assert not progress(told(actual={"cpu": "1500m", "memory": "1Gi"}), WANTED).known
    assert not progress({"metadata": {}, "status": {}}, WANTED).known


@pytest.mark.parametrize("millis", [350, 700, 1400, 1900, 2300])
def test_cores_are_the_same_in_whatever_way_they_are_written(millis: int) -> None:
    """Some thousandths of a core are not what a computer makes of a thousand times less."""
    size, written = Size(cpu=millis / 1000, memory_mib=2048), {"cpu": f"{millis}m", "memory": "2Gi"}
    assert progress(told(actual=written), size).done
    assert guaranteed({"spec": {"containers": [{"name": "agent", "resources": {"requests": written}}]}}, size)


def test_earlier_limits_are_those_it_has_and_not_those_that_were_wished_in_vain() -> None:
    wished = {"spec": {"containers": [{"name": "agent", "resources": {"limits": {"cpu": "64", "memory": "64Gi"}}}]}}
    assert limits({**told(), **wished}) == Size(cpu=1, memory_mib=1024)


def test_machine_that_never_can_says_why() -> None:
    why = {"type": "PodResizePending", "reason": "Infeasible", "message": "Node didn't have enough capacity: cpu."}
    assert progress(told(why), WANTED) == Progress(never=True, why="Node didn't have enough capacity: cpu")


@pytest.mark.parametrize(
    ("condition", "word"),
    [
        ({"type": "PodResizePending", "reason": "Deferred", "message": "no room yet"}, "puts it off: no room yet"),
        ({"type": "PodResizePending", "reason": "Deferred"}, "puts it off: Deferred"),
        (
            {"type": "PodResizeInProgress", "reason": "Error", "message": "below current usage"},
            "has not managed it yet: below current usage",
        ),
    ],
)
def test_machine_that_does_it_later_says_why(condition: dict[str, Any], word: str) -> None:
    found = progress(told(condition), WANTED)
    assert (found.done, found.never) == (False, False)
    assert word in found.why


def test_what_was_said_of_an_earlier_wish_does_not_count() -> None:
    old = {"type": "PodResizePending", "reason": "Infeasible", "message": "too large", "observedGeneration": 1}
    assert not progress(told(old), WANTED).known
    assert progress(told(old, actual=DONE), WANTED) == Progress(done=True)
    assert progress(told({**old, "observedGeneration": 2}), WANTED).never
    over = told({"type": "PodResizePending", "reason": "Infeasible", "status": "False"}, actual=DONE)
    assert progress(over, WANTED).done
    at_it = told({"type": "PodResizeInProgress", "observedGeneration": 2}, actual=DONE)
    assert not progress(at_it, WANTED).known


def test_class_of_a_pod_is_known_before_it_is_asked_for_another() -> None:
    asked = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    made = {"spec": {"containers": [{"name": "beside"}, {"name": "agent", "resources": asked}]}}
    assert limits(made) == Size(cpu=1, memory_mib=1024)
    assert guaranteed(made, Size(cpu=0.5, memory_mib=512))
    assert not guaranteed(made, Size(cpu=0.5, memory_mib=513))
    with pytest.raises(RuntimePermanent, match="no limits"):
        limits({"spec": {"containers": [{"name": "agent"}]}})


def test_limits_beyond_the_largest_machine_are_refused() -> None:
    nodes = [node("n1", cpu="2", memory="8Gi"), node("n2", cpu="8", memory="4Gi")]
    check_size(nodes, Size(cpu=8, memory_mib=4096))
    check_size([], Size(cpu=800, memory_mib=4096))
    with pytest.raises(NeverSatisfiable, match="8 cores, 5000 MiB: at most 8 cores and 8192 MiB"):
        check_size(nodes, Size(cpu=8, memory_mib=5000))


HALF = Template(resources=Resources(cpu=0.5, memory_mib=512))
HERE = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]


def test_agent_may_move_where_there_is_room_for_its_requests() -> None:
    require_other(nodes_with([node("n1"), node("n2")], [pod("n1")], HALF), "n1", HALF, [])


@pytest.mark.parametrize(
    ("other", "pods", "template", "terms", "why"),
    [
        (node("n2", ready="False"), [], HALF, [], "n2 is closed or not ready"),
        (node("n2", unschedulable=True), [], HALF, [], "n2 is closed or not ready"),
        (node("n2", taints=[{"key": "gpu", "effect": "NoSchedule"}]), [], HALF, [], "n2 is not for agents"),
        (node("n2"), [], HALF, HERE, "n2 cannot reach the volume of its profile"),
        (node("n2"), [pod("n2", cpu="1800m")], HALF, [], "n2 has no room for it"),
        (node("n2"), [pod(None, cpu="1800m")], HALF, [], "n2 has no room for it"),
        (
            node("n2"),
            [],
            HALF.model_copy(update={"kubernetes": KubernetesTemplate(node_selector={"kubernetes.io/hostname": "n1"})}),
            [],
            "n2 is not for agents",
        ),
    ],
)
def test_agent_stays_where_no_other_machine_would_take_it_and_it_is_said_why(
    other: dict[str, Any], pods: list[Any], template: Template, terms: list[Any], why: str
) -> None:
    nodes = nodes_with([node("n1", cpu="1"), other], [pod("n1"), *pods], HALF)
    with pytest.raises(RuntimePermanent, match=f"no other machine would take it: {why}"):
        require_other(nodes, "n1", template, terms)


def test_agent_on_the_only_machine_stays() -> None:
    with pytest.raises(RuntimePermanent, match="no machine but n1"):
        require_other(nodes_with([node("n1")], [], HALF), "n1", HALF, [])


def test_why_not_is_told_of_a_few_machines_of_a_large_cluster() -> None:
    nodes = nodes_with([node(f"n{number}", ready="False") for number in range(20)], [], HALF)
    with pytest.raises(RuntimePermanent, match="and 14 more"):
        require_other(nodes, "n1", HALF, [])

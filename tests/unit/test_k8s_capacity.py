"""How many agents a cluster takes, from nodes and pods as the API server lists them."""

from typing import Any

import pytest

from core.domain.placement import Effect, KubernetesTemplate, Toleration, TolerationOperator
from core.domain.templates import Resources, Template
from core.errors import NeverSatisfiable
from k8s.capacity import capacity, check
from k8s.nodes import node_seen, pod_seen
from k8s.quantities import quantity

_GPU = {"key": "gpu", "effect": "NoSchedule"}
_TOLERATED = Toleration(key="gpu", operator=TolerationOperator.EXISTS)
HALF = Template(resources=Resources(cpu=0.5, memory_mib=512))


def node(name: str = "n1", cpu: str = "2", memory: str = "8Gi", pods: str = "110", **more: Any) -> dict[str, Any]:
    ready = more.pop("ready", "True")
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **more.pop("labels", {})}},
        "spec": more,
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": pods},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def pod(on: str | None = "n1", cpu: str = "500m", memory: str = "512Mi", **more: Any) -> dict[str, Any]:
    labels = {"app": "agent", "berth.dev/installation": "berth"} if more.pop("ours", True) else {}
    requests = {"requests": {"cpu": cpu, "memory": memory}}
    spec = {"containers": [{"resources": requests}], **({"nodeName": on} if on else {}), **more.pop("spec", {})}
    return {"metadata": {"labels": labels}, "spec": spec, "status": {"phase": more.pop("phase", "Running")}}


def fits(nodes: list[Any], pods: list[Any], template: Template = HALF, **more: Any) -> int | None:
    """Of what a look keeps of them."""
    seen = ([*map(node_seen, nodes)], [*map(pod_seen, pods)])
    found = capacity(*seen, template, "berth", **more)
    assert found == capacity(nodes, pods, template, "berth", **more)
    return found.fits


def test_the_scarcest_of_cores_memory_and_places_decides_on_each_node() -> None:
    assert fits([node()], []) == 4
    assert fits([node(memory="1Gi")], []) == 2
    assert fits([node(pods="3")], []) == 3
    # 1.5 and 0.4 cores are three agents, though together they would be nearly four.
    assert fits([node("n1", cpu="1500m"), node("n2", cpu="400m")], []) == 3


def test_everybodys_pods_take_room_and_those_that_ended_none() -> None:
    others = [pod(ours=False, cpu="250m"), pod(ours=False, phase="Succeeded"), pod(phase="Failed")]
    assert fits([node()], [pod(), *others]) == 2
    assert capacity([node()], [pod(), *others], HALF, "berth").agents == 1


def test_an_agent_that_waits_for_its_node_has_its_place_already() -> None:
    assert fits([node("n1"), node("n2")], [pod(on=None), pod(on=None)]) == 6


@pytest.mark.parametrize(("priority_class", "expected"), [("first", 3), ("never", 2), (None, 2)])
def test_room_that_a_placeholder_keeps_is_that_of_agents_which_push_it_aside(
    priority_class: str | None, expected: int
) -> None:
    placeholder = pod(ours=False)
    placeholder["metadata"]["labels"]["berth.dev/placeholder"] = "first"
    template = HALF.model_copy(update={"kubernetes": KubernetesTemplate(priority_class=priority_class)})
    assert fits([node()], [placeholder, pod()], template) == expected


def test_another_berth_in_the_namespace_takes_room_but_is_not_counted_as_ours() -> None:
    theirs = pod()
    theirs["metadata"]["labels"]["berth.dev/installation"] = "second"
    seen = capacity([node()], [theirs], HALF, "berth")
    assert (seen.fits, seen.agents) == (3, 0)


def test_what_prepares_a_pod_runs_alone_and_what_runs_beside_it_does_not() -> None:
    def init(cpu: str, **more: Any) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    assert fits([node()], [pod(cpu="500m", spec={"initContainers": [init("1")]})]) == 2
    assert fits([node()], [pod(cpu="500m", spec={"initContainers": [init("1", restartPolicy="Always")]})]) == 1
    assert fits([node()], [pod(cpu="500m", spec={"overhead": {"cpu": "500m"}})]) == 2


def test_agents_on_a_machine_that_is_silent_hold_no_place_and_those_on_a_closed_one_do() -> None:
    nodes = [node("n1"), node("n2", ready="Unknown"), node("n3", unschedulable=True)]
    found = capacity(nodes, [pod("n1"), pod("n2"), pod("n3"), pod("never heard of"), pod(None)], HALF, "berth")
    assert (found.agents, found.fits) == (3, 2)


def test_closed_and_ill_nodes_are_no_room() -> None:
    seen = capacity([node("n1", unschedulable=True), node("n2", ready="Unknown"), node("n3")], [], HALF, "berth")
    assert (seen.fits, seen.schedulable_nodes) == (4, 1)


@pytest.mark.parametrize(
    ("effect", "tolerations", "expected"),
    [
        ("NoSchedule", (), 0),
        ("NoExecute", (), 0),
        ("PreferNoSchedule", (), 4),
        ("NoSchedule", (Toleration(operator=TolerationOperator.EXISTS),), 4),
        ("NoSchedule", (Toleration(key="agents", value="yes"),), 4),
        ("NoSchedule", (Toleration(key="agents", value="no"),), 0),
        ("NoSchedule", (Toleration(key="agents", value="yes", effect=Effect.NO_EXECUTE),), 0),
    ],
)
def test_taints_keep_away_whoever_does_not_tolerate_them(effect: str, tolerations: Any, expected: int) -> None:
    tainted = node(taints=[{"key": "agents", "value": "yes", "effect": effect}])
    template = HALF.model_copy(update={"kubernetes": KubernetesTemplate(tolerations=tolerations)})
    assert fits([tainted], [], template) == expected


def test_selectors_and_affinity_choose_nodes() -> None:
    nodes = [node("n1", labels={"disk": "ssd"}), node("n2")]
    selecting = HALF.model_copy(update={"kubernetes": KubernetesTemplate(node_selector={"disk": "ssd"})})
    assert fits(nodes, [], selecting) == 4
    term = {"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    attracted = HALF.model_copy(update={"kubernetes": KubernetesTemplate(affinity={"nodeAffinity": required})})
    assert fits(nodes, [pod("n1"), pod("n2")], attracted) == 3


def on(**selector: str) -> Template:
    return HALF.model_copy(update={"kubernetes": KubernetesTemplate(node_selector=selector)})


def test_each_template_is_counted_in_what_it_asks_for_and_on_the_nodes_that_take_it() -> None:
    nodes = [node("n1", labels={"disk": "ssd"}), node("n2", cpu="4"), node("n3", taints=[_GPU])]
    wanted = {
        "half": HALF,
        "large": Template(resources=Resources(cpu=1.5, memory_mib=512)),
        "ssd": on(disk="ssd"),
        "nowhere": on(disk="tape"),
        "gpu": HALF.model_copy(update={"kubernetes": KubernetesTemplate(tolerations=(_TOLERATED,))}),
    }
    seen = capacity(nodes, [pod("n1")], HALF, "berth", wanted=wanted)
    assert seen.fits == 11
    assert seen.fits_of == {"half": 11, "large": 3, "ssd": 3, "nowhere": 0, "gpu": 15}
    assert seen.schedulable_nodes == 3


def test_when_the_usual_nodes_go_the_others_are_still_room() -> None:
    nodes = [node("n1", unschedulable=True, labels={"kind": "usual"}), node("n2", labels={"kind": "other"})]
    seen = capacity(nodes, [], HALF, "berth", wanted={"usual": on(kind="usual"), "other": on(kind="other")})
    assert (seen.fits, seen.fits_of) == (0, {"usual": 0, "other": 4})
    assert seen.schedulable_nodes == 1, "the door is shut only where no node takes anybody"


def test_an_agent_that_waits_for_its_node_has_its_place_among_those_that_may_take_it() -> None:
    nodes = [node("n1", labels={"kind": "one"}), node("n2", labels={"kind": "two"}, taints=[_GPU])]
    one = on(kind="one")
    two = KubernetesTemplate(node_selector={"kind": "two"}, tolerations=(_TOLERATED,))
    wanted = {"one": one, "two": HALF.model_copy(update={"kubernetes": two})}
    tolerated = [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}, {"operator": "Exists"}]
    waiting = pod(on=None, spec={"nodeSelector": {"kind": "two"}, "tolerations": tolerated})
    seen = capacity(nodes, [waiting], HALF, "berth", wanted=wanted)
    assert seen.fits_of == {"one": 4, "two": 3}


def test_room_that_a_placeholder_keeps_is_that_of_the_templates_that_push_it_aside() -> None:
    placeholder = pod(ours=False)
    placeholder["metadata"]["labels"]["berth.dev/placeholder"] = "first"
    pushing = HALF.model_copy(update={"kubernetes": KubernetesTemplate(priority_class="first")})
    seen = capacity([node()], [placeholder, pod(on=None)], HALF, "berth", wanted={"half": HALF, "pushing": pushing})
    assert seen.fits_of == {"half": 2, "pushing": 3}


def test_who_is_there_is_told_where_there_is_more_than_one_size() -> None:
    ours = pod()
    ours["metadata"]["annotations"] = {"berth.dev/agent-id": "ag-1", "berth.dev/attempt": "1"}
    large = Template(resources=Resources(cpu=2, memory_mib=512))
    assert capacity([node()], [ours, pod()], HALF, "berth", wanted={"half": HALF, "large": large}).here == ("ag-1",)
    assert capacity([node()], [ours, pod()], HALF, "berth", wanted={"half": HALF}).here == ()


def test_a_quota_of_the_namespace_bounds_what_fits() -> None:
    def quota(hard: dict[str, str], used: dict[str, str], **spec: Any) -> dict[str, Any]:
        return {"spec": {"hard": hard, **spec}, "status": {"hard": hard, "used": used}}

    assert fits([node()], [], quotas=[quota({"pods": "3"}, {"pods": "2"})]) == 1
    assert fits([node()], [], quotas=[quota({"requests.memory": "1Gi"}, {})]) == 2
    assert fits([node()], [], quotas=[quota({"limits.cpu": "1"}, {"limits.cpu": "500m"})]) == 0
    assert fits([node()], [], quotas=[quota({"pods": "0"}, {}, scopes=["BestEffort"])]) == 4


def test_use_is_told_only_where_it_is_measured() -> None:
    unmeasured = capacity([node()], [], HALF, "berth")
    assert (unmeasured.cpu_percent, unmeasured.memory_percent) == (None, None)
    metrics = [{"metadata": {"name": "n1"}, "usage": {"cpu": "500m", "memory": "2Gi"}}]
    measured = capacity([node()], [], HALF, "berth", metrics=metrics)
    assert (measured.cpu_percent, measured.memory_percent) == (25, 25)


def test_a_template_larger_than_every_node_can_never_run() -> None:
    nodes = [node("n1", cpu="8", memory="1Gi"), node("n2", cpu="2", memory="64Gi")]
    check(nodes, HALF)
    both = Template(resources=Resources(cpu=4, memory_mib=4096))
    with pytest.raises(NeverSatisfiable, match=r"4 cores and 4096 MiB .*at most 8 cores, 65536 MiB"):
        check(nodes, both)


def test_a_full_or_closed_node_is_no_reason_to_give_up_for_ever() -> None:
    check([node(unschedulable=True)], HALF)
    check([], HALF)


@pytest.mark.parametrize(
    "key",
    [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/memory-pressure",
        "node.kubernetes.io/disk-pressure",
        "node.kubernetes.io/pid-pressure",
        "node.kubernetes.io/network-unavailable",
        "node.kubernetes.io/unschedulable",
        "node.cloudprovider.kubernetes.io/uninitialized",
        "ToBeDeletedByClusterAutoscaler",
    ],
)
@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute"])
def test_the_only_node_that_is_large_enough_may_be_ill_or_new_for_now(key: str, effect: str) -> None:
    small, large = node("n1", cpu="250m"), node("n2", ready="False", taints=[{"key": key, "effect": effect}])
    check([small, large], HALF)
    assert fits([small, large], []) == 0


def test_a_node_that_is_kept_for_others_is_none_that_is_ill() -> None:
    kept = node("n2", ready="False", taints=[{"key": "gpu", "effect": "NoSchedule"}])
    with pytest.raises(NeverSatisfiable):
        check([node("n1", cpu="250m"), kept], HALF)


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("2", 2), ("1.5Gi", 1.5 * 2**30), ("1e3", 1000), ("12E", 12e18), ("", 0), (None, 0), ("x", 0)],
)
def test_quantities_are_read_as_kubernetes_writes_them(text: str | None, value: float) -> None:
    assert quantity(text) == pytest.approx(value)

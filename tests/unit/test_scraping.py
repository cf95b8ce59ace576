"""Who takes metrics from a cluster's parts: each says where it tells them, and a Prometheus is let in that far."""

from pathlib import Path

import pytest

from tests.fixtures.manifests import MANIFESTS, Object, built, of_kind, selects, with_component

# Groups that every cluster has, whatever was added to it.
BUILT_IN = frozenset(
    {"", "apps", "autoscaling", "batch", "networking.k8s.io", "policy", "rbac.authorization.k8s.io",
     "scheduling.k8s.io"}
)  # fmt: skip


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("name", sorted(path.name for path in (MANIFESTS / "components").iterdir()))
def test_a_component_asks_for_no_kind_that_kubernetes_lacks_unless_it_is_the_operators(
    name: str, tmp_path: Path
) -> None:
    groups = {found["apiVersion"].rpartition("/")[0] for found in with_component(name, tmp_path)}
    assert groups - BUILT_IN == ({"monitoring.coreos.com"} if name == "monitoring" else set())


def test_every_part_that_the_operator_would_scrape_is_annotated_for_a_prometheus_without_it() -> None:
    monitors = [*of_kind("ServiceMonitor"), *of_kind("PodMonitor")]
    assert {part_of(monitor["spec"]["selector"])["metadata"]["name"] for monitor in monitors} == {
        "berth-api", "berth-watcher", "berth-worker",
    }  # fmt: skip
    for monitor in monitors:
        (asked,) = monitor["spec"].get("endpoints") or monitor["spec"]["podMetricsEndpoints"]
        template = part_of(monitor["spec"]["selector"])["spec"]["template"]
        assert template["metadata"]["annotations"] == {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(ports(template)[asked["port"]]),
            "prometheus.io/path": asked["path"],
        }, monitor["metadata"]["name"]


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("name", ["monitoring", "scraping"])
def test_a_prometheus_comes_in_to_every_annotated_pod_where_nothing_but_a_component_is_added(
    name: str, tmp_path: Path
) -> None:
    objects = with_component(name, tmp_path)
    assert let_in_from("monitoring", objects) == {"berth-api", "berth-watcher", "berth-worker"}
    assert let_in_from("default", objects) == let_in_from("monitoring", built("overlays/dev")) == {"berth-api"}


def let_in_from(namespace: str, objects: list[Object]) -> set[str]:
    """Which annotated parts pods of another namespace reach on the port that the annotation names."""
    policies = [found for found in of_kind("NetworkPolicy", objects) if found["metadata"]["namespace"] == "berth"]
    reached = set()
    for part in of_kind("Deployment", objects):
        template = part["spec"]["template"]
        port = template["metadata"].get("annotations", {}).get("prometheus.io/port")
        for policy in policies if port else ():
            if not selects(policy["spec"]["podSelector"], template["metadata"]["labels"]):
                continue
            for rule in policy["spec"].get("ingress", []):
                opened = {str(ports(template).get(each["port"], each["port"])) for each in rule["ports"]}
                peers = [each.get("namespaceSelector") for each in rule.get("from", [{"namespaceSelector": {}}])]
                name = {"kubernetes.io/metadata.name": namespace}
                if port in opened and any(peer is not None and selects(peer, name) for peer in peers):
                    reached.add(part["metadata"]["name"])
    return reached


def part_of(selector: Object) -> Object:
    (found,) = [each for each in of_kind("Deployment")
                if selects(selector, each["spec"]["template"]["metadata"]["labels"])]  # fmt: skip
    return found


def ports(template: Object) -> dict[str, int]:
    found = [port for container in template["spec"]["containers"] for port in container.get("ports", [])]
    return {port["name"]: port["containerPort"] for port in found}

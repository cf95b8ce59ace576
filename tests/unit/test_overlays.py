"""What each overlay makes of the manifests, as `kubectl apply -k` would send it."""

import os
import re
import textwrap
from pathlib import Path

import pytest
import yaml

from k8s import marks
from tests.capabilities import ROOT
from tests.fixtures.manifests import (
    MANIFESTS,
    OVERLAYS,
    WORKLOADS,
    built,
    named,
    of_kind,
    selects,
    settings_of,
    with_component,
)


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_applied_fits_together(overlay: str) -> None:
    objects = built(f"overlays/{overlay}")
    keys = [(found["kind"], found["metadata"].get("namespace"), found["metadata"]["name"]) for found in objects]
    assert len(keys) == len(set(keys))
    there = {(kind, name) for kind, _, name in keys}
    for found in objects:
        if found["kind"] in WORKLOADS:
            spec = found["spec"]["template"]["spec"]
            assert ("ServiceAccount", spec.get("serviceAccountName", "berth-api")) in there
            assert ("PriorityClass", spec.get("priorityClassName", "berth-control")) in there
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                for source in container.get("envFrom", []):
                    if "configMapRef" in source:
                        assert ("ConfigMap", source["configMapRef"]["name"]) in there
                    else:
                        assert source["secretRef"] == {"name": "berth-notices", "optional": True}
        elif found["kind"] in {"Service", "PodDisruptionBudget"}:
            selector = found["spec"].get("selector") or found["spec"]["podSelector"]
            selector = selector if "matchLabels" in selector or not selector else {"matchLabels": selector}
            assert any(
                selects(selector, each["spec"]["template"]["metadata"]["labels"])
                for each in objects
                if each["kind"] in WORKLOADS
            ), found["metadata"]["name"]


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_agents_are_made_of_the_image_that_nodes_hold_ready(overlay: str) -> None:
    objects = built(f"overlays/{overlay}")
    settings = settings_of(objects)
    (holder,) = named("DaemonSet", "berth-prepull", objects)["spec"]["template"]["spec"]["containers"]
    assert settings["BERTH_TEMPLATES__DEFAULT__IMAGE"] == holder["image"]


@pytest.mark.needs("kubectl")
def test_production_runs_images_by_digest_alone() -> None:
    for found in built("overlays/prod"):
        if found["kind"] in WORKLOADS:
            spec = found["spec"]["template"]["spec"]
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"]), container["image"]


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_given_to_parts_are_settings_that_parts_know(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from api.cli import config

    for name, value in settings_of(built(f"overlays/{overlay}")).items():
        monkeypatch.setenv(name, value)
    assert config.unknown() == []
    assert config.load().pool.runtime == "kubernetes"


@pytest.mark.needs("kubectl")
def test_users_of_a_production_cluster_keep_their_cookies(monkeypatch: pytest.MonkeyPatch) -> None:
    from api.cli import config

    settings = settings_of(built("overlays/prod"))
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert config.load().templates["default"].kubernetes.profile is not None


def test_a_changed_setting_leaves_the_migrations_job_as_it_is() -> None:
    """Its pod cannot be changed, and the name of the settings' map ends in a hash of them."""
    assert "berth-settings" not in yaml.safe_dump(named("Job", "berth-migrate"))


def test_an_outage_behind_the_api_takes_no_replica_out_of_its_service() -> None:
    (api,) = named("Deployment", "berth-api")["spec"]["template"]["spec"]["containers"]
    asked = {name: api[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert asked == {"startupProbe": "/ready", "readinessProbe": "/health", "livenessProbe": "/health"}


@pytest.mark.needs("kubectl")
def test_placeholders_make_way_for_agents_where_nothing_but_their_component_is_added(tmp_path: Path) -> None:
    objects = with_component("headroom", tmp_path)
    settings = settings_of(objects)
    agents = settings["BERTH_TEMPLATES__DEFAULT__KUBERNETES__PRIORITY_CLASS"]
    placeholder = named("Deployment", "berth-headroom", objects)["spec"]["template"]
    assert placeholder["metadata"]["labels"][marks.PLACEHOLDER] == agents
    first, last = (named("PriorityClass", name, objects) for name in (agents, placeholder["spec"]["priorityClassName"]))
    assert first.get("preemptionPolicy", "PreemptLowerPriority") == "PreemptLowerPriority"
    assert first["value"] > last["value"]


@pytest.mark.needs("kubectl")
def test_every_part_reads_the_file_of_templates_that_the_guide_adds(tmp_path: Path) -> None:
    _, guide = (ROOT / "docs/kubernetes.md").read_text().split("**Templates and pools**", 1)
    told = yaml.safe_load(textwrap.dedent(guide.split("\n\n")[1]))
    told["resources"] = [os.path.relpath(MANIFESTS / "overlays/prod", tmp_path.resolve())]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(told))
    (tmp_path / "berth.yaml").write_text("templates: {large: {resources: {memory_mib: 1024}}}\n")
    parts = [found["spec"]["template"]["spec"] for found in of_kind("Deployment", built(str(tmp_path)))]
    assert len(parts) == 3
    for spec in parts:
        (volume,) = [each["name"] for each in spec["volumes"] if "configMap" in each]
        for container in [*spec["initContainers"], *spec["containers"]]:
            folders = {mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == volume}
            assert folders == {"/etc/berth"}
        (names,) = [{each["name"]: each.get("value") for each in container["env"]} for container in spec["containers"]]
        assert names["BERTH_CONFIG"] == "/etc/berth/berth.yaml"


@pytest.mark.needs("kubectl")
def test_a_release_has_workers_and_a_migration_of_its_own_name() -> None:
    prod = built("overlays/prod")
    (settings,) = [found for found in of_kind("ConfigMap", prod) if "BERTH_WORKER__BUILD_ID" in found["data"]]
    release = settings["data"]["BERTH_WORKER__BUILD_ID"]
    workers = named("Deployment", f"berth-worker-{release}", prod)
    # Else two releases' Deployments would take each other's pods for their own.
    assert workers["spec"]["selector"]["matchLabels"]["berth.dev/release"] == release
    assert workers["spec"]["template"]["metadata"]["labels"]["berth.dev/release"] == release
    named("Job", f"berth-migrate-{release}", prod)

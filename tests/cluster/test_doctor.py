"""`berth doctor` asks a real cluster what Berth may do there."""

import json
from pathlib import Path

import pytest

from k8s.rights import NEEDED
from tests.fixtures.kubernetes import Land
from tests.fixtures.terminal import Cli

pytestmark = pytest.mark.needs("cluster")


def kubeconfig_of(land: Land, account: str, file: Path) -> Path:
    """Access data with the token of a service account."""
    config = json.loads(land.cluster.kubeconfig.read_text())
    config["users"] = [{"name": account, "user": {"token": land.kubectl("create", "token", account).strip()}}]
    config["contexts"][0]["context"]["user"] = account
    file.write_text(json.dumps(config))
    return file


async def test_the_one_verb_that_a_role_lacks_is_named_in_one_line(land: Land, cli: Cli, tmp_path: Path) -> None:
    rules = [
        {"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]}
        for right in NEEDED
        if str(right) != "delete pods"
    ]
    binding = {"subjects": [{"kind": "ServiceAccount", "name": "almost", "namespace": land.namespace}]}
    for kind, name in (("Role", "almost"), ("ClusterRole", f"almost-{land.namespace}")):
        land.kubectl.apply(
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules}
            if kind == "Role"
            else {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": kind,
                "metadata": {"name": name},
                "rules": [
                    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
                    {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["get"]},
                ],
            },
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": f"{kind}Binding",
                "metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
                **binding,
            },
        )
    land.kubectl("create", "serviceaccount", "almost")
    given = cli.given(
        KUBERNETES__KUBECONFIG=str(kubeconfig_of(land, "almost", tmp_path / "kubeconfig")),
        KUBERNETES__NAMESPACE=land.namespace,
    )
    said = await given("doctor", "--runtime", "kubernetes")
    assert said.code == 1
    (rights,) = [line for line in said.out.splitlines() if "rights:" in line]
    assert "may not: delete pods  ->" in rights
    assert "processes of a pod: not to be seen with these rights" in said.out

    whole = cli.given(KUBERNETES__KUBECONFIG=str(land.cluster.kubeconfig), KUBERNETES__NAMESPACE=land.namespace)
    said = await whole("doctor", "--runtime", "kubernetes")
    assert said.code == 0, said.out
    assert "processes of a pod: limited on node-1" in said.out
    absent = whole.given(KUBERNETES__NAMESPACE="nowhere")
    said = await absent("doctor", "--runtime", "kubernetes")
    assert said.code == 1
    assert "there is no nowhere" in said.out

"""Makes a volume for each claim of the storage class `standard`: a folder that all nodes of this machine see.

    python -m k8s.cluster.volumes KUBECONFIG FOLDER NODE...

So a pod finds its files again on another node, as with a network disk. The size asked for is not enforced.
"""

import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

from k8s.cluster.client import Client

STORAGE_CLASS = "standard"
PROVISIONER = "berth.dev/folder"
_WATCHED = ("/api/v1/persistentvolumeclaims", "/api/v1/persistentvolumes")
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_RELIST_SECONDS = 30.0
_PAUSE = 0.5


class Volumes:
    """Keeps volumes in step with claims; every pass starts from what the API server says, so it may come twice."""

    def __init__(self, client: Client, folder: Path, nodes: list[str]) -> None:
        self._client, self._folder, self._nodes = client, folder, nodes

    def settle(self) -> None:
        """Make what claims lack, remove what none holds any more."""
        claims, volumes = (self._list(path) for path in _WATCHED)
        there = {each["metadata"]["name"] for each in volumes}
        for claim in claims:
            wanted = claim["spec"].get("storageClassName") == STORAGE_CLASS and not claim["spec"].get("volumeName")
            if wanted and _name(claim) not in there and "deletionTimestamp" not in claim["metadata"]:
                self._make(claim)
        for volume in volumes:
            ours = volume["metadata"].get("annotations", {}).get(_PROVISIONED_BY) == PROVISIONER
            if ours and volume["status"].get("phase") == "Released":
                self._remove(volume["metadata"]["name"])

    def _list(self, path: str) -> list[dict[str, Any]]:
        status, said = self._client.call("GET", path)
        return list(said["items"]) if status == 200 else []

    def _make(self, claim: dict[str, Any]) -> None:
        name = _name(claim)
        place = self._folder / name
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o777)  # whatever user the pod runs as, like a fresh disk of any other provisioner
        about = claim["metadata"]
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": self._nodes}
        spec = {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "claimRef": {"namespace": about["namespace"], "name": about["name"], "uid": about["uid"]},
            "storageClassName": STORAGE_CLASS,
            "persistentVolumeReclaimPolicy": "Delete",
            "local": {"path": str(place)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        }
        body = {"apiVersion": "v1", "kind": "PersistentVolume", "spec": spec}
        body["metadata"] = {"name": name, "annotations": {_PROVISIONED_BY: PROVISIONER}}
        self._client.apply(f"/api/v1/persistentvolumes/{name}", body)

    def _remove(self, name: str) -> None:
        shutil.rmtree(self._folder / name, ignore_errors=True)
        self._client.call("DELETE", f"/api/v1/persistentvolumes/{name}")


def _name(claim: dict[str, Any]) -> str:
    return f"pvc-{claim['metadata']['uid']}"


def _watch(client: Client, path: str, changed: threading.Event) -> None:
    while True:
        for _ in client.changes(path, _RELIST_SECONDS):
            changed.set()
        changed.set()
        time.sleep(_PAUSE)


def main(kubeconfig: str, folder: str, *nodes: str) -> None:
    client = Client(Path(kubeconfig))
    volumes = Volumes(client, Path(folder), list(nodes))
    changed = threading.Event()
    for path in _WATCHED:
        threading.Thread(target=_watch, args=(client, path, changed), daemon=True).start()
    while True:
        changed.wait(_RELIST_SECONDS)
        changed.clear()
        volumes.settle()


if __name__ == "__main__":
    main(*sys.argv[1:])

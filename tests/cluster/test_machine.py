"""What a cluster takes of a machine that has it only in part."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.dev.failure import CannotStart
from k8s.cluster import network
from k8s.cluster.network import Network

pytestmark = pytest.mark.needs("cluster")


def test_a_missing_go_is_named_when_nothing_was_built_yet(tmp_path: Path) -> None:
    for name in ("containerd", "ctr", "runc", "nft", "ip", "nsenter", "unshare", "setpriv"):
        (tmp_path / name).symlink_to("/bin/true")
    kept = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    done = subprocess.run(
        [sys.executable, "-m", "k8s.cluster", "up", "--folder", str(tmp_path / "cluster")],
        env={**kept, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "no Go" in line


def test_a_new_cluster_takes_addresses_that_no_other_has() -> None:
    first = network.free_network([])
    assert network.free_network([first]) != first


def test_a_machine_without_free_addresses_says_so() -> None:
    with pytest.raises(CannotStart, match="is free on this machine"):
        network.free_network([Network(second=number) for number in range(256)])

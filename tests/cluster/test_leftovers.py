"""A cluster leaves nothing behind, also when its keeper or its starter is killed; and two live side by side."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import launch
from k8s.cluster import registry
from k8s.cluster.cluster import Cluster
from k8s.cluster.registry import Entry
from tests.cluster import traces
from tests.cluster.test_cluster import tiny_pod
from tests.fixtures.cluster import Kubectl, cluster_folder

pytestmark = pytest.mark.needs("cluster")

_END_SECONDS = 20


@pytest.fixture
def folder() -> Iterator[Path]:
    """A place for a cluster of the test's own, which is gone when the test ends, however it ends."""
    place = cluster_folder()
    yield place
    command("down", place)


def command(verb: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    argv = [sys.executable, "-m", "k8s.cluster", verb, "--folder", str(folder), *options]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=110)


def up(folder: Path) -> tuple[Cluster, Entry]:
    """By command line, detached, with a pod running in it."""
    done = command("up", folder)
    assert done.returncode == 0, done.stderr
    cluster, entry = Cluster.of(Path(done.stdout.splitlines()[-1])), registry.at(folder)
    assert cluster is not None
    assert entry is not None
    kubectl = Kubectl(cluster)
    kubectl.apply(tiny_pod("server", "serve"))
    kubectl("wait", "pod/server", "--for=condition=Ready", "--timeout=60s")
    return cluster, entry


def kill_keeper(entry: Entry) -> None:
    assert entry.keeper is not None
    assert launch.send_signal(*entry.keeper, signal.SIGKILL)
    until_no_process(entry)


def until_no_process(entry: Entry) -> None:
    deadline = time.monotonic() + _END_SECONDS
    while left := traces.processes(entry):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_down_leaves_nothing(folder: Path) -> None:
    _, entry = up(folder)
    assert len(traces.everything(entry)) > 10
    assert command("down", folder).returncode == 0
    assert traces.everything(entry) == []


def test_all_dies_with_a_killed_keeper_and_the_next_down_removes_the_rest(folder: Path) -> None:
    _, entry = up(folder)
    kill_keeper(entry)
    assert command("down", folder).returncode == 0
    assert traces.everything(entry) == []


def test_a_second_up_takes_the_cluster_that_runs(folder: Path) -> None:
    cluster, entry = up(folder)
    again = command("up", folder)
    assert again.stdout.splitlines()[-1] == str(cluster.kubeconfig)
    assert registry.at(folder) == entry


def test_up_after_a_killed_keeper_brings_a_fresh_cluster_up(folder: Path) -> None:
    _, entry = up(folder)
    kill_keeper(entry)
    cluster, _ = up(folder)
    assert Kubectl(cluster)("get", "pods", "-o", "name").split() == ["pod/server"]


def test_a_cluster_that_is_not_detached_dies_with_the_process_that_started_it(folder: Path) -> None:
    program = "import sys; from pathlib import Path; from k8s.cluster.cluster import Cluster\n"
    program += "Cluster.start(Path(sys.argv[1])); print('up', flush=True); sys.stdin.read()"
    runner = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == "up\n"
        entry = registry.at(folder)
        assert entry is not None
        runner.kill()
    until_no_process(entry)
    assert command("down", folder).returncode == 0
    assert traces.everything(entry) == []


def test_a_killed_start_leaves_nothing_after_the_next_down(folder: Path) -> None:
    argv = [sys.executable, "-m", "k8s.cluster", "up", "--folder", str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    runner = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with runner:
        deadline = time.monotonic() + _END_SECONDS
        while not (folder / "node-1" / "keeper.sock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        entry = registry.at(folder)
        assert entry is not None
        runner.kill()
    assert command("down", folder).returncode == 0
    assert traces.everything(entry) == []


def test_two_clusters_live_side_by_side(cluster: Cluster, folder: Path) -> None:
    other, entry = up(folder)
    assert other.host_address != cluster.host_address
    assert Kubectl(cluster).ask("get", "pod", "server").returncode != 0
    other.stop()
    assert traces.everything(entry) == []
    assert Kubectl(cluster)("get", "node", "node-1", "-o", "name").strip() == "node/node-1"

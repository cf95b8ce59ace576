"""What an agent reads of its own container: both kinds of cgroup, and none at all."""

from pathlib import Path

from agent_image.agent.cgroup import Consumed, consumed
from agent_image.agent.memory import oom_kills


def written(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cgroup"
    path.write_text(text)
    return path


def test_a_container_of_version_2_has_its_counters_at_the_top(tmp_path: Path) -> None:
    top = written(tmp_path / "fs", cpu__stat="usage_usec 2500000\nuser_usec 7\n", memory__peak="123456\n")
    assert consumed(top, own(tmp_path, "0::/\n")) == Consumed(2.5, 123456)


def test_own_path_is_asked_before_the_top(tmp_path: Path) -> None:
    top = written(tmp_path / "fs", cpu__stat="usage_usec 9000000\n", memory__peak="9\n")
    written(top / "pods" / "mine", cpu__stat="usage_usec 1000000\n", memory__peak="5\n")
    assert consumed(top, own(tmp_path, "0::/pods/mine\n")) == Consumed(1.0, 5)


def test_a_container_of_version_1_does_not_see_the_path_that_it_is_told(tmp_path: Path) -> None:
    top = tmp_path / "fs"
    written(top / "cpu,cpuacct", cpuacct__usage="1500000000\n")
    (top / "cpuacct").symlink_to("cpu,cpuacct")
    written(top / "memory", memory__max_usage_in_bytes="777\n")
    told = own(tmp_path, "4:memory:/kubepods/x\n2:cpu,cpuacct:/kubepods/x\n0::/\n")
    assert consumed(top, told) == Consumed(1.5, 777)


def test_what_a_kernel_does_not_count_is_unknown(tmp_path: Path) -> None:
    top = written(tmp_path / "fs", cpu__stat="nr_periods 0\n", memory__peak="max\n")
    assert consumed(top, tmp_path / "none") == Consumed(None, None)


def test_counters_of_this_very_machine_can_be_read() -> None:
    found = consumed()
    assert found.cpu_seconds is None or found.cpu_seconds > 0
    assert (oom_kills() or 0) >= 0

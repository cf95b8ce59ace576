"""Sizes as people write them, and which of them an agent may have."""

import pytest

from core.domain.sizes import Size, cores, mebibytes, size_of, sized, why_not
from core.domain.templates import Resources


@pytest.mark.parametrize(("text", "expected"), [("2", 2), ("1.5", 1.5), ("1500m", 1.5), ("0", 0), ("1m", 0.001)])
def test_cores_are_read_as_kubernetes_writes_them(text: str, expected: float) -> None:
    assert cores(text) == expected


@pytest.mark.parametrize("text", ["", "m", "-1", "1,5", "2 cores", "1.5m", "1e3", "\u0661", "1\n"])
def test_anything_else_is_no_number_of_cores(text: str) -> None:
    with pytest.raises(ValueError, match="not a number of cores"):
        cores(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2Gi", 2048), ("1536Mi", 1536), ("1.5Gi", 1536), ("2G", 1908), ("1048576", 1), ("1048577", 2), ("0", 0)],
)
def test_memory_is_read_as_kubernetes_writes_it(text: str, expected: int) -> None:
    assert mebibytes(text) == expected


@pytest.mark.parametrize("text", ["", "Gi", "-1Gi", "2gb", "2 Gi", "2GiB", "1e9", "2Gi\n"])
def test_anything_else_is_no_memory(text: str) -> None:
    with pytest.raises(ValueError, match="not an amount of memory"):
        mebibytes(text)


def test_size_lies_between_the_requests_and_what_the_template_allows_at_most() -> None:
    asked = Resources(cpu=0.5, memory_mib=512, cpu_most=2, memory_most_mib=4096)
    for cpu, memory in ((0.5, 512), (2, 4096), (1, 1024)):
        assert why_not(Size(cpu=cpu, memory_mib=memory), asked) is None
    for cpu, memory, word in (
        (0.4, 1024, "request"), (1, 511, "request"), (2.1, 1024, "at most 2 cores"), (1, 4097, "at most 4096 MiB"),
    ):  # fmt: skip
        assert word in (why_not(Size(cpu=cpu, memory_mib=memory), asked) or "")
    assert why_not(Size(cpu=500, memory_mib=1 << 20), Resources()) is None


def test_agent_is_believed_to_hold_no_more_memory_than_it_can_have() -> None:
    asked = Resources(memory_mib=512, memory_limit_mib=1024)
    assert [asked.believed(told, None) for told in (None, 0, 1, 1 << 62)] == [512 << 20, 512 << 20, 1, 1024 << 20]
    assert asked.believed(1 << 62, 8192) == 8192 << 20
    assert asked.believed(1 << 62, 512) == 1024 << 20
    resizable = asked.model_copy(update={"memory_most_mib": 4096})
    assert resizable.believed(1 << 62, None) == 4096 << 20


def test_other_limits_leave_the_requests_alone() -> None:
    other = sized(Resources(), Size(cpu=2, memory_mib=2048))
    assert (other.cpu, other.memory_mib, size_of(other)) == (0.5, 512, Size(cpu=2, memory_mib=2048))

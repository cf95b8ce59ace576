"""What an agent counts of its network."""

from pathlib import Path

from agent_image.agent.traffic import carried

_COUNTERS = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier
    lo: 9000      11    0    0    0     0          0         0     9000      11    0    0    0     0       0          0
  eth0: 1500      12    0    0    0     0          0         0      700       9    0    0    0     0       0          0
  eth1:40 1    0    0    0     0          0         0      2       1    0    0    0     0       0          0
"""


def test_both_directions_of_all_interfaces_but_loopback_are_counted(tmp_path: Path) -> None:
    interfaces = tmp_path / "dev"
    interfaces.write_text(_COUNTERS)
    assert carried(interfaces) == 1500 + 700 + 40 + 2
    assert carried(tmp_path / "none") is None


def test_counters_of_this_very_machine_can_be_read() -> None:
    assert (carried() or 0) >= 0

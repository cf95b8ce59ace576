"""How much went over the network interfaces of this agent."""

from pathlib import Path

_INTERFACES = Path("/proc/net/dev")
_RECEIVED, _SENT = 0, 8


def carried(interfaces: Path = _INTERFACES) -> int | None:
    """Bytes in both directions since the interfaces came up, loopback left out; None where that cannot be read."""
    try:
        lines = interfaces.read_text(encoding="ascii").splitlines()[2:]
    except (OSError, UnicodeDecodeError):
        return None
    total = 0
    for line in lines:
        name, _, counters = line.partition(":")
        fields = counters.split()
        if name.strip() != "lo" and len(fields) > _SENT:
            total += int(fields[_RECEIVED]) + int(fields[_SENT])
    return total

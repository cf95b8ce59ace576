"""Kubernetes' quantities (`500m`, `1.5`, `2Gi`, `1e3`) as numbers."""

import re

_UNITS = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_QUANTITY = re.compile(r"([+-]?[0-9]*\.?[0-9]+|[+-]?[0-9]+\.)([eE][+-]?[0-9]+)?([a-zA-Z]{0,2})")


def quantity(text: str | int | float | None) -> float:
    """In the base unit: cores, bytes, pieces. What is missing or no quantity counts as nothing."""
    found = _QUANTITY.fullmatch(str(text if text is not None else ""))
    if found is None or found[3] not in _UNITS:
        return 0.0
    return float(found[1] + (found[2] or "")) * _UNITS[found[3]]

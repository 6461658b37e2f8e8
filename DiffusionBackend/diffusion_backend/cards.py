"""What the card of a model may hold: the types of its fields. Imports without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

TYPES: dict[str, type] = {
    "id": str, "interface": str, "network": dict, "licence": str, "sha256": str, "dims": int, "channels": int,
    "unit": str, "normalisation": dict, "sigma_range": list, "domain": dict, "parts": list, "attribution": str,
}  # fmt: skip


def wrong_field(card: Mapping[str, Any]) -> str:
    """The name of the first field whose value has a wrong type, or ""."""
    for name, wanted in TYPES.items():
        if name in card and type(card[name]) is not wanted:
            return name
    domain = card.get("domain", {})
    for holder, name in ((card, "sigma_range"), (domain, "pixel_mm"), (domain, "range")):
        if name in holder and not _is_range(holder[name]):
            return name
    return "" if all(isinstance(part, str) for part in card.get("parts", ())) else "parts"


def check_sizes(network: Mapping[str, Any], tensors: int, values: int) -> None:
    """ValueError where a network is described that is larger than a file of so many tensors and values: it would be
    built before anybody compares."""
    for name, value in network.items():
        most = tensors if name == "blocks" else values
        numbers = value if isinstance(value, list) else [value]
        if len(numbers) > tensors or any(isinstance(n, (int, float)) and not abs(n) <= most for n in numbers):
            raise ValueError(f"the weights are too few for '{name}'")


def _is_range(value: Any) -> bool:
    """[low, high] of two numbers; infinite is allowed."""
    numbers = isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) for v in value)
    return numbers and all(abs(v) < 1e300 or math.isinf(v) for v in value) and value[0] <= value[1]

"""Standard codes and colours of structures, from `Resources/Anatomy/terminology.json`."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from .declarations import resource


@lru_cache(maxsize=1)
def _structures() -> dict[str, dict[str, Any]]:
    """Plain name -> {"entry": terminology string of a segment, "color": RGB from 0 to 255}."""
    table = json.loads(resource("Anatomy", "terminology.json").read_text(encoding="utf-8"))
    found = {}
    for row in table["structures"]:
        parts = [table["lists"][row["list"]], table["categories"][row["category"]], row["type"]]
        parts += [table["sides"].get(row.get("side"), "^^"), table["regions"], row.get("region", "^^"), "^^"]
        for name in row["names"]:
            found[_plain(name)] = {"entry": "~".join(parts), "color": row["color"]}
    return found


def _plain(name: str) -> str:
    """A name without case, blanks and punctuation: "Left_Parotid" and "left parotid" are one."""
    return re.sub(r"[\W_]+", "", name.casefold())


def describe(segment: Any, name: str) -> None:
    """Give a segment the standard code and the colour of the structure `name`, where they are known."""
    known = _structures().get(_plain(name))
    if known:
        segment.SetTag(segment.GetTerminologyEntryTagName(), known["entry"])
        segment.SetColor(*(value / 255 for value in known["color"]))

"""The declared methods, as plain dicts from `Resources/methods.json`; and where the files of the extension lie."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGES = Path(__file__).resolve().parents[1]  # the folder that holds diffusion_panel and diffusion_backend
RESOURCES = (PACKAGES / "Resources", PACKAGES.parent / "Resources")  # installed: merged tree; else the repository
SCHEMA = 1


def resource(*parts: str) -> Path:
    """The file or folder `parts` of the shared resources. Raises FileNotFoundError where there is none."""
    for root in RESOURCES:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"The extension lacks the file '{'/'.join(parts)}'. Install it again.")


@lru_cache(maxsize=1)
def declarations() -> dict[str, dict[str, Any]]:
    """All declared methods: id -> declaration, in the order of the file."""
    content = json.loads(resource("methods.json").read_text(encoding="utf-8"))
    if content.get("schema") != SCHEMA:
        raise ValueError(f"methods.json has schema {content.get('schema')!r}, but this version reads schema {SCHEMA}.")
    return {m["id"]: m for m in content["methods"]}


def of_module(module: str) -> list[dict[str, Any]]:
    """The methods of a module ("reconstruction", "segmentation", "synthesis")."""
    return [m for m in declarations().values() if m["module"] == module]


def method(method_id: str) -> dict[str, Any]:
    """The declaration of one method. ValueError names the nearest known one."""
    known = declarations()
    if method_id not in known:
        close = difflib.get_close_matches(str(method_id), known, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(f"There is no method '{method_id}'{hint}. Known are: {', '.join(known)}.")
    return known[method_id]


def defaults(method_id: str, preset: str = "standard") -> dict[str, Any]:
    """The value of every parameter of a method under a preset. ValueError for an unknown preset."""
    declared = method(method_id)
    if preset not in declared["presets"]:
        known = ", ".join(declared["presets"])
        raise ValueError(f"The method '{method_id}' has no preset '{preset}'. Known are: {known}.")
    return {p["name"]: p["default"] for p in declared["parameters"]} | declared["presets"][preset]


def model_slots(method_id: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The declared model slots that a run with all its parameters `params` uses."""
    return [s for s in method(method_id)["models"] if _used(s["when"], params)]


def _used(when: str, params: Mapping[str, Any]) -> bool:
    """Whether the condition of a slot, "" or "parameter=value", holds."""
    name, _, value = when.partition("=")
    return not name or str(params.get(name)) == value

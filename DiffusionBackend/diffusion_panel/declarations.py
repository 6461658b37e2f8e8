"""The declared methods, as plain dicts from `Resources/methods.json`; and where the files of the extension lie."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _
from slicer.i18n import translate

PACKAGES = Path(__file__).resolve().parents[1]  # the folder that holds diffusion_panel and diffusion_backend
RESOURCES = (PACKAGES / "Resources", PACKAGES.parent / "Resources")  # installed: merged tree; else the repository
SCHEMA = 1
SPOKEN = ("task", "summary", "notes", "help")  # fields of a declaration that people read as they are
CONTEXT = "DiffusionModels"  # where the texts of declarations stand in the translators' files


def resource(*parts: str) -> Path:
    """The file or folder `parts` of the shared resources. Raises FileNotFoundError where there is none."""
    for root in RESOURCES:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    message = _("The extension lacks the file '{file}'. Install it again.")
    raise FileNotFoundError(message.format(file="/".join(parts)))


@lru_cache(maxsize=1)
def declarations() -> dict[str, dict[str, Any]]:
    """All declared methods: id -> declaration, in the order of the file, in the user's language."""
    content = json.loads(resource("methods.json").read_text(encoding="utf-8"))
    if content.get("schema") != SCHEMA:
        message = _("methods.json has schema {found}, but {known} is needed. Install the extension again.")
        raise ValueError(message.format(found=content.get("schema"), known=SCHEMA))
    return {m["id"]: _in_users_language(m) for m in content["methods"]}


def version() -> str:
    """The version of the extension."""
    return json.loads(resource("methods.json").read_text(encoding="utf-8"))["version"]


def spoken(text: str) -> str:
    """A text that comes from a declaration, in the user's language."""
    return translate(CONTEXT, text) if text else text


def _in_users_language(value: Any) -> Any:
    """A declaration, or a part of it, with its SPOKEN fields translated."""
    if isinstance(value, list):
        return [_in_users_language(v) for v in value]
    if not isinstance(value, dict):
        return value
    return {k: spoken(v) if k in SPOKEN and isinstance(v, str) else _in_users_language(v) for k, v in value.items()}


def of_module(module: str) -> list[dict[str, Any]]:
    """The methods of a module ("reconstruction", "segmentation", "synthesis")."""
    return [m for m in declarations().values() if m["module"] == module]


def method(method_id: str) -> dict[str, Any]:
    """The declaration of one method. ValueError names the nearest known one."""
    known = declarations()
    if method_id not in known:
        close = difflib.get_close_matches(str(method_id), known, n=1)
        hint = _(" Did you mean '{close}'?").format(close=close[0]) if close else ""
        message = _("There is no method '{method}'.{hint} Known are: {known}.")
        raise ValueError(message.format(method=method_id, hint=hint, known=", ".join(known)))
    return known[method_id]


def defaults(method_id: str, preset: str = "standard") -> dict[str, Any]:
    """The value of every parameter of a method under a preset. ValueError for an unknown preset."""
    declared = method(method_id)
    if preset not in declared["presets"]:
        message = _("The method '{method}' has no preset '{preset}'. Known are: {known}.")
        raise ValueError(message.format(method=method_id, preset=preset, known=", ".join(declared["presets"])))
    return {p["name"]: p["default"] for p in declared["parameters"]} | declared["presets"][preset]


def model_slots(method_id: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The declared model slots that a run with all its parameters `params` uses."""
    return [s for s in method(method_id)["models"] if _used(s["when"], params)]


def _used(when: str, params: Mapping[str, Any]) -> bool:
    """Whether the condition of a slot, "" or "parameter=value", holds."""
    name, _sign, value = when.partition("=")
    return not name or str(params.get(name)) == value

"""What a panel shows, kept in a parameter node, so that a saved scene restores it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import slicer

PLAIN = {"method": str, "preset": str, "seed": int, "samples": int, "device": str, "threads": int}
NODES = {"roi": "roi", "reference": "reference"}
BY_METHOD = ("parameters", "models", "extras")


@dataclass
class Settings:
    """All choices of a panel. inputs, parameters, models and extras are those of `method`."""

    method: str = ""
    preset: str = "standard"
    seed: int = 0
    samples: int = 1
    device: str = "auto"
    threads: int = 0  # 0 = as many as the engine takes
    roi: Any = None
    reference: Any = None
    inputs: dict[str, Any] = field(default_factory=dict)  # input name -> node or None
    extras: dict[str, Any] = field(default_factory=dict)  # input name -> what was chosen beside the node
    parameters: dict[str, Any] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)  # slot -> model id


def store(node: Any, settings: Settings) -> None:
    """Write `settings` into the parameter node as one change; other methods keep what they had."""
    method = settings.method
    with slicer.util.NodeModify(node):
        for name in PLAIN:
            node.SetParameter(name, str(getattr(settings, name)))
        for name in BY_METHOD:
            node.SetParameter(f"{name}.{method}", json.dumps(getattr(settings, name), ensure_ascii=True))
        for name, role in NODES.items():
            _refer(node, role, getattr(settings, name))
        for name, chosen in settings.inputs.items():
            _refer(node, f"{method}.{name}", chosen)


def load(node: Any, method: dict[str, Any] | None = None) -> Settings:
    """The settings of a parameter node, with what it keeps for `method` (default: the method that it names).

    What can't be read, as in a scene of another version, takes its default."""
    settings = Settings()
    for name, kind in PLAIN.items():
        text = node.GetParameter(name)
        if text:
            setattr(settings, name, _number(text, getattr(settings, name)) if kind is int else text)
    if method is not None:
        settings.method = method["id"]
        settings.inputs = {i["name"]: node.GetNodeReference(f"{method['id']}.{i['name']}") for i in method["inputs"]}
    for name in BY_METHOD:
        setattr(settings, name, _mapping(node.GetParameter(f"{name}.{settings.method}")))
    for name, role in NODES.items():
        setattr(settings, name, node.GetNodeReference(role))
    return settings


def knows(node: Any, method_id: str) -> bool:
    """Whether the parameter node holds settings of this method."""
    return bool(node.GetParameter(f"parameters.{method_id}"))


def _refer(node: Any, role: str, chosen: Any) -> None:
    wanted = chosen.GetID() if chosen is not None else None
    if node.GetNodeReferenceID(role) != wanted:
        node.SetNodeReferenceID(role, wanted)


def _number(text: str, default: int) -> int:
    try:
        return int(text)
    except ValueError:
        return default


def _mapping(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

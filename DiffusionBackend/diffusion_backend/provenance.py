"""What a result says about itself: method, models, parameters, versions, timings, domain. No names, paths or DICOM
fields."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch

from . import __version__, licences
from .checks import facts
from .data import Grid, Item
from .run import Run

NOTICE = "Research software. Not for clinical use."


def record(run: Run, inputs: Mapping[str, Item], cards: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The part of `result.json` that doesn't describe the outputs."""
    state, reason = domain(cards, inputs)
    settings = run.settings
    return {
        "method": {"id": run.method.id, "name": run.method.name, "state": run.method.state},
        "parameters": dict(vars(run.p)),
        "seed": settings.seed,
        "samples": settings.samples,
        "device": settings.device,
        "threads": settings.threads,
        "batch": settings.batch,
        "batch_used": run.batch,
        "models": {slot: _model(card) for slot, card in cards.items()},
        "inputs": {name: _input(item) for name, item in inputs.items()},
        "timings": {part: round(seconds, 3) for part, seconds in run.seconds.items()},
        "evaluations": run.evaluations,
        "domain": state,
        "domain_reason": reason,
        "versions": versions(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "notice": NOTICE,
    }


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {
        "diffusion_backend": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def domain(cards: Mapping[str, Mapping[str, Any]], inputs: Mapping[str, Item]) -> tuple[str, str]:
    """("ok", "") or ("outside", reason): the pixel size and value range that a model was trained on, against the
    volumes.

    A card's `domain` may hold `pixel_mm: [low, high]`, `range: [low, high]` and `anatomy` (told, not tested)."""
    for card in cards.values():
        known = card.get("domain") or {}
        for name, item in inputs.items():
            if not isinstance(item, Grid) or item.geometry is None or item.unit != card.get("unit", item.unit):
                continue
            low, high = known.get("pixel_mm", (0.0, np.inf))
            pixel = max(item.spacing[:2])
            if not low <= pixel <= high:
                return (
                    "outside",
                    f"'{name}' has pixels of {pixel:g} mm; the model '{card['id']}' was trained on {low:g} to "
                    f"{high:g} mm",
                )
            low, high = known.get("range", (-np.inf, np.inf))
            darkest, brightest = facts(item)["range"]
            if darkest < low or brightest > high:
                return "outside", (
                    f"'{name}' has values from {darkest:g} to {brightest:g}; the model '{card['id']}' knows "
                    f"{low:g} to {high:g}"
                )
    return "ok", ""


def _model(card: Mapping[str, Any]) -> dict[str, Any]:
    """What names a model; with the time when its licence was acknowledged, where it asks for that."""
    named = {key: card.get(key, "") for key in ("id", "sha256", "licence", "attribution")}
    return named | ({"acknowledged": licences.acknowledged(card)} if licences.asks(card) else {})


def _input(item: Item) -> dict[str, Any]:
    """Size, type and a digest of the values, which finds the same data again without naming anybody."""
    if not hasattr(item, "array"):
        return {"kind": type(item).__name__.lower()}
    array = item.array  # type: ignore[union-attr]
    digest = hashlib.sha256()
    for part in array:
        digest.update(np.ascontiguousarray(part).tobytes())
    described = {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest.hexdigest()}
    geometry = getattr(item, "geometry", None)
    return described | ({"ijkToRAS": [list(row) for row in geometry.ijk_to_ras]} if geometry else {})

"""Licences of models: all but permissive ones are acknowledged once, before the weights are first used.

`acknowledged.json` in the user's model folder is the one place where that is kept: panel and terminal write and read
it. Key: `predicates.acknowledgement_key`; value: id, sha256, licence and time (ISO 8601, UTC)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from . import models, paths
from .errors import ModelError
from .io.folders import disk_errors, write_text
from .predicates import acknowledgement_key, asks

FILE = "acknowledged.json"


def acknowledged(card: Mapping[str, Any]) -> str:
    """When the licence of these weights was acknowledged; "" where it wasn't."""
    entry = _entries().get(acknowledgement_key(card))
    return str(entry.get("time", "")) if isinstance(entry, dict) else ""


def acknowledge(model: str) -> dict[str, Any]:
    """Keep that the user has read and accepts the licence of a model; returns its card. ModelError without it."""
    card = models.read_card(models.find(model))
    entry = {key: card.get(key, "") for key in ("id", "sha256", "licence")}
    entry["time"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    folder = paths.user_models()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / FILE, json.dumps(_entries() | {acknowledgement_key(card): entry}, indent=1) + "\n")
    return card


def require(card: Mapping[str, Any]) -> None:
    """ModelError where the licence asks and wasn't acknowledged."""
    if asks(card) and not acknowledged(card):
        raise ModelError(
            f"The licence of the model '{card['id']}' isn't acknowledged yet ('{card['licence']}').",
            f"If you accept it, say so in the panel or with 'models accept {card['id']}'.",
        )


def _entries() -> dict[str, Any]:
    """What is kept; {} without the file, and where it is damaged: then licences ask again."""
    try:
        entries = json.loads((paths.user_models() / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}

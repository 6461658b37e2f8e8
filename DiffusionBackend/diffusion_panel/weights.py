"""The trained models of this computer: where they lie, what their cards say, whose licence asks. No GUI, no torch.

The engine reads the same folders, the same cards and the same `acknowledged.json` (see `diffusion_backend.models`)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from diffusion_backend.predicates import acknowledgement_key, asks

from .declarations import declarations, resource
from .recovery import Stopped

SETTING, VARIABLE = "DiffusionModels/ModelsFolder", "DIFFUSIONMODELS_MODELS"
USER = Path.home() / ".diffusionmodels" / "models"
CARD, WEIGHTS, ACKNOWLEDGED = "card.json", "weights.safetensors", "acknowledged.json"
SCHEMA = 1
NEEDED = ("id", "interface", "network", "licence", "sha256")
MUST_AGREE = ("interface", "dims", "channels", "unit")
CHUNK_BYTES = 1 << 20
MB = 1e6


@dataclass(frozen=True)
class Model:
    """A model folder. `problem` is the sentence that says why it can't be used, "" where nothing is known to be wrong;
    `card` is {} where it can't be read. size : bytes."""

    id: str
    folder: Path
    bundled: bool
    card: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    size: int = 0

    @property
    def origin(self) -> str:
        """Where it comes from, for the screen."""
        if self.bundled:
            return _("part of the extension")
        source = self.card.get("source_file")
        return _("imported from {file}").format(file=source) if source else _("your folder")


def user_folder() -> Path:
    """Where the user's models lie: the setting, the environment's choice, a folder below the home folder."""
    setting = slicer.app.userSettings().value(SETTING)
    return Path(setting or os.environ.get(VARIABLE) or USER)


def choose_user_folder(folder: Path) -> None:
    """Take another folder for the user's models, from now on and after a restart."""
    slicer.app.userSettings().setValue(SETTING, str(folder))


def models() -> list[Model]:
    """All models, the user's and the bundled ones, by id; a user's model hides the bundled one of the same id."""
    found: dict[str, Model] = {}
    with suppress(FileNotFoundError):
        found |= {m.id: m for m in _in(resource("Models"), bundled=True)}
    found |= {m.id: m for m in _in(user_folder(), bundled=False)}
    return [found[name] for name in sorted(found)]


def find(model_id: str) -> Model | None:
    """The model of this id, or None."""
    return next((m for m in models() if m.id == model_id), None)


def fits(slot: Mapping[str, Any], card: Mapping[str, Any]) -> bool:
    """Whether a model can serve a declared slot."""
    return all(card.get(f) == slot[f] for f in MUST_AGREE)


def uses(model: Model) -> list[str]:
    """The slots of methods that the model can serve, as "method: slot"."""
    pairs = [(m, s) for m in declarations().values() for s in m["models"] if fits(s, model.card)]
    return [f"{m['name']}: {s['name']}" for m, s in pairs]


def digest(model: Model, stop: threading.Event) -> str:
    """The sha256 of the weights, in hexadecimal digits; for a thread. Raises OSError, Stopped."""
    found = hashlib.sha256()
    with (model.folder / WEIGHTS).open("rb") as stream:
        while block := stream.read(CHUNK_BYTES):
            if stop.is_set():
                raise Stopped
            found.update(block)
    return found.hexdigest()


def verdict(model: Model, found: str | OSError) -> str:
    """What a digest, or the failure to make one, says of a model: the sentence with what is wrong, or ""."""
    if model.problem:
        return model.problem
    if isinstance(found, OSError):
        return _told(_("The file {file} can't be read ({reason}).").format(file=WEIGHTS, reason=found.strerror), model)
    wanted = str(model.card["sha256"])
    if found == wanted:
        return ""
    message = _("The file {file} is damaged: its sha256 begins with {found}, but the card says {wanted}.")
    return _told(message.format(file=WEIGHTS, found=found[:12], wanted=wanted[:12]), model)


def remove(model: Model) -> None:
    """Delete a model of the user. ValueError for a bundled one, OSError where the disk refuses."""
    if model.bundled:
        raise ValueError(why_not_removable(model))
    shutil.rmtree(model.folder)


def why_not_removable(model: Model) -> str:
    """Why a model can't be removed; "" for a user's one."""
    text = _("The model '{model}' is part of the extension and can't be removed: methods need it without network.")
    return text.format(model=model.id) if model.bundled else ""


# ---- licences ----


def acknowledged(card: Mapping[str, Any]) -> bool:
    """Whether the weights may be used: their licence is a permissive one, or the user has acknowledged it."""
    return not asks(card) or bool(acknowledged_at(card))


def acknowledged_at(card: Mapping[str, Any]) -> str:
    """When the licence was acknowledged, in ISO 8601; "" where it wasn't."""
    entry = _acknowledgements().get(acknowledgement_key(card))
    return str(entry.get("time", "")) if isinstance(entry, dict) else ""


def acknowledge(card: Mapping[str, Any]) -> None:
    """Keep that the user accepts the licence, for these weights and this text. OSError where the disk refuses."""
    entry = {key: card.get(key, "") for key in ("id", "sha256", "licence")}
    entry["time"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    text = json.dumps(_acknowledgements() | {acknowledgement_key(card): entry}, indent=1) + "\n"
    folder = user_folder()
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{ACKNOWLEDGED}.{os.getpid()}"
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, folder / ACKNOWLEDGED)
    finally:
        partial.unlink(missing_ok=True)


def licence_problem(card: Mapping[str, Any]) -> tuple[str, str]:
    """What keeps the weights from being used, and what to do about it; two empty texts where nothing does."""
    if acknowledged(card):
        return "", ""
    message = _("The licence of the model '{model}' isn't acknowledged yet: {licence}")
    remedy = _("If you accept it, press 'Accept licence'; in scripts call logic.acknowledge('{model}').")
    return message.format(model=card["id"], licence=card["licence"]), remedy.format(model=card["id"])


def _acknowledgements() -> dict[str, Any]:
    """What is kept; {} without the file, and where it is damaged: then licences ask again."""
    try:
        entries = json.loads((user_folder() / ACKNOWLEDGED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


# ---- reading ----


def _in(base: Path, bundled: bool) -> list[Model]:
    """The models in a folder; hidden folders are imports under way."""
    with suppress(OSError):
        return [_read(file.parent, bundled) for file in sorted(base.glob(f"[!.]*/{CARD}"))]
    return []


def _read(folder: Path, bundled: bool) -> Model:
    card, wrong = _card(folder)
    size = sum(_bytes(folder / name) for name in (CARD, WEIGHTS))
    if not wrong and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", folder.name):
        wrong = _("The name of its folder must consist of letters, digits, '.', '-' and '_'.")
    if not wrong and not (folder / WEIGHTS).is_file():
        wrong = _("The file {file} is missing.").format(file=WEIGHTS)
    model = Model(folder.name, folder, bundled, {**card, "id": folder.name} if card else {}, size=size)
    return Model(**(vars(model) | {"problem": _told(wrong, model)})) if wrong else model


def _card(folder: Path) -> tuple[dict[str, Any], str]:
    """The card and what is wrong with it."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:120]
        return {}, _("The file {file} can't be read ({reason}).").format(file=CARD, reason=reason)
    if not isinstance(card, dict) or card.get("schema") != SCHEMA:
        return {}, _("The file {file} is no card of schema {schema}.").format(file=CARD, schema=SCHEMA)
    missing = [name for name in NEEDED if name not in card]
    if missing:
        return {}, _("The file {file} lacks {fields}.").format(file=CARD, fields=", ".join(missing))
    return card, ""


def _told(wrong: str, model: Model) -> str:
    """A sentence on a model with its name, and what to do."""
    remedy = _("Install the extension again.") if model.bundled else _("Import it again, or remove it.")
    return _("Model '{model}': {wrong} {remedy}").format(model=model.id, wrong=wrong, remedy=remedy)


def _bytes(file: Path) -> int:
    with suppress(OSError):
        return file.stat().st_size
    return 0

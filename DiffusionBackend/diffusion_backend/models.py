"""Model store: a bundle is a folder with `card.json` (schema 1) and `weights.safetensors`.

A card names the interface (for instance "Denoiser") with its fields (dims, channels, unit, sigma range, conditions), the network and
its configuration, normalisation, training data, licence and attribution, metrics and the sha256 of the weights. The weights file
holds named parts; the tensor `key` of part `part` is stored as `part/key`. Bundles are looked up in the user's folder first, then in
the bundled `Resources/Models`. Nothing is ever unpickled into arbitrary objects.

Cards are read without torch, so that declarations and panels can list models; torch is imported where tensors are touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import paths
from .errors import ModelError

if TYPE_CHECKING:
    import torch

SCHEMA = 1
CARD, WEIGHTS = "card.json", "weights.safetensors"
REQUIRED_FIELDS = ("id", "interface", "network", "licence", "sha256")
INTERFACES = ("Denoiser", "HeatModel", "BernoulliRefiner", "Segmentor", "Classifier", "Scorer", "Codec", "TextEncoder", "Regressor")


@dataclass(frozen=True)
class Bundle:
    """A loaded model: its card and its parts, each a state dict of CPU tensors as stored."""

    folder: Path
    card: dict[str, Any]
    parts: dict[str, dict[str, torch.Tensor]]


def folders() -> tuple[Path, Path]:
    """Where bundles are looked up, in this order: the user's folder, the bundled one."""
    return paths.user_models(), paths.resources() / "Models"


def save_bundle(folder: Path | str, card: Mapping[str, Any], parts: Mapping[str, Mapping[str, torch.Tensor]], *,
                dtype: torch.dtype | str | None = "float16") -> Path:
    """Write a bundle; an older one in `folder` is replaced in one step, so that a reader never sees a half-written model.

    card: schema-1 fields but "schema", "sha256", "parts" and "parameters", which are filled in here. "id" defaults to the folder's
    name. parts: part name -> state dict; floating-point tensors are stored as `dtype` (None: unchanged)."""
    import torch
    from safetensors.torch import save_file

    folder = Path(folder)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    tensors: dict[str, torch.Tensor] = {}
    for part, state in parts.items():
        for key, value in state.items():
            tensors[f"{part}/{key}"] = _stored(f"{part}/{key}", value, wanted)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save_file(tensors, fresh / WEIGHTS)
        full = {"schema": SCHEMA, "id": folder.name, **card, "parts": sorted(parts), "sha256": _sha256(fresh / WEIGHTS),
                "parameters": sum(t.numel() for t in tensors.values())}
        (fresh / CARD).write_text(json.dumps(full, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for name in (CARD, WEIGHTS):
            (fresh / name).chmod(0o644)
        fresh.chmod(0o755)
        if folder.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            os.replace(folder, retired / "old")
            os.replace(fresh, folder)
            shutil.rmtree(retired)
        else:
            os.replace(fresh, folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return folder


def _stored(key: str, value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """`value` as a contiguous CPU tensor of the storage type; refuses values that the storage type can't hold."""
    value = value.detach().cpu()
    if value.is_floating_point():
        value = value if dtype is None else value.to(dtype)
        if not bool(value.isfinite().all()):
            raise ModelError(f"The tensor '{key}' has values that are not finite as {value.dtype}; the model was not saved.")
    return value.contiguous().clone()


def load_bundle(model: str | Path) -> Bundle:
    """Read and verify the bundle with this id, or in this folder. ModelError where it is missing or damaged."""
    folder = find(model)
    card = read_card(folder)
    return Bundle(folder, card, _read_parts(folder, card))


def find(model: str | Path) -> Path:
    """The folder of the bundle `model`: a folder with a card, or an id in the user's or the bundled folder."""
    direct = Path(model)
    if (direct / CARD).is_file():
        return direct
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(model)):
        for base in folders():
            if (base / str(model) / CARD).is_file():
                return base / str(model)
    known = ", ".join(entry["id"] for entry in list_models()) or "none"
    raise ModelError(f"The model '{model}' was not found in {' or '.join(str(f) for f in folders())}; available: {known}.",
                     "Choose one of these, or import a checkpoint with 'models import'.")


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a bundle folder, checked for schema and required fields."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"The model card '{folder / CARD}' can't be read ({error}).", "Install the model again.") from None
    if not isinstance(card, dict) or card.get("schema") != SCHEMA:
        found = card.get("schema") if isinstance(card, dict) else type(card).__name__
        raise ModelError(f"The model card '{folder / CARD}' has schema {found!r}, but this version reads schema {SCHEMA}.",
                         "Update the software or install the model again.")
    missing = [field for field in REQUIRED_FIELDS if field not in card]
    if missing:
        raise ModelError(f"The model card '{folder / CARD}' lacks {', '.join(missing)}.", "Install the model again.")
    if card["interface"] not in INTERFACES:
        raise ModelError(f"The model card '{folder / CARD}' names the unknown interface '{card['interface']}'; "
                         f"known: {', '.join(INTERFACES)}.", "Install the model again.")
    return card


def _read_parts(folder: Path, card: Mapping[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    verify(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The weights '{folder / WEIGHTS}' can't be read ({error}).", "Install the model again.") from None
    parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in card.get("parts", [])}
    for name, value in tensors.items():
        part, _, key = name.partition("/")
        parts.setdefault(part, {})[key] = value
    return parts


def verify(model: str | Path) -> dict[str, Any]:
    """Compare the weights with the sha256 on the card; returns the card. ModelError where they differ or are missing."""
    folder = find(model)
    card = read_card(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise ModelError(f"The model '{card['id']}' in '{folder}' has no file {WEIGHTS}.", "Install the model again.")
    found = _sha256(weights)
    if found != card["sha256"]:
        raise ModelError(f"The weights of the model '{card['id']}' in '{folder}' are damaged: sha256 {found[:12]}…, but the card "
                         f"says {str(card['sha256'])[:12]}….", "Install the model again.")
    return card


def list_models() -> list[dict[str, Any]]:
    """Cards of all bundles (plus "folder" and "removable"); a user's model hides a bundled one with the same id.

    A bundle with an unreadable card is listed with the key "problem"."""
    found: dict[str, dict[str, Any]] = {}
    for base, removable in zip(folders(), (True, False), strict=True):
        for card_file in sorted(base.glob(f"[!.]*/{CARD}")) if base.is_dir() else []:
            folder = card_file.parent
            try:
                card = read_card(folder)
            except ModelError as error:
                card = {"id": folder.name, "problem": str(error)}
            found.setdefault(card["id"], {**card, "folder": str(folder), "removable": removable})
    return [found[key] for key in sorted(found)]


def remove(model: str) -> Path:
    """Delete a bundle from the user's folder; bundled models can't be removed."""
    folder = find(model)
    if folder.parent.resolve() != paths.user_models().resolve():
        raise ModelError(f"The model '{model}' lies in '{folder}', which is not the user's model folder "
                         f"'{paths.user_models()}', so it can't be removed here.")
    shutil.rmtree(folder)
    return folder


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

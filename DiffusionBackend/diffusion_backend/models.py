"""Model store: a bundle is a folder with `card.json` (schema 1) and `weights.safetensors`.

A card names the interface (for instance "Denoiser") with its fields (dims, channels, unit, sigma range, conditions),
the network and its configuration, normalisation, training data, licence and attribution, metrics and the sha256 of the
weights. The weights file holds named parts; the tensor `key` of part `part` is stored as `part/key`. Bundles are looked
up in the user's folder first, then in the bundled `Resources/Models`. Nothing is ever unpickled into arbitrary objects.

Cards are read without torch, so that declarations and panels can list models; torch is imported where tensors are used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import paths
from .cards import check_sizes, wrong_field
from .errors import ModelError
from .io.folders import temporary
from .method import INTERFACES

if TYPE_CHECKING:
    import torch

SCHEMA = 1
CARD, WEIGHTS = "card.json", "weights.safetensors"
REQUIRED_FIELDS = ("id", "interface", "network", "licence", "sha256")
REINSTALL = "Install the model again."


@dataclass(frozen=True)
class Bundle:
    """A loaded model: its card and its parts, each a state dict of CPU tensors as stored."""

    folder: Path
    card: dict[str, Any]
    parts: dict[str, dict[str, torch.Tensor]]


def folders() -> tuple[Path, Path]:
    """Where bundles are looked up, in this order: the user's folder, the bundled one."""
    return paths.user_models(), paths.resources() / "Models"


def save_bundle(
    folder: Path | str,
    card: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, torch.Tensor]],
    *,
    dtype: torch.dtype | str | None = "float16",
) -> Path:
    """Write a bundle; an older one in `folder` is replaced in one step: a reader never sees a half-written model.

    card: schema-1 fields but "schema", "sha256", "parts" and "parameters", which are filled in here. "id" defaults to
    the folder's name. parts: part name -> state dict; floating-point tensors are stored as `dtype` (None: unchanged).
    Raises ModelError where a value is not finite in that type."""
    import torch
    from safetensors.torch import save_file

    folder = Path(folder)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    tensors: dict[str, torch.Tensor] = {}
    for part, state in parts.items():
        for key, value in state.items():
            tensors[f"{part}/{key}"] = _stored(f"{part}/{key}", value, wanted)
    with placed(folder) as fresh:
        save_file(tensors, fresh / WEIGHTS)
        full = {
            "schema": SCHEMA,
            "id": folder.name,
            **card,
            "parts": sorted(parts),
            "sha256": sha256(fresh / WEIGHTS),
            "parameters": sum(t.numel() for t in tensors.values()),
        }
        write_card(fresh, full)
    return folder


@contextmanager
def placed(folder: Path) -> Iterator[Path]:
    """A folder to fill with a bundle, which becomes `folder` in one step when the block ends without an error.

    The next one that is placed beside it removes what a killed process has left."""
    with temporary(folder.parent, ".bundle-") as work:
        fresh = work / "new"
        fresh.mkdir()
        yield fresh
        if folder.exists():
            os.replace(folder, work / "old")
        os.replace(fresh, folder)


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the card of a bundle."""
    (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        file.chmod(0o644)


def _stored(key: str, value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """`value` as a contiguous CPU tensor of the storage type; refuses values that the storage type can't hold."""
    value = value.detach().cpu()
    if value.is_floating_point():
        value = value if dtype is None else value.to(dtype)
        if not bool(value.isfinite().all()):
            raise ModelError(f"The tensor '{key}' has values that are not finite as {value.dtype}; nothing was saved.")
    return value.contiguous().clone()


def load_bundle(model: str | Path) -> Bundle:
    """Read and verify the bundle with this id, or in this folder. ModelError where it is missing or damaged, or its
    licence asks and wasn't acknowledged."""
    from . import licences

    folder = find(model)
    card = read_card(folder)
    licences.require(card)
    return Bundle(folder, card, _read_parts(folder, card))


def is_id(name: str) -> bool:
    """Whether `name` can be the id of a model: letters, digits, '.', '-', '_', beginning with a letter or digit."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None


def find(model: str | Path) -> Path:
    """The folder of the bundle `model`: a folder with a card, or an id in the user's or the bundled folder."""
    direct = Path(model)
    if (direct / CARD).is_file():
        return direct
    if is_id(str(model)):
        for base in folders():
            if (base / str(model) / CARD).is_file():
                return base / str(model)
    known = ", ".join(entry["id"] for entry in list_models()) or "none"
    places = " or ".join(f"'{folder}'" for folder in folders())
    raise ModelError(
        f"The model '{model}' was not found in {places}; available: {known}.",
        "Choose one of these, or import a checkpoint with 'models import'.",
    )


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a bundle folder, checked for schema and required fields."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"The model card '{folder / CARD}' can't be read ({error}).", REINSTALL) from None
    return parse_card(text, str(folder / CARD))


def parse_card(text: str, where: str) -> dict[str, Any]:
    """The content of a card, checked for schema and required fields; `where` names it in sentences."""
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"The model card '{where}' can't be read ({error}).", REINSTALL) from None
    if not isinstance(card, dict) or card.get("schema") != SCHEMA:
        found = card.get("schema") if isinstance(card, dict) else type(card).__name__
        raise ModelError(
            f"The model card '{where}' has schema {found!r}, but this version reads {SCHEMA}.",
            "Update the software or install the model again.",
        )
    missing = [field for field in REQUIRED_FIELDS if field not in card]
    if missing:
        raise ModelError(f"The model card '{where}' lacks {', '.join(missing)}.", REINSTALL)
    if card["interface"] not in INTERFACES:
        raise ModelError(
            f"The model card '{where}' names the unknown interface '{card['interface']}'; known: "
            f"{', '.join(INTERFACES)}.",
            REINSTALL,
        )
    if wrong := wrong_field(card):
        raise ModelError(f"The model card '{where}' has a value of the wrong type for '{wrong}'.", REINSTALL)
    return card


def _read_parts(folder: Path, card: Mapping[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    verify(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The weights '{folder / WEIGHTS}' can't be read ({error}).", REINSTALL) from None
    parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in card.get("parts", [])}
    for name, value in tensors.items():
        part, _, key = name.partition("/")
        parts.setdefault(part, {})[key] = value
    return parts


def verify(model: str | Path) -> dict[str, Any]:
    """Compare the weights with the sha256 on the card; returns the card. ModelError where they differ or miss."""
    folder = find(model)
    card = read_card(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise ModelError(f"The model '{card['id']}' in '{folder}' has no file {WEIGHTS}.", REINSTALL)
    found = sha256(weights)
    if found != card["sha256"]:
        raise ModelError(
            f"The weights of the model '{card['id']}' in '{folder}' are damaged: their sha256 begins with "
            f"{found[:12]}, but the card says {str(card['sha256'])[:12]}.",
            REINSTALL,
        )
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
                card = {"problem": str(error)}
            described = {**card, "id": folder.name, "folder": str(folder), "removable": removable}
            found.setdefault(folder.name, described)
    return [found[key] for key in sorted(found)]


def remove(model: str) -> Path:
    """Delete a bundle from the user's folder; bundled models can't be removed."""
    folder = find(model)
    if folder.parent.resolve() != paths.user_models().resolve():
        raise ModelError(
            f"The model '{model}' lies in '{folder}', which is not the user's model folder "
            f"'{paths.user_models()}', so it can't be removed here."
        )
    shutil.rmtree(folder)
    return folder


def sha256(file: Path) -> str:
    """The digest of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Denoiser:
    """An image prior: denoiser(x, sigma, cond) -> clean estimate, x [B, C, ...] and sigma in the unit of the card.

    estimate : the same in the network's unit u, x = offset + scale u. stride : sides are padded to multiples of it.
    sigma_range : trained noise levels. Below it the lowest level is used; above it the image is contracted towards
    `offset` until its noise is the highest level, so that the network never sees a level that it wasn't trained for."""

    card: Mapping[str, Any]
    module: torch.nn.Module
    estimate: Callable[..., torch.Tensor]
    stride: int
    offset: float
    scale: float
    sigma_range: tuple[float, float]

    def __call__(self, x: torch.Tensor, sigma: Any, cond: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """Clean estimate [B, C, ...] in the card's unit; sigma a float or [B]."""
        u, level = (x - self.offset) / self.scale, sigma
        low, high = self.sigma_range
        if hasattr(sigma, "clamp"):
            level = sigma.clamp(low, high)
            u = u * (level / sigma).clamp(max=1).to(x).view(-1, *[1] * (x.ndim - 1))
        else:
            level = min(max(sigma, low), high)
            u = u * min(level / sigma, 1.0) if sigma > 0 else u
        padded = self._pad(u)
        estimate = self.estimate(padded, level / self.scale, cond)
        inside = (..., *(slice(0, side) for side in x.shape[2:]))
        return estimate[inside] * self.scale + self.offset

    def _pad(self, u: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional as F

        missing = [-side % self.stride for side in u.shape[2:]]
        if not any(missing):
            return u
        widths = [width for pad in reversed(missing) for width in (0, pad)]
        inner = all(pad < side for pad, side in zip(missing, u.shape[2:], strict=True))
        return F.pad(u, widths, mode="reflect" if inner else "replicate")


def import_model(
    method: str, file: Path | str, *, name: str | None = None, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Import a published checkpoint into the user's folder; returns its card (see `importers.import_model`)."""
    from . import importers

    return importers.import_model(method, Path(file), name=name, options=options)


def load(model: str | Path, device: str = "cpu") -> Any:
    """The model that a slot calls, ready on `device`: what its interface says."""
    bundle = load_bundle(model)
    if bundle.card["interface"] == "Segmentor":
        from .mask_models import mask_model

        return mask_model(bundle, device)
    return denoiser(bundle, device)


def load_denoiser(model: str | Path, device: str = "cpu") -> Denoiser:
    """The denoiser of a bundle with the interface "Denoiser", ready on `device`."""
    return denoiser(load_bundle(model), device)


def denoiser(bundle: Bundle, device: str = "cpu") -> Denoiser:
    """Build the network of a loaded bundle (float32) and wrap it. ModelError where card and weights don't fit."""
    import torch

    card = bundle.card
    if card["interface"] != "Denoiser":
        raise ModelError(f"The model '{card['id']}' is a {card['interface']}, but a Denoiser is needed here.")
    try:
        build = {"UNet": _unet, "DuDoDp": _dudodp}.get(card["network"].get("architecture", ""))
        if build is None:
            raise ValueError(f"the architecture {card['network'].get('architecture')!r} is unknown")
        weights = bundle.parts["denoiser"]
        check_sizes(card["network"], len(weights), sum(value.numel() for value in weights.values()))
        with torch.device("meta"):  # without memory: the card may lie
            problems = misfits(build(card)[0], weights)
        if problems:
            raise ValueError("; ".join(problems[:10]))
        module, estimate, stride = build(card)
        offset, scale = (float(card["normalisation"][key]) for key in ("offset", "scale"))
        if not (abs(offset) < float("inf") and 0 < scale < float("inf")):
            raise ValueError("the normalisation is no finite offset and scale")
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"The model '{card['id']}' doesn't fit its card: {error}.", REINSTALL) from None
    module.load_state_dict({key: value.float() for key, value in bundle.parts["denoiser"].items()})
    module.requires_grad_(False).eval().to(device)
    if card.get("dims") == 2:
        module.to(memory_format=torch.channels_last)  # a third faster on a CPU, same result to rounding
    low, high = card.get("sigma_range", (0.0, float("inf")))
    return Denoiser(card, module, estimate, stride, offset, scale, (float(low), float(high)))


def _unet(card: Mapping[str, Any]) -> tuple[torch.nn.Module, Callable[..., torch.Tensor], int]:
    from .diffusion.denoiser import edm
    from .networks.unet import UNet

    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["network"].items()}
    if fields.pop("parametrisation", "EDM") != "EDM":
        raise ValueError(f"the parametrisation {card['network']['parametrisation']!r} is unknown")
    del fields["architecture"]
    module = UNet(**fields)
    return module, edm(module, float(card["normalisation"]["sigma_data"])), module.stride


def _dudodp(card: Mapping[str, Any]) -> tuple[torch.nn.Module, Callable[..., torch.Tensor], int]:
    import torch

    from .diffusion.denoiser import from_x0
    from .diffusion.schedules import linear_vp
    from .networks.dudodp import DuDoDpConfig, DuDoDpNet

    fields = {k: v for k, v in card["network"].items() if k not in ("architecture", "parametrisation")}
    module = DuDoDpNet(DuDoDpConfig.from_dict(fields))
    schedule = linear_vp(**card["schedule"])
    one_level = from_x0(lambda x, time, cond: module(x, time)[:, :1], schedule)

    def estimate(x: torch.Tensor, sigma: Any, cond: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """Levels [B] are taken item by item, since the discrete wrapper knows one level at a time."""
        if not hasattr(sigma, "shape"):
            return one_level(x, sigma, cond)
        return torch.cat([one_level(x[b : b + 1], float(s), cond) for b, s in enumerate(sigma.expand(len(x)))])

    return module, estimate, module.config.divisor


def misfits(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> list[str]:
    """What keeps `state` from being loaded into `module`: one phrase per missing, surplus or wrongly shaped tensor."""
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    return [
        *(f"'{key}' is missing" for key in wanted if key not in found),
        *(f"'{key}' is not part of the network" for key in found if key not in wanted),
        *(
            f"'{key}' has shape {found[key]}, but {shape} is needed"
            for key, shape in wanted.items()
            if key in found and found[key] != shape
        ),
    ]

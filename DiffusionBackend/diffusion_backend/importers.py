"""Import of published checkpoints: a file that the user has becomes a bundle in the user's model folder.

A checkpoint is read as tensors only: safetensors, or a torch file with `weights_only=True`, which refuses any other
object. An importer per method turns its tensors into a card and names the network that they must fit.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import bundles, models
from .bundles import Report, progress
from .errors import InputError, ModelError

if TYPE_CHECKING:
    import torch

State = Mapping[str, "torch.Tensor"]
FIRST = 3  # layers that a sentence names
WRAPPERS = ("state_dict", "model", "ema", "model_state_dict")  # dictionaries that checkpoints are often wrapped in
DUDODP_LICENCE = (
    "No licence file in the authors' repository (DeepXuan/DuDoDp-MAR): all rights reserved. Use it as the authors "
    "permit you; it may not be passed on with this software."
)


def import_file(
    path: Path,
    *,
    method: str | None = None,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    report: Report = lambda event: None,
) -> dict[str, Any]:
    """Import a bundle (a folder, a zip file, or the card in a folder) or a published checkpoint; returns its card.

    method: whose checkpoint it is (default: the one that it fits). See `import_model` for the rest. report: told
    the stage and how far it is. Raises InputError, ModelError, DiskError."""
    if name is not None and not models.is_id(name):
        raise InputError(f"The model name '{name}' must consist of letters, digits, '.', '-' and '_'.")
    if not path.exists():
        raise InputError(f"There is no file '{path}'.", "Give the path of the checkpoint that you have.")
    if method is None and bundles.is_bundle(path):
        return bundles.import_bundle(path, name, report)
    if path.is_dir():
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:3]) or "nothing"
        needed = f"the files {models.CARD} and {models.WEIGHTS} are needed"
        raise ModelError(f"The folder '{path}' is no model: it holds {found}, but {needed}.")
    return import_model(method, path, name=name, options=options, report=report)


def import_model(
    method: str | None,
    file: Path,
    *,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    report: Report = lambda event: None,
) -> dict[str, Any]:
    """Import the checkpoint `file` for `method`; returns the card, whose "licence" is to be shown to the user.

    method: None takes the first that the file fits. name: id of the new model, which replaces the user's one of that
    name (default: the importer's, numbered where that is taken). options: what the tensor shapes can't tell (see the
    importer). Raises InputError for an unknown method, option or missing file, ModelError where the file doesn't
    fit."""
    if method is not None and method not in IMPORTERS:
        raise InputError(f"There is no import for '{method}'; known: {', '.join(sorted(IMPORTERS))}.")
    if name is not None and not models.is_id(name):
        raise InputError(f"The model name '{name}' must consist of letters, digits, '.', '-' and '_'.")
    report(progress("reading"))
    state = read_checkpoint(file)
    card = _fitting_card(method, file, state, dict(options or {}))
    card["source_file"], card["source_sha256"] = file.name, models.sha256(file)
    folder = bundles.place(name, card, "source_sha256")
    report(progress("writing"))
    return models.read_card(
        models.save_bundle(folder, {**card, "id": folder.name}, {"denoiser": state}, dtype=None)
    )


def _fitting_card(method: str | None, file: Path, state: State, options: dict[str, Any]) -> dict[str, Any]:
    """The card for a checkpoint; ModelError with layers that are expected and found where no importer takes it."""
    sentences = []
    for name in [method] if method else sorted(IMPORTERS):
        try:
            card, module = IMPORTERS[name](state, options)
        except ValueError as error:
            sentences.append(f"The checkpoint '{file}' can't be imported for {name}: {error} {_layers(name, state)}")
            continue
        problems = models.misfits(module, state)
        if not problems:
            return card
        sentences.append(
            f"The checkpoint '{file}' doesn't fit the network of {name}; {len(problems)} tensors differ, such as "
            f"{'; '.join(problems[:FIRST])}."
        )
    raise ModelError(" ".join(sentences), "Choose the file that the authors have published for this method.")


def _layers(method: str, state: State) -> str:
    """The first layers of the published network and of the file, with their shapes."""
    expected, found = (
        ", ".join(f"'{key}' {tuple(value.shape)}" for key, value in islice(tensors.items(), FIRST))
        for tensors in (PUBLISHED[method](), state)
    )
    return f"Expected are layers such as {expected}; found are {found}."


def read_checkpoint(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors, .pt, .pth or .ckpt file, unwrapped, without the prefix of parallel training."""
    import torch
    from safetensors.torch import load_file

    if not file.is_file():
        raise InputError(f"There is no file '{file}'.", "Give the path of the checkpoint that you have.")
    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"The checkpoint '{file}' holds objects other than tensors; it is not opened, because that could "
            "run foreign code.",
            "Save its state dict alone (torch.save(model.state_dict(), ...)).",
        ) from None
    except Exception as error:  # a damaged file shows itself in as many ways as it has parts
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"The checkpoint '{file}' can't be read as a torch or safetensors file ({first}).") from None
    if isinstance(content, Mapping):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if (
        not isinstance(content, Mapping)
        or not all(isinstance(v, torch.Tensor) for v in content.values())
        or not content
    ):
        raise ModelError(f"The checkpoint '{file}' is no state dict (a mapping from names to tensors).")
    if any(v.numel() * v.element_size() > v.untyped_storage().nbytes() for v in content.values()):
        raise ModelError(f"The checkpoint '{file}' holds tensors that are larger than what is stored of them.")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _dudodp(state: State, options: dict[str, Any]) -> tuple[dict[str, Any], torch.nn.Module]:
    """DuDoDp (A11). Options: head_width (channels per attention head, 64), diffusion_steps (1000)."""
    import torch

    from .networks.dudodp import DuDoDpConfig, DuDoDpNet, configuration

    unknown = set(options) - {"head_width", "diffusion_steps"}
    if unknown:
        raise InputError(f"Unknown import option '{sorted(unknown)[0]}'; known: head_width, diffusion_steps.")
    steps, head_width = (_count(options, key, usual) for key, usual in (("diffusion_steps", 1000), ("head_width", 64)))
    config: DuDoDpConfig = configuration(state, head_width=head_width)
    with torch.device("meta"):
        module = DuDoDpNet(config)
    scale = 1000 / (2 * 0.192)  # x = 2 mu - 1, mu in 1/cm = 0.192 (1 + HU / 1000)
    card = {
        "id": "a11-published",
        "interface": "Denoiser",
        "dims": 2,
        "channels": 1,
        "unit": "HU",
        "network": {"architecture": "DuDoDp", "parametrisation": "x0", **config.to_dict()},
        "schedule": {"first": 0.1 / steps, "last": 20 / steps, "steps": steps},
        "normalisation": {"offset": scale - 1000, "scale": scale},
        "domain": {"anatomy": "axial CT (DeepLesion)", "pixel_mm": [0.5, 1.0]},
        "licence": DUDODP_LICENCE,
        "attribution": "Liu, Xie, Diao, Tan, Liang, IEEE TMI 43(10), 3533-3545, 2024 (arXiv 2308.16742).",
        "training": {"data": "DeepLesion slices, by the authors", "iterations": 150000},
    }
    return card, module


def _count(options: Mapping[str, Any], key: str, usual: int) -> int:
    """The option `key` as a whole number above 0, or `usual` where it isn't given."""
    try:
        value = int(options.get(key, usual))
    except (TypeError, ValueError):
        value = 0
    if value < 1:
        raise InputError(f"The import option {key} is {options[key]!r}, but it must be a whole number above 0.")
    return value


def _published_dudodp() -> State:
    """The layers of the published network, without numbers."""
    import torch

    from .networks.dudodp import DuDoDpConfig, DuDoDpNet

    with torch.device("meta"):
        return DuDoDpNet(DuDoDpConfig()).state_dict()


IMPORTERS: dict[str, Callable[[State, dict[str, Any]], tuple[dict[str, Any], torch.nn.Module]]] = {"a11": _dudodp}
PUBLISHED: dict[str, Callable[[], State]] = {"a11": _published_dudodp}

"""A14 HiDiff: a segmentor's masks, refined by Bernoulli diffusion; several chains tell how sure the result is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import Check
from ..data import Segmentation, Table, volume
from ..errors import InputError
from ..method import Citation, Input, Method, ModelSlot, Output, Stage
from ..params import Boolean, Choice, Integer, Text, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Grid, PatientGeometry
    from ..mask_models import MaskModel
    from ..run import Batch, Run

SURE, DOUBT = 0.95, 0.05  # of a given start: what lies inside it, and outside
AIR_HU = -1024.0

METHOD = Method(
    id="a14",
    name="HiDiff",
    module="segmentation",
    task="segmentation of organs",
    state="experimental",
    summary="Segments CT with a network whose mask a Bernoulli diffusion model refines, and tells how sure it is.",
    citation=Citation(
        "Chen, T. and Wang, C. and Chen, Z. and Lei, Y. and Shan, H.",
        "HiDiff: Hybrid Diffusion Framework for Medical Image Segmentation",
        "IEEE Transactions on Medical Imaging 43(10)",
        2024,
    ),
    inputs=(
        Input("ct", kind="volume", unit="HU", help="CT in Hounsfield units; any orientation and voxel size."),
        Input("start", kind="segmentation", required=False,
              help="A segmentation to refine, for example an edited one; its labels carry the structures' names."),
    ),
    outputs=(
        Output("segmentation", kind="segmentation", display="overlay", help="One segment per structure."),
        Output("uncertainty", kind="volume", display="overlay",
               help="Entropy of the mean over the chains in bits, the largest of all structures: 0 sure, 1 undecided."),
        Output("report", kind="table", display="table", help="Per structure: volume, mean HU, disagreement."),
    ),
    parameters=(
        Text("structures", "all", longest=500,
             help="Structures to segment, separated by commas; 'all' takes every one that the model knows."),
        Integer("chains", 5, low=1, high=50, help="Draws of the refiner whose mean is the result."),
        Integer("calls", 5, low=1, high=10, help="Network calls of each draw."),
        Choice("sampler", "ddim", choices=("ddim", "ddpm"), level="advanced",
               help="DDIM keeps the marginals with little new randomness; DDPM draws from the posterior (published)."),
        Boolean("refine", True, help="Refine the segmentor's masks, where the model has a refiner."),
        Boolean("flip", False, level="advanced", help="Average the segmentor over the image and its mirror image."),
        Choice("pieces", "all", choices=("all", "largest"), level="advanced",
               help="Keep all connected pieces of a structure, or the largest one."),
    ),
    models=(ModelSlot("model", default="hidiff-hn", interface="Segmentor", dims=2, channels=10, unit="HU"),),
    requires=(
        Check("unit", "ct", unit="HU"),
        Check("unit_range", "ct", low=-33000, below=-200),
        Check("min_size", "ct", low=16),
        Check("same_grid", "start", other="ct"),
    ),
    presets={
        "quick": {"chains": 1, "calls": 1},
        "standard": {},
        "published": {"chains": 5, "calls": 10, "sampler": "ddpm"},
    },
    notes="Structures that lie outside the anatomy of the model are made up or missed: see the model's card.",
)  # fmt: skip


def plan(meta: Mapping[str, Any], p: Any) -> list[Stage]:
    """Calls per slice of the model's grid (3 mm apart): one of the segmentor, then those of the chains."""
    spacing = meta["ct"]["spacing"] or [1.0] * 3
    sides = [max(1, round(n * s)) for n, s in zip(reversed(meta["ct"]["shape"]), spacing)]
    slices = max(1, round(sides[2 - meta["ct"]["axial_axis"]] / 3))
    calls = (1 + p.flip) + (p.chains * p.calls if p.refine else 0)
    rows = -(-max(sides[:2]) // 28) * 8
    return [Stage("segmentation", items=slices, calls=calls, part="model", shape=(10, rows, rows))]


def run(run: Run, inputs: Mapping[str, Any], p: Any) -> dict[str, Any]:
    """ct (k, j, i) -> labels, uncertainty and report on its grid."""
    from ..items import slices
    from ..resampling import axial_grid, volume_on

    ct, model = inputs["ct"], run.model("model").denoise
    chosen = _chosen(p.structures, model.structures)
    about = model.card["grid"]
    step = about["slices_mm"][-1] / (len(about["slices_mm"]) // 2)
    grid, shape = axial_grid(ct.geometry, ct.array.shape, (about["pixel_mm"], about["pixel_mm"], step), 8)
    hu = volume_on(ct, grid, shape, outside=AIR_HU)
    arrays = [_neighbours(hu, len(about["slices_mm"]))]
    if "start" in inputs:
        arrays.append(_start(inputs["start"], model.structures, grid, shape))

    def work(batch: Batch, near: Tensor, *start: Tensor) -> Tensor:
        return _probabilities(batch, model, near, start[0] if start else None, p)

    with run.stage("segmentation"):
        probabilities = run.map(slices(len(hu)), work, *arrays).numpy()
    labels, certainty = _labels(probabilities, chosen, ct, grid, p)
    names = {model.structures[c]: n for n, c in enumerate(chosen, 1)}
    return {
        "segmentation": Segmentation(labels, ct.geometry, names),
        "uncertainty": volume(certainty, ct.geometry, ""),
        "report": _report(labels, certainty, names, ct),
    }


def _chosen(text: str, known: tuple[str, ...]) -> list[int]:
    """Numbers of the structures that are asked for. InputError names an unknown one."""
    if text.strip().lower() in ("", "all"):
        return list(range(len(known)))
    spelled = {name.lower(): n for n, name in enumerate(known)}
    numbers = []
    for name in (part.strip() for part in text.split(",")):
        if name.lower() not in spelled:
            raise InputError(
                f"The model has no structure '{name}'{nearest(name, known)}. It has: {', '.join(known)}."
            )
        numbers.append(spelled[name.lower()])
    return sorted(set(numbers))


def _neighbours(hu: np.ndarray, count: int) -> np.ndarray:
    """Each slice with its neighbours [k, count, j, i]; at the ends the last slice is repeated. A view, no copy."""
    half = count // 2
    padded = np.pad(hu, ((half, half), (0, 0), (0, 0)), mode="edge")
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(padded, count, axis=0), -1, 1)


def _start(start: Segmentation, known: tuple[str, ...], grid: PatientGeometry, shape: tuple[int, ...]) -> np.ndarray:
    """A given segmentation as prior probabilities [k, K, j, i] on the model's grid; NaN for structures it lacks."""
    from ..resampling import resample

    prior = np.full((shape[0], len(known), *shape[1:]), np.nan, np.float32)
    spelled = {name.lower(): n for n, name in enumerate(known)}
    for name, value in start.labels.items():
        n = spelled.get(name.lower())
        if n is not None:
            inside = resample(start.array == value, start.geometry, grid, shape, outside=0)
            prior[:, n] = DOUBT + (SURE - DOUBT) * np.clip(inside, 0, 1)
    if np.isnan(prior).all():
        raise InputError(
            f"The input 'start' has the segments {', '.join(start.labels) or 'none'}, but the model knows "
            f"{', '.join(known)}. Rename the segments."
        )
    return prior


def _probabilities(batch: Batch, model: MaskModel, near: Tensor, start: Tensor | None, p: Any) -> Tensor:
    """Mean probabilities [B, K, H, W] of slices with neighbours [B, slices, H, W] in HU."""
    import torch

    run, x = batch.run, model.channels(near)

    def network(f: Any, *arguments: Any, **named: Any) -> Any:
        run.check()
        run.evaluations += len(x)
        with run.clock("network"):
            return f(*arguments, **named)

    prior, features = network(model.prior, x)
    if p.flip:
        mirrored = network(model.prior, x.flip(-1))[0].flip(-1)
        prior = (prior + mirrored[:, _mirrored(model.structures)]) / 2
    if start is not None:
        prior = torch.where(start.isnan(), prior, start)
    if not p.refine or model.refiner is None:
        return prior
    total = torch.zeros_like(prior)
    for chain in range(p.chains):
        def uniform(k: int, chain: int = chain) -> Tensor:
            return torch.special.ndtr(batch.noise(f"{chain}.{k}", prior.shape[1:]))

        total += network(model.refine, x, prior, features, uniform, calls=p.calls, sampler=p.sampler)
        batch.progress(chain + 1, p.chains)
    return total / p.chains


def _mirrored(known: tuple[str, ...]) -> list[int]:
    """Where each structure is found in the mirror image: left and right change places."""
    return [known.index(n.replace("Right", "?").replace("Left", "Right").replace("?", "Left")) for n in known]


def _labels(
    probabilities: np.ndarray, chosen: list[int], ct: Grid, grid: PatientGeometry, p: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (uint8, 1 ... in the order of `chosen`) and entropy in bits on the grid of the CT.

    The most probable structure of those above 1/2; one map at a time, so that memory doesn't grow with their number."""
    from ..resampling import resample

    assert ct.geometry is not None
    best = np.full(ct.array.shape, 0.5, np.float32)
    labels, doubt = np.zeros(ct.array.shape, np.uint8), np.zeros(ct.array.shape, np.float32)
    for n, c in enumerate(chosen, 1):
        share = resample(probabilities[:, c], grid, ct.geometry, ct.array.shape, outside=0, smooth=False)
        if p.pieces == "largest":
            share[(share > 0.5) & ~_largest(share > 0.5)] = 0
        won = share > best
        labels[won], best[won] = n, share[won]
        np.maximum(doubt, _entropy_bits(share), out=doubt)
    return labels, doubt


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected piece (26 neighbours); an empty mask stays empty."""
    import SimpleITK as sitk

    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), True))
    return sitk.GetArrayViewFromImage(pieces) == 1


def _entropy_bits(share: np.ndarray) -> np.ndarray:
    """Entropy of a bit with this probability; 0 at 0 and 1."""
    inside = np.clip(share, 1e-7, 1 - 1e-7)
    bits = -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))
    return np.where((share <= 1e-6) | (share >= 1 - 1e-6), 0, bits).astype(np.float32)


def _report(labels: np.ndarray, doubt: np.ndarray, names: Mapping[str, int], ct: Grid) -> Table:
    voxel_ml = float(np.prod(ct.spacing)) / 1000
    rows: list[tuple[Any, ...]] = []
    for name, n in names.items():
        inside = labels == n
        count = int(inside.sum())
        told = (float(ct.array[inside].mean()), float(doubt[inside].mean())) if count else (float("nan"),) * 2
        rows.append((name, round(count * voxel_ml, 3), round(told[0], 1), round(told[1], 3)))
    return Table(("structure", "volume ml", "mean HU", "mean entropy bits"), rows)

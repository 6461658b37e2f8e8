"""`evaluate clinical`: real CT slices with metal, corrected image-only; no truth, so figures that need none.

Slices: `ct-metal-clinical/metal-native512.npz`. Per slice and method: metal voxels found, share of projections in the
metal's shadow, streaks before and after, and the change far from the metal. A method that refuses a slice says why.
Streaks: standard deviation of HU in soft tissue in a ring around the metal, local mean removed. It also counts noise
and texture, so a smoother image has less of it; the montage is to be looked at, too. Far from the metal nearly all of
the change comes from the rays in the shadow, whose backprojection crosses the whole slice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from .. import methods, models
from ..data import Grid, Item, PatientGeometry, volume
from ..errors import InputError
from ..execute import Request, Surroundings, execute
from ..metrics import image as metrics
from ..pictures import CHANGE_HU, SOFT_TISSUE_HU, montage
from .tables import Cases, cases_path, write_table

Picture = Mapping[str, np.ndarray]   # images by title
METHODS = ("li", "nmar", "a10", "a11")
HIDDEN = "li"                        # in the table, but not in the montage
FIGURES = ("metal_voxels", "trace_percent", "streaks_before_hu", "streaks_after_hu", "far_bias_hu", "far_rmse_hu",
           "seconds")  # fmt: skip
SOFT_HU = (-200.0, 200.0)
RING_PX = (3, 60)
LOCAL_PX = 21                        # side of the square of the local mean
FAR_SHADOW, FAR_PX = 0.02, 100       # far from metal: less shadow than this, or more pixels away than this
MONTAGE_MM = 160                     # side of what the montage shows
MONTAGE_INCHES, MONTAGE_GREYS = 2.0, 24      # a page can hold it: about 1000 pixels wide, less than 300 kB


def clinical_slices(data: Path) -> Iterator[tuple[int, str, Grid]]:
    """(index, patient, one-slice volume in HU) of every stored slice, at its own pixels."""
    pack = data / "ct-metal-clinical" / "metal-native512.npz"
    if not pack.exists():
        raise InputError(f"'{data}' has no ct-metal-clinical/metal-native512.npz.",
                         "Give --data the folder that holds it.")
    with np.load(pack, allow_pickle=False) as arrays:
        hu, pixel, names = (arrays[k] for k in ("hu", "pixel_mm", "patient"))
    for k, image in enumerate(hu):
        placed = PatientGeometry.from_itk((float(pixel[k]), float(pixel[k]), 1.0), (0, 0, 0), np.eye(3).ravel())
        yield k, str(names[k]), volume(image[None].astype(np.float32), placed)


def correct(method: str, ct: Grid, priors: Mapping[str, str], device: str, parameters: Mapping[str, Any]
            ) -> Mapping[str, Any]:  # fmt: skip
    """Outputs of the method with its defaults, but for those `parameters` that it has. InputError when it refuses."""
    module = methods.load(method)
    known = {p.name for p in module.METHOD.parameters}
    request = Request(method, {k: v for k, v in parameters.items() if k in known}, device=device,
                      models={"prior": priors[method]} if method in priors else {})  # fmt: skip
    around = Surroundings(card=lambda m: models.read_card(models.find(m)),
                          load=lambda m, where: models.load_denoiser(m, where))  # fmt: skip
    inputs: dict[str, Item] = {"ct": ct}
    result = execute(module, request, inputs, around)
    assert result is not None
    return result.outputs


def figures(hu: np.ndarray, outputs: Mapping[str, Any]) -> dict[str, float]:
    """All FIGURES but the time, of one slice [H, W] in HU and the outputs of a method."""
    corrected, shadow, metal = (np.asarray(outputs[n].array)[0] for n in ("corrected", "shadow", "metal"))
    distance = np.asarray(ndimage.distance_transform_edt(metal == 0))
    body = metrics.body_mask(hu)
    ring = body & (distance >= RING_PX[0]) & (distance <= RING_PX[1])
    before, after = streaks(hu, corrected, ring)
    far = body & ((shadow < FAR_SHADOW) | (distance > FAR_PX))
    change = metrics.compare(corrected, hu, far)
    return {"metal_voxels": float(np.count_nonzero(metal)), "trace_percent": float(outputs["report"].rows[0][2]),
            "streaks_before_hu": before, "streaks_after_hu": after, "far_bias_hu": change["bias"],
            "far_rmse_hu": change["rmse"]}  # fmt: skip


def streaks(before: np.ndarray, after: np.ndarray, ring: np.ndarray) -> tuple[float, float]:
    """Standard deviation in HU of two images [H, W] of a slice in the soft tissue of `ring`, local mean removed.

    Soft tissue is where the mean of both images has its values, so that neither of them chooses the region. NaN
    where there is none."""
    middle = (np.asarray(before, float) + after) / 2
    soft = ring & (middle > SOFT_HU[0]) & (middle < SOFT_HU[1])
    share = ndimage.uniform_filter(soft.astype(float), LOCAL_PX)

    def spread(image: np.ndarray) -> float:
        local = ndimage.uniform_filter(np.where(soft, image, 0.0), LOCAL_PX) / np.maximum(share, 1e-9)
        return float((image - local)[soft].std()) if soft.any() else float("nan")

    return spread(np.asarray(before, float)), spread(np.asarray(after, float))


def evaluate(
    data: Path, output: Path, *, slices: int | str | Sequence[int] = (), device: str = "cpu",
    rows: Sequence[str] = METHODS, priors: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> list[Mapping[str, str | float]]:  # fmt: skip
    """Write `output` (slice x method), the single cases and a montage of the `slices` asked for; print the table.

    slices : indices such as "1,2,3". priors : model by method, in place of its own. parameters : of the methods."""
    start, shown = time.perf_counter(), _indices(slices)
    cases = Cases(cases_path(output), ("slice", "patient", "method"), FIGURES)
    table: list[Mapping[str, str | float]] = []
    pictures: dict[int, tuple[Picture, np.ndarray]] = {}
    for k, patient, ct in clinical_slices(data):
        done: dict[str, Mapping[str, Any]] = {}
        for method in rows:
            key = {"slice": str(k), "patient": patient, "method": method}
            work = partial(_measure, method, ct, done, partial(correct, method, ct, priors or {}, device,
                                                               parameters or {}))  # fmt: skip
            try:
                found, refused = cases.compute(key, work), ""
                if k in shown and method not in (*done, HIDDEN):
                    work()  # known from an earlier run, but its picture isn't
            except InputError as error:
                found, refused = dict.fromkeys(FIGURES, float("nan")), str(error)
            table.append(key | found | {"refused": refused})
        if k in shown and done:
            pictures[k] = _pictures(ct, done, [m for m in rows if m != HIDDEN])
    print(write_table(output, table))
    if chosen := [pictures[k] for k in shown if k in pictures]:
        windows = {"": SOFT_TISSUE_HU} | {title: CHANGE_HU for title in chosen[0][0] if "minus" in title}
        images, outlines = zip(*chosen)
        montage(output.with_suffix(".png"), images, windows, outlines=outlines, inches=MONTAGE_INCHES,
                greys=MONTAGE_GREYS)  # fmt: skip
    print(f"{time.perf_counter() - start:.0f} s.")
    return table


def _measure(method: str, ct: Grid, done: dict[str, Mapping[str, Any]], run: Callable[[], Mapping[str, Any]]
             ) -> dict[str, float]:  # fmt: skip
    began = time.perf_counter()
    outputs = run()
    seconds = time.perf_counter() - began
    done[method] = outputs
    return figures(np.asarray(ct.array)[0], outputs) | {"seconds": seconds}


def _indices(slices: int | str | Sequence[int]) -> tuple[int, ...]:
    """Slices as they come from the command line, 1, "1,2,3" or [1, 2, 3]; each once, in this order."""
    try:
        given = slices.split(",") if isinstance(slices, str) else np.atleast_1d(slices)
        return tuple(dict.fromkeys(int(k) for k in given))
    except ValueError:
        raise InputError(f"The slices are '{slices}', but indices such as 1,2,3 are needed.") from None


def _pictures(ct: Grid, done: Mapping[str, Mapping[str, Any]], wanted: Sequence[str]) -> tuple[Picture, np.ndarray]:
    """A row of the montage and the metal in it: input, the `wanted` methods (empty where one refused) and what the last
    of them changed; all are cut to a square of MONTAGE_MM around the metal."""
    hu, metal = np.asarray(ct.array)[0], np.asarray(next(iter(done.values()))["metal"].array)[0] > 0
    shown = {"input": hu}
    for name in wanted:
        shown[name.upper()] = np.asarray(done[name]["corrected"].array)[0] if name in done else np.full_like(hu, np.nan)
    if wanted:
        shown[f"{wanted[-1].upper()} minus input"] = shown[wanted[-1].upper()] - hu
    box = square(metal, metrics.body_mask(hu), round(MONTAGE_MM / ct.spacing[0]))
    return {title: image[box] for title, image in shown.items()}, metal[box]


def square(metal: np.ndarray, body: np.ndarray, side: int) -> tuple[slice, slice]:
    """A square of `side` pixels around the middle of the metal, moved to hold as much of the body as it can and cut by
    the image. Masks [H, W]."""
    ranges = []
    for where, inside, length in zip(np.nonzero(metal), np.nonzero(body), metal.shape):
        limits = sorted((inside.min(), inside.max() + 1 - side))  # a body that is smaller than the square is inside
        first = int(np.clip(round(where.mean() - side / 2), *limits))
        first = max(0, min(first, length - side))
        ranges.append(slice(first, first + side))
    return ranges[0], ranges[1]

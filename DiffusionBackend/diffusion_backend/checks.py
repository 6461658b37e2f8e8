"""Checks as data: predicates over what is known of an input, evaluated alike by the panel and by the engine.

Most need only `facts` (sizes, units, spacing, value range), which a panel has from its nodes. Those declared with
`pixels=True` look at
the array and run in the engine before the first network call. A limit given as the name of a parameter takes the
parameter's value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .data import Grid, Item, Segmentation, Table, Text, axial_axis
from .errors import InputError

Facts = Mapping[str, Any]
GRID_TOLERANCE = 0.1  # of a voxel: grids that lie closer count as the same


@dataclass(frozen=True, init=False)
class Check:
    """One requirement: predicate `name` on input `input` with `limits`; `pixels` says that it needs the array.

    A limit `unless` = ("metal", ...) waives the check where one of these inputs is given."""

    name: str
    input: str
    pixels: bool
    limits: Mapping[str, Any]

    def __init__(self, name: str, input: str, pixels: bool = False, **limits: Any) -> None:
        if name not in (PIXEL_PREDICATES if pixels else PREDICATES):
            raise ValueError(f"There is no {'pixel ' if pixels else ''}check named '{name}'.")
        for attribute, value in (("name", name), ("input", input), ("pixels", pixels), ("limits", limits)):
            object.__setattr__(self, attribute, value)

    def to_dict(self) -> dict[str, Any]:
        """The check as plain JSON values."""
        return {"name": self.name, "input": self.input, "pixels": self.pixels, "limits": dict(self.limits)}


def default_checks(name: str, kind: str) -> tuple[Check, ...]:
    """The checks that every input of this kind gets without being asked."""
    if kind == "volume":
        return (
            Check("not_empty", name),
            Check("scalar", name),
            Check("finite", name),
            Check("spacing", name, low=1e-3, high=100),
        )
    if kind == "projections":
        return (
            Check("not_empty", name),
            Check("finite", name),
            Check("sinogram_fits", name),
            Check("line_integrals", name, high=15),
        )
    if kind == "segmentation":
        return Check("not_empty", name), Check("labelled", name)
    if kind == "text":
        return (Check("text_length", name, low=1, high=10000),)
    return ()


def facts(item: Item) -> dict[str, Any]:
    """What the predicates need to know of an input, as plain JSON values."""
    if isinstance(item, Text):
        return {"length": len(item.text.strip())}
    if isinstance(item, Table):
        return {"columns": list(item.columns), "rows": len(item.rows)}
    known: dict[str, Any] = {"shape": list(item.array.shape), "dtype": str(item.array.dtype), "components": 1}
    known["spacing"] = list(item.geometry.spacing) if item.geometry else None
    known["ijkToRAS"] = [list(row) for row in item.geometry.ijk_to_ras] if item.geometry else None
    known["axial_axis"] = axial_axis(item)
    low, tops, finite = value_ranges(np.moveaxis(item.array, known["axial_axis"], 0))
    if isinstance(item, Segmentation):
        return known | {"labels": dict(item.labels), "largest": int(max(tops, default=0)), "tops": tops}
    if item.axes[-1].name == "bin":
        known["mean"] = mean_value(item.array)
    return known | {
        "components": item.components,
        "unit": item.unit,
        "range": [low, max(tops, default=0.0)],
        "tops": tops,
        "finite": finite,
        "acquisition": item.acquisition,
    }


def value_ranges(array: np.ndarray) -> tuple[float, list[float], bool]:
    """Smallest finite value, the largest of each slice (first axis), and whether all are finite.

    Magnitudes of complex values. Slice by slice, because the array may be memory-mapped. A slice without any finite
    value counts as 0."""
    lows, tops, finite = [], [], True
    for part in array if array.ndim > 2 else array[None]:
        values = np.abs(part) if np.iscomplexobj(part) else np.asarray(part)
        if not np.issubdtype(values.dtype, np.integer):
            good = np.isfinite(values)
            if not good.all():
                finite, values = False, values[good]
        lows.append(float(values.min()) if values.size else 0.0)
        tops.append(float(values.max()) if values.size else 0.0)
    return min(lows, default=0.0), tops, finite


def mean_value(array: np.ndarray) -> float:
    """Mean of the finite values, slice by slice as in `value_ranges`; 0 where there are none."""
    total, count = 0.0, 0
    for part in array if array.ndim > 2 else array[None]:
        good = np.isfinite(part)
        total, count = total + float(part[good].sum(dtype=np.float64)), count + int(good.sum())
    return total / max(count, 1)


def enforce(checks: tuple[Check, ...], inputs: Mapping[str, Item], p: Any) -> None:
    """Evaluate all checks of the inputs that are there; the first that fails raises InputError with its sentence."""
    known = {name: facts(item) for name, item in inputs.items()}
    for check in sorted(checks, key=lambda c: c.pixels):
        sentence = verdict(check, known, p, inputs)
        if sentence:
            raise InputError(sentence)


def verdict(check: Check, known: Mapping[str, Facts], p: Any, items: Mapping[str, Item]) -> str:
    """The sentence of a check that fails, or ""; "" also for an input that isn't given."""
    limits = {k: getattr(p, v, v) if isinstance(v, str) else v for k, v in check.limits.items()}
    other = limits.get("other")
    if check.input not in known or (other and other not in known) or any(n in known for n in limits.get("unless", ())):
        return ""
    what = f"The input '{check.input}'"
    if check.pixels:
        return PIXEL_PREDICATES[check.name](what, items[check.input], limits)
    return PREDICATES[check.name](what, known[check.input], limits, known.get(str(other), {}))


# ---- predicates on facts: (what, facts, limits, facts of the other input) -> sentence or "" ----


def _not_empty(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    if 0 in f["shape"]:
        return (
            f"{what} is empty: its size is {_size(f)} (slices × rows × columns). Choose data with at least one voxel."
        )
    return ""


def _finite(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    return "" if f["finite"] else f"{what} holds values that aren't numbers (NaN or infinite). Replace them first."


def _scalar(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    if f["components"] != 1:
        return (
            f"{what} has {f['components']} values per voxel (a colour or vector image), but one is needed. "
            "Choose a scalar volume."
        )
    if f["dtype"].startswith("complex"):
        return f"{what} is complex, but real values are needed. Take its magnitude first."
    return ""


def _colour(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    if f["components"] != 3 or f["dtype"] != "uint8":
        found = f"{f['components']} {f['dtype']} values per voxel"
        return f"{what} has {found}, but a colour image (three uint8 values) is needed."
    return ""


def _complex(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    return "" if f["dtype"].startswith("complex") else f"{what} is of type {f['dtype']}, but complex values are needed."


def _min_slices(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    if f["shape"][0] < limits["low"]:
        return f"{what} has {f['shape'][0]} slices, but at least {limits['low']} are needed."
    return ""


def _max_slices(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    if f["shape"][0] > limits["high"]:
        return f"{what} has {f['shape'][0]} slices, but at most {limits['high']} are possible. Crop it first."
    return ""


def _min_size(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    rows, columns = f["shape"][1:3]
    if min(rows, columns) < limits["low"]:
        return (
            f"{what} has slices of {rows} × {columns} pixels, but at least {limits['low']} × {limits['low']} "
            "are needed."
        )
    return ""


def _spacing(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    low, high, spacing = limits["low"], limits["high"], f["spacing"]
    if spacing and not all(low <= s <= high for s in spacing):
        text = " × ".join(f"{s:g}" for s in spacing)
        return (
            f"{what} has voxels of {text} mm, but sizes from {low:g} to {high:g} mm are needed. Check the voxel size."
        )
    return ""


def _square_pixels(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    i, j, _ = f["spacing"]
    if abs(i - j) > 1e-3 * max(i, j):
        return f"{what} has pixels of {i:g} × {j:g} mm, but square pixels are needed. Resample it first."
    return ""


def _in_patient(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    missing = "no position in the patient (voxel size, origin, direction)"
    return "" if f["spacing"] else f"{what} has {missing}, but one is needed."


def _unit(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    if f["unit"] != limits["unit"]:
        found = f"is in '{f['unit']}'" if f["unit"] else "has no unit"
        return f"{what} {found}, but '{limits['unit']}' is needed."
    return ""


def _unit_range(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    """The darkest voxel lies in [low, below] and the brightest is at most `high`: values in HU contain air, near
    -1000."""
    darkest, brightest = f["range"]
    unit, low, below = f["unit"], limits.get("low", -np.inf), limits.get("below", np.inf)
    if not low <= darkest <= below:
        lowest = f"at least {low:g}" if darkest < low else f"below {below:g}"
        return (
            f"{what} isn't in {unit}, it seems: its smallest value is {darkest:g}, but {lowest} is expected. "
            "Check the rescaling."
        )
    if brightest > limits.get("high", np.inf):
        return (
            f"{what} isn't in {unit}, it seems: its largest value is {brightest:g}, but at most "
            f"{limits['high']:g} is expected."
        )
    return ""


def _not_constant(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    low, high = f["range"]
    return f"{what} is {low:g} everywhere. Choose data with content." if low == high else ""


def _non_negative(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    low = f["range"][0]
    return f"{what} has a smallest value of {low:g}, but no negative values are allowed." if low < 0 else ""


def _sinogram_fits(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    views, bins = f["shape"][-2:]
    angles, wanted = len(f["acquisition"].get("angles_deg", ())), f["acquisition"].get("bins")
    if (views, bins) != (angles, wanted):
        return (
            f"{what} has {views} views × {bins} bins, but its geometry describes {angles} views × {wanted} bins. "
            "Give the geometry that belongs to the projections."
        )
    return ""


def _line_integrals(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    """The mean of -log(I / I0) lies between 0 and what a detector can still see; single rays through metal may exceed
    it where a simulation scales them."""
    if not 0 <= f["mean"] <= limits["high"]:
        return (
            f"{what} is {f['mean']:.6g} on average, but line integrals are from 0 to {limits['high']:g} on average. "
            "Give -log(I / I0) of the measured intensities."
        )
    return ""


def _min_views(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    views = f["shape"][-2]
    return f"{what} has {views} views, but at least {limits['low']} are needed." if views < limits["low"] else ""


def _same_slices(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    counts = [1 if len(x["shape"]) == 2 else x["shape"][0] for x in (f, other)]
    if counts[0] != counts[1]:
        return f"{what} has {counts[0]} slices, but '{limits['other']}' has {counts[1]}. Both need the same number."
    return ""


def _same_grid(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    if f["shape"][:3] != other["shape"][:3]:
        return (
            f"{what} has {_size(f)} voxels, but '{limits['other']}' has {_size(other)}. Resample one onto "
            "the other's grid."
        )
    apart = _apart_mm(f, other)
    if apart > GRID_TOLERANCE * min(f["spacing"] or [1.0]):
        return (
            f"{what} lies up to {apart:.3g} mm off the voxels of '{limits['other']}', but both must have the same. "
            "Resample one onto the other's grid."
        )
    return ""


def _apart_mm(f: Facts, other: Facts) -> float:
    """Largest distance between equal voxels of two grids of one size, mm; 0 where one has no place in the patient."""
    if not f["ijkToRAS"] or not other["ijkToRAS"]:
        return 0.0
    far = np.array(f["shape"][2::-1])[:, None] - 1
    corners = np.vstack((np.indices((2, 2, 2)).reshape(3, 8) * far, np.ones(8)))
    shift = np.subtract(f["ijkToRAS"], other["ijkToRAS"])[:3]
    return float(np.linalg.norm(shift @ corners, axis=0).max())


def _labelled(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    return "" if f["largest"] > 0 else f"{what} has no labelled voxel. Mark at least one."


def _has_label(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    wanted = limits["label"]
    if wanted not in f["labels"]:
        return f"{what} has no structure named '{wanted}'; it has: {', '.join(f['labels']) or 'none'}."
    return ""


def _text_length(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    if not limits["low"] <= f["length"] <= limits["high"]:
        return f"{what} has {f['length']} characters, but from {limits['low']} to {limits['high']} are needed."
    return ""


def _columns(what: str, f: Facts, limits: Facts, other: Facts) -> str:
    missing = [c for c in limits["columns"] if c not in f["columns"]]
    return f"{what} lacks the column {', '.join(missing)}; it has: {', '.join(f['columns'])}." if missing else ""


# ---- predicates on pixels: (what, item, limits) -> sentence or "" ----


def _has_metal(what: str, item: Grid, limits: Facts) -> str:
    threshold = limits["threshold"]
    if not any((part > threshold).any() for part in item.array):
        brightest = max(value_ranges(item.array)[1], default=0.0)
        return (
            f"{what} holds no metal: no voxel is above {threshold:g} HU (largest value {brightest:g}). Lower "
            "the threshold."
        )
    return ""


def _metal_fraction(what: str, item: Grid, limits: Facts) -> str:
    """Metal over body (above -500 HU), in the slice where it is largest."""
    threshold, high = limits["threshold"], limits["high"]
    for k, part in enumerate(np.moveaxis(item.array, axial_axis(item), 0)):
        metal, body = int((part > threshold).sum()), int((part > -500).sum())
        if metal > high * body:
            return (
                f"{what} has voxels above {threshold:g} HU in {100 * metal / body:.0f} % of the body of slice {k}, "
                f"but at most {100 * high:g} % can be metal. Raise the metal threshold or check that the values "
                "are in HU."
            )
    return ""


def _size(f: Facts) -> str:
    return " × ".join(str(n) for n in f["shape"])


PREDICATES: dict[str, Callable[[str, Facts, Facts, Facts], str]] = {
    "not_empty": _not_empty,
    "finite": _finite,
    "scalar": _scalar,
    "colour": _colour,
    "complex": _complex,
    "min_slices": _min_slices,
    "max_slices": _max_slices,
    "min_size": _min_size,
    "spacing": _spacing,
    "square_pixels": _square_pixels,
    "in_patient": _in_patient,
    "unit": _unit,
    "unit_range": _unit_range,
    "not_constant": _not_constant,
    "non_negative": _non_negative,
    "sinogram_fits": _sinogram_fits,
    "line_integrals": _line_integrals,
    "min_views": _min_views,
    "same_slices": _same_slices,
    "same_grid": _same_grid,
    "labelled": _labelled,
    "has_label": _has_label,
    "text_length": _text_length,
    "columns": _columns,
}
PIXEL_PREDICATES: dict[str, Callable[[str, Any, Facts], str]] = {
    "has_metal": _has_metal,
    "metal_fraction": _metal_fraction,
}

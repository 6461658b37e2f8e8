"""What is known of an input, the checks that need nothing else, and which licences ask before first use.

Panel and engine share this file, so that both come to the same verdict with the same sentence. It imports the
standard library and numpy alone. `facts` are plain JSON values (sizes, units, spacing, value range); a check is a
plain dict {"name", "input", "pixels", "limits"} as in `Resources/methods.json`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Facts = Mapping[str, Any]
GRID_TOLERANCE = 0.1  # of a voxel: grids that lie closer count as the same
PERMISSIVE = {"0BSD", "APACHE-2.0", "BSD-2-CLAUSE", "BSD-3-CLAUSE", "BSL-1.0", "CC0", "CC0-1.0", "CC-BY-3.0",
              "CC-BY-4.0", "ISC", "MIT", "MIT-0", "PDDL-1.0", "UNLICENSE", "ZLIB"}  # fmt: skip


def asks(card: Facts) -> bool:
    """Whether the licence on a model's card must be acknowledged: all but the permissive ones, by their SPDX names."""
    return "-".join(str(card.get("licence", "")).upper().replace("-", " ").split()) not in PERMISSIVE


def acknowledgement_key(card: Facts) -> str:
    """What an acknowledgement is stored under in `acknowledged.json`: other weights or another licence ask again."""
    return hashlib.sha256(f"{card.get('sha256')}\n{card.get('licence')}".encode()).hexdigest()


def verdict(check: Facts, known: Mapping[str, Facts], parameters: Facts) -> str:
    """The sentence of a check that fails, or "".

    check : {"name", "input", "pixels", "limits"}. known : facts of each given input by name. parameters : values by
    name; a limit that is the name of a parameter takes its value. "" also for an input that isn't given, and for a
    check of pixels, which only the engine can make.
    """
    limits = applicable_limits(check, known, parameters)
    if limits is None or check["pixels"]:
        return ""
    other = known.get(str(limits.get("other")), {})
    return PREDICATES[check["name"]](subject(check), known[check["input"]], limits, other)


def applicable_limits(check: Facts, known: Mapping[str, Facts], parameters: Facts) -> dict[str, Any] | None:
    """The limits with the parameters' values put in; None where the check doesn't apply to what is given.

    A limit `unless` = ("metal", ...) waives the check where one of these inputs is given."""
    limits = {k: parameters.get(v, v) if isinstance(v, str) else v for k, v in check["limits"].items()}
    other = limits.get("other")
    missing = check["input"] not in known or (other and other not in known)
    return None if missing or any(n in known for n in limits.get("unless", ())) else limits


def subject(check: Facts) -> str:
    """How a sentence names the input of a check."""
    return f"The input '{check['input']}'"


# ---- facts ----


def text_facts(text: str) -> dict[str, Any]:
    """Facts of a text."""
    return {"length": len(text.strip())}


def table_facts(columns: Any, rows: int) -> dict[str, Any]:
    """Facts of a table."""
    return {"columns": list(columns), "rows": rows}


def label_facts(array: np.ndarray, placement: Facts | None, labels: Mapping[str, int]) -> dict[str, Any]:
    """Facts of labels (k, j, i); `placement` and the result as in `grid_facts`."""
    known = _array_facts(array, placement, in_volume=True)
    tops = value_ranges(np.moveaxis(array, known["axial_axis"], 0))[1]
    return known | {"labels": dict(labels), "largest": int(max(tops, default=0)), "tops": tops}


def grid_facts(
    array: np.ndarray,
    placement: Facts | None,
    axes: tuple[str, ...] = ("k", "j", "i"),
    unit: str = "",
    acquisition: Facts | None = None,
) -> dict[str, Any]:
    """Facts of an array on named axes.

    placement : {"spacing": (i, j, k) in mm, "ijkToRAS": 4 x 4}, None where it has no place in the patient.
    """
    known = _array_facts(array, placement, in_volume=axes[0] == "k")
    low, tops, finite = value_ranges(np.moveaxis(array, known["axial_axis"], 0))
    if axes[-1] == "bin":
        known["mean"] = mean_value(array)
    return known | {
        "components": array.shape[axes.index("component")] if "component" in axes else 1,
        "unit": unit,
        "range": [low, max(tops, default=0.0)],
        "tops": tops,
        "finite": finite,
        "acquisition": dict(acquisition or {}),
    }


def _array_facts(array: np.ndarray, placement: Facts | None, in_volume: bool) -> dict[str, Any]:
    known: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype), "components": 1}
    known["spacing"] = list(placement["spacing"]) if placement else None
    known["ijkToRAS"] = [list(row) for row in placement["ijkToRAS"]] if placement else None
    known["axial_axis"] = long_axis(placement["ijkToRAS"], placement["spacing"]) if placement and in_volume else 0
    return known


def long_axis(ijk_to_ras: Any, spacing: Any) -> int:
    """The axis of a (k, j, i) array whose direction is closest to the patient's long axis; k where two are equal."""
    third = np.abs(np.array(ijk_to_ras)[2, :3]) / np.array(spacing)
    return 2 - int(np.argmax(third + np.array([0.0, 0.0, 1e-6])))


def value_ranges(array: np.ndarray) -> tuple[float, list[float], bool]:
    """Smallest finite value, the largest of each slice (first axis), and whether all are finite.

    Magnitudes of complex values. Slice by slice, because the array may be memory-mapped. A slice without any finite
    value counts as 0."""
    lows, tops, finite = [], [], True
    for part in array if array.ndim > 2 else array[None]:
        values = np.abs(part) if np.iscomplexobj(part) else np.asarray(part)
        low, top = _extremes(values)
        if not (np.isfinite(low) and np.isfinite(top)):
            finite = False
            low, top = _extremes(values[np.isfinite(values)])
        lows.append(low)
        tops.append(top)
    return min(lows, default=0.0), tops, finite


def _extremes(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest value; 0 without any. Not finite where one of the values isn't."""
    if not values.size:
        return 0.0, 0.0
    with np.errstate(invalid="ignore"):
        return float(values.min()), float(values.max())


def mean_value(array: np.ndarray) -> float:
    """Mean of the finite values, slice by slice as in `value_ranges`; 0 where there are none."""
    total, count = 0.0, 0
    for part in array if array.ndim > 2 else array[None]:
        good = np.isfinite(part)
        total, count = total + float(part[good].sum(dtype=np.float64)), count + int(good.sum())
    return total / max(count, 1)


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

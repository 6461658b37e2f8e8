"""Computing inside a region of interest: the slices that it covers, and results put back into the whole."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from diffusion_backend.predicates import long_axis

from .geometry import ExchangeError, Placed, array_of, image_of, living, name_of, placed, shifted, voxels

BORDER_MM = 1e-6  # a voxel centre on the border of a box belongs to it
Slab = tuple[int, int, int]


def axial_axis(volume: Any) -> int:
    """The array axis of a volume that is closest to the patient's long axis: slices as acquired."""
    matrix = placed(volume).matrix
    return long_axis(matrix, np.linalg.norm(matrix[:3, :3], axis=0))


def slab_of(roi: Any, volume: Any) -> Slab:
    """(array axis, first, last + 1) of the slices of a volume in which a ROI box has voxels.

    ExchangeError when the box holds no voxel centre at all."""
    grid = placed(volume)
    box, inside = _inside(roi, grid)
    axis = axial_axis(volume)
    covered = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
    if not covered.size:
        raise ExchangeError(
            _("The ROI '{roi}' holds no voxel of '{volume}'. Move or enlarge it.").format(
                roi=roi.GetName(), volume=name_of(volume)
            )
        )
    start = box[axis].start
    return axis, start + int(covered[0]), start + int(covered[-1]) + 1


def crop(description: Mapping[str, Any], array: np.ndarray, slab: Slab) -> tuple[dict[str, Any], np.ndarray]:
    """The part `slab` of an array (a view) and its description; the place in the patient moves along.

    The axis counts from k; projections (slice, view, bin) are cut along their slices, a single sinogram isn't."""
    axis, start, stop = slab
    described = dict(description)
    if "acquisition" in described:
        if array.ndim < 3:
            return described, array
        axis = 0
    first = 1 if described.get("axes", [{"name": "k"}])[0]["name"] == "frame" else 0
    size = array.shape[first + axis]
    if not 0 <= start < stop <= size:
        raise ExchangeError(
            _("Slices {start} to {last} are asked for, but there are {size} (0 to {end}).").format(
                start=start, last=stop - 1, size=size, end=size - 1
            )
        )
    if "ijkToRAS" in described:
        offset = [start if a == axis else 0 for a in (2, 1, 0)]
        described["ijkToRAS"] = shifted(np.array(described["ijkToRAS"]), offset).tolist()
    return described, array[(slice(None),) * (first + axis) + (slice(start, stop),)]


def paste(
    description: Mapping[str, Any],
    array: np.ndarray,
    like: Any,
    *,
    slab: Slab | None = None,
    roi: Any = None,
    keep: bool = True,
) -> tuple[dict[str, Any], np.ndarray]:
    """A result on the whole grid of the volume `like`: `array` inside slab and ROI, outside the values of `like`.

    keep : False puts 0 outside, as differences, deviations and labels need it. The type is that of the result,
    widened where it can't hold the input's values. Returns description and array for `create`.
    """
    grid, before = placed(like), voxels(image_of(like))
    whole = np.array(before, np.result_type(before, array)) if keep else np.zeros(grid.shape, array.dtype)
    axis, start, stop = slab or (0, 0, grid.shape[0])
    expected = tuple(stop - start if a == axis else n for a, n in enumerate(grid.shape))
    if array.shape != expected or whole.shape != grid.shape:
        raise ExchangeError(
            _("A result of {found} voxels doesn't fit into '{volume}' of {size}.").format(
                found=array.shape, volume=name_of(like), size=whole.shape
            )
        )
    view = whole[(slice(None),) * axis + (slice(start, stop),)]
    if roi is None:
        view[...] = array
    else:
        part = Placed(expected, shifted(grid.matrix, [start if a == axis else 0 for a in (2, 1, 0)]))
        box, inside = _inside(roi, part)
        view[box][inside] = array[box][inside]
    described = {k: v for k, v in description.items() if k not in ("spacing", "origin", "direction")}
    return described | {"ijkToRAS": grid.matrix.tolist()}, whole


def _inside(roi: Any, grid: Placed) -> tuple[tuple[slice, ...], np.ndarray]:
    """Index box (k, j, i) around a ROI, and which voxel centres in it lie in the ROI (bool of the box's size)."""
    living(roi, "vtkMRMLMarkupsROINode", _("ROI"))
    object_to_world, half = array_of(roi.GetObjectToWorldMatrix()), np.array(roi.GetSize()) / 2
    corners = np.array([[*(np.array(signs) * half), 1] for signs in product((-1, 1), repeat=3)]).T
    ijk = (np.linalg.solve(grid.matrix, object_to_world @ corners))[:3]
    low = np.maximum(np.ceil(ijk.min(axis=1) - 1e-3), 0).astype(int)
    high = np.minimum(np.floor(ijk.max(axis=1) + 1e-3) + 1, grid.shape[::-1]).astype(int)
    box = tuple(slice(a, max(a, b)) for a, b in zip(low[::-1], high[::-1]))
    to_object = np.linalg.solve(object_to_world, grid.matrix)
    k, j, i = (np.arange(s.start, s.stop, dtype=float) for s in box)
    inside = np.ones((len(k), len(j), len(i)), bool)
    for row, limit in zip(to_object[:3], half):
        plane = row[0] * i + row[1] * j[:, None] + row[3]
        for n, depth in enumerate(k):
            inside[n] &= np.abs(plane + row[2] * depth) <= limit + BORDER_MM
    return box, inside

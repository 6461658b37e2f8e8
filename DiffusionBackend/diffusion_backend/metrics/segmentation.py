"""Overlap and surface metrics of masks, in millimetres and millilitres (definitions: Maier-Hein et al. 2024,
doi:10.1038/s41592-023-02151-z).

Surfaces are the voxels of a mask with a neighbour (of six) outside it; distances are between voxel centres.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

COLUMNS = ("dice", "hd95_mm", "asd_mm", "volume_ml", "reference_ml", "volume_difference_ml")
PERCENTILE = 95


def compare(mask: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """The figures COLUMNS of a mask against a reference, both bool (k, j, i) on one grid. spacing : mm (i, j, k).

    dice : 2 |A B| / (|A| + |B|), NaN where both are empty. hd95_mm : the larger of the two directed 95th percentiles
    of the surface distances. asd_mm : mean over the voxels of both surfaces. Distances are NaN where a mask is empty.
    ValueError for masks of different sizes."""
    mask, reference = np.asarray(mask, bool), np.asarray(reference, bool)
    if mask.shape != reference.shape:
        raise ValueError(f"The mask has the size {mask.shape}, the reference {reference.shape}; one size is needed.")
    voxel_ml = float(np.prod(spacing)) / 1000
    volumes = [float(m.sum()) * voxel_ml for m in (mask, reference)]
    hd95, asd = surface_distances(mask, reference, spacing)
    total = sum(volumes)
    overlap = 2 * float((mask & reference).sum()) * voxel_ml
    figures = (overlap / total if total else np.nan, hd95, asd, *volumes, volumes[0] - volumes[1])
    return {name: float(value) for name, value in zip(COLUMNS, figures, strict=True)}


def surface_distances(mask: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> tuple[float, float]:
    """(hd95, average surface distance) in mm, see `compare`."""
    if not mask.any() or not reference.any():
        return float("nan"), float("nan")
    box = ndimage.find_objects((mask | reference).astype(np.uint8))[0]
    surfaces = [_surface(m[box]) for m in (mask, reference)]
    sampling = tuple(reversed(spacing))
    to_reference, to_mask = (
        np.asarray(ndimage.distance_transform_edt(~other, sampling))[own]
        for own, other in (surfaces, surfaces[::-1])
    )
    hd95 = max(float(np.percentile(d, PERCENTILE)) for d in (to_reference, to_mask))
    return hd95, float(np.concatenate([to_reference, to_mask]).mean())


def _surface(mask: np.ndarray) -> np.ndarray:
    """Voxels with a neighbour outside the mask; what lies beyond the array is outside."""
    return mask & ~ndimage.binary_erosion(mask)

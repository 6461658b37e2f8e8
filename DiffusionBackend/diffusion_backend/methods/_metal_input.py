"""What the metal methods find in their inputs and refuse or doubt: metal, projections, the scanner's own processing.

Arrays are numpy (slice, row, column) in HU along the axial axis; traces are tensors [B, V, D]."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import Grid, Segmentation
from ..errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from ..physics.ct import Geometry

AIR_HU, BODY_HU = -1000.0, -500.0
LOWEST_HU = -1024.0                   # smallest value of stored CT numbers; below it a constant marks missing data
MAX_METAL_SHARE = 0.2                 # of the body, in the slice where it is largest
TRUNCATED_SHARE = 0.05                # of the border of a slice inside the body: the field of view cuts it


def find_metal(inputs: Mapping[str, Any], hu: np.ndarray, axis: int, p: Any) -> np.ndarray:
    """Boolean (slice, row, column), from the segmentation (its structure 'metal', or all) or the threshold."""
    from ..physics.metal_mask import segment_metal

    if "metal" not in inputs:
        found = segment_metal(np.asarray(hu), threshold=p.metal_threshold, core=p.metal_core, fill_holes=p.fill_holes,
                              dilate=p.metal_dilation)
        if not found.any() and "sinogram" not in inputs:
            raise InputError(f"The input 'ct' holds voxels above {p.metal_threshold:g} HU, but no piece of at least 3 "
                             f"voxels that reaches {p.metal_threshold + p.metal_core:g} HU or has 2 × 2 voxels in a "
                             "slice.",
                             "Lower metal_threshold or metal_core, or give the metal as a segmentation.")
        return found
    given: Segmentation = inputs["metal"]
    label = given.labels.get("metal")
    mask = np.moveaxis(given.array == label if label else given.array > 0, axis, 0)
    for k in np.flatnonzero(mask.any((1, 2))):
        share = mask[k].sum() / max(1, int(((hu[k] > BODY_HU) | mask[k]).sum()))
        if share > MAX_METAL_SHARE:
            raise InputError(f"The input 'metal' covers {100 * share:.0f} % of the body of slice {k}, but at most "
                             f"{100 * MAX_METAL_SHARE:g} % can be metal.", "Check that the segmentation is the metal.")
    return mask


def grown(metal: np.ndarray, margin: int) -> np.ndarray:
    """The metal, with slices up to `margin` beyond it taking the outline of their neighbours."""
    outline = metal
    for shift in range(1, min(margin, len(metal) - 1) + 1):
        outline = outline.copy()
        outline[shift:] |= metal[:-shift]
        outline[:-shift] |= metal[shift:]
    bare = np.logical_not(metal.any((1, 2)))
    return np.where(bare[:, None, None], outline, metal) if margin else metal


def measured(item: Grid, axis: int) -> tuple[np.ndarray, Geometry]:
    """Measured projections (slice, view, bin) and their geometry."""
    from ..physics.ct import Geometry

    if axis != 0:
        raise InputError("Projections were given, but the slices of the input 'ct' are not axial in its stored order.",
                         "Store the volume with axial slices first, or leave the projections out.")
    array = item.array if item.array.ndim == 3 else item.array[None]
    return array, Geometry.from_dict(item.acquisition)


def require_rays(trace: Tensor, numbers: Iterable[int]) -> None:
    """InputError with the number of the first slice whose shadow leaves too few rays to estimate from."""
    from ..physics.metal import require_data

    for k, one in zip(numbers, trace, strict=True):
        try:
            require_data(one)
        except InputError as error:
            found = error.args[0]
            raise InputError(f"Slice {k} of the input 'ct' can't be corrected: {found[0].lower()}{found[1:]}",
                             error.remedy) from None


def no_data(hu: np.ndarray) -> np.ndarray:
    """Boolean (slice, row, column): pixels outside the scanner's field of view, which hold one value below any CT
    number that a scanner stores, in all four corners. Dark streaks in unclipped data aren't among them."""
    corner = hu[:, :1, :1]
    corners = hu[:, :: max(1, hu.shape[1] - 1), :: max(1, hu.shape[2] - 1)]
    marked = (corners == corner).all((1, 2), keepdims=True) & (corner < LOWEST_HU)
    return (hu == corner) & marked


def doubts(ct: Grid, hu: np.ndarray, chosen: Sequence[int]) -> Iterator[str]:
    """Sentences on what may spoil the result: a correction by the scanner, values that were cut off, a field of view
    that cuts the body."""
    from ..physics.metal_mask import saturation_level

    if vendor := ct.acquisition.get("vendor_correction"):
        yield (f"The scanner has already corrected this series for metal ({vendor}); a second correction may remove "
               "true detail: prefer the uncorrected series.")
    if (level := saturation_level(hu)) is not None:
        yield (f"The values of the input 'ct' end at {level:g} HU, the end of a 12-bit scale, so that metal is cut off "
               "there: its value and size are uncertain, and metal_threshold must stay below that. Prefer a series "
               "with extended CT scale.")
    for k in chosen:
        border = np.concatenate([hu[k][[0, -1]].ravel(), hu[k][:, [0, -1]].ravel()])
        if (border > BODY_HU).mean() > TRUNCATED_SHARE:
            yield f"The field of view cuts the body in slice {k}; values near the cut may be wrong."
            return
    if not chosen:
        yield "None of the chosen slices holds metal, so that nothing was changed."

"""Finding metal in a CT volume in HU, and recognising what the scanner did to the HU scale.

Volumes are numpy arrays (k, j, i) in HU. Source of the rules: metal note, section 7, and A11 note, section 2.7.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from scipy import ndimage

TWELVE_BIT_HU = (2900.0, 4100.0)      # highest value of scanners that store 12 bits, by intercept
VENDOR_NAMES = {"O-MAR": r"\bO-?MAR\b", "iMAR": r"\biMAR\b", "SEMAR": r"\bSEMAR\b", "Smart MAR": r"\bSMART ?MAR\b",
                "metal artefact reduction": r"\bMAR\b"}
# Dates in March: "2020-MAR-12", "12 MAR 2020", "MAR 2020", "MAR 12, 2020", "12-MAR-20". A number alone makes none: in
# "THORAX 5 MAR" it may be the slice thickness.
MARCH = (r"\b(?:19|20)\d\d[ ./-]+MAR\b|\bMAR[ .,/-]+(?:\d{1,2}[ .,/-]+)?(?:19|20)\d\d\b"
         r"|\b\d{1,2}([-/.])MAR\1\d\d\b")


def saturation_level(volume_hu: np.ndarray) -> float | None:
    """The value at which the scanner cut off its 12-bit scale, or None (extended scale, or no metal in the volume).

    Recognised by at least three voxels within 1 HU of a maximum between 2900 and 4100 HU."""
    top = float(volume_hu.max())
    if not TWELVE_BIT_HU[0] <= top <= TWELVE_BIT_HU[1]:
        return None
    return top if np.count_nonzero(volume_hu > top - 1) >= 3 else None


def vendor_correction(texts: Iterable[str]) -> str | None:
    """Name of the metal artefact reduction that the scanner applied, from DICOM texts such as SeriesDescription,
    ConvolutionKernel and ImageComments; None if no text names one. A date in March names none."""
    joined = re.sub(MARCH, "", " | ".join(text.replace("_", " ") for text in texts), flags=re.IGNORECASE)
    for name, pattern in VENDOR_NAMES.items():
        if re.search(pattern, joined, flags=re.IGNORECASE):
            return name
    return None


def segment_metal(volume_hu: np.ndarray, *, threshold: float = 2500.0, core: float = 500.0, min_voxels: int = 3,
                  fill_holes: bool = True, dilate: int = 0) -> np.ndarray:
    """Metal mask: voxels at or above `threshold`, in 3-D connected components (26 neighbours) that have at least
    `min_voxels` voxels and a core of threshold + core HU; bright streaks inside bone don't reach such a core.

    In saturated 12-bit data the core level is at most the saturation value. Where no piece has a core (small fillings,
    metal at the edge of a thick slice), the brightest compact pieces are the metal: those with a block of 2 x 2 voxels
    in a slice above half the way from the threshold to the brightest such block. Thin streaks have none.
    fill_holes : in each slice (starved centres of thick metal). dilate : pixels, in each slice. Returns a boolean array
    of the shape of `volume_hu`."""
    volume = volume_hu if volume_hu.ndim == 3 else volume_hu[None]
    candidates = volume >= threshold
    if candidates.any():
        highest = saturation_level(volume)
        level = threshold + core if highest is None else max(threshold, min(threshold + core, highest - 1))
        found = _keep_components(candidates, volume, level, min_voxels)
        candidates = found if found.any() else _keep_compact(candidates, volume, threshold, min_voxels)
    for k in np.flatnonzero(candidates.any((1, 2))):
        if fill_holes:
            candidates[k] = ndimage.binary_fill_holes(candidates[k])
        if dilate > 0:
            candidates[k] = ndimage.binary_dilation(candidates[k], iterations=dilate)
    return candidates.reshape(volume_hu.shape)


def _keep_components(candidates: np.ndarray, volume: np.ndarray, level: float, min_voxels: int) -> np.ndarray:
    """Components of `candidates` with enough voxels and a maximum at or above `level`."""
    labels = np.empty(candidates.shape, np.int32)
    count = int(ndimage.label(candidates, structure=np.ones((3, 3, 3)), output=labels))  # type: ignore[arg-type]
    found = labels[candidates]                                   # few voxels, so that whole volumes needn't be sorted
    peaks = np.full(count + 1, -np.inf)
    np.maximum.at(peaks, found, volume[candidates])
    keep = (np.bincount(found, minlength=count + 1) >= min_voxels) & (peaks >= level)
    return keep[labels]


def _keep_compact(candidates: np.ndarray, volume: np.ndarray, threshold: float, min_voxels: int) -> np.ndarray:
    """Components with a compact core, judged by the lowest value of each block of 2 x 2 voxels in a slice."""
    lowest = float(volume.min())                                 # beyond the border, where no block is whole
    blocks = ndimage.minimum_filter(volume, (1, 2, 2), mode="constant", cval=lowest)
    level = (threshold + float(blocks.max())) / 2
    return _keep_components(candidates, blocks, level, min_voxels) if level >= threshold else np.zeros_like(candidates)

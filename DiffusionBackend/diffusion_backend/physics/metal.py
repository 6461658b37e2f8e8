"""Metal in CT: segmentation, metal trace, linear interpolation, normalised interpolation (NMAR), re-insertion.

Images are [..., H, W] in 1/mm unless a name ends in `_hu`; sinograms are [..., V, D] (views, bins), no unit; masks
and traces are boolean, True = metal. Sources: Kalender et al. 1987 (linear interpolation), Meyer et al. 2010 (NMAR).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from .ct import MU_WATER, Geometry, ImageGrid, Projector

PUBLISHED_FIELD_MM = 153.6          # width that the SynDeepLesion data family gives to every slice, mm
MAX_TRACE_FRACTION = 0.6            # above this share of metal rays the data are refused (or the trace is inverted)
FLOOR_SHARE = 0.2                   # chosen on validation patients: error in the shadow 0.59 without, 0.141 with it
AIR_LIMITS = (0.4, 0.7)             # of water: with much lung and little bone the classes are air, lung and soft tissue
EXCESS_SIGMAS = (1.0, 4.0)          # trace check: below the first never, above the second always too small,
EXCESS_SHARE = 0.12                 # between them if the excess is also this share of the metal's height


def virtual_geometry(grid: ImageGrid, views: int = 640, bins: int = 641) -> Geometry:
    """Flat-detector fan beam of the SynDeepLesion family, scaled to the slice (A11 note, sections 2.7 and 2.8).

    Lengths are the published multiples of the image width (source-axis 1075/416, source-detector twice that); the
    detector covers the diagonal; views at (k + 1/2) 360/views - 90 degrees."""
    width = max(grid.rows, grid.columns) * grid.pixel_mm
    return Geometry(type="fan-flat", angles_deg=tuple((k + 0.5) * 360.0 / views - 90.0 for k in range(views)),
                    bins=bins, bin_mm=2 * math.sqrt(2) * width / bins, source_axis_mm=1075 / 416 * width,
                    source_detector_mm=2150 / 416 * width)


def field_scale(grid: ImageGrid) -> float:
    """kappa: published field of view over the true one; line integrals times kappa are in the published scale."""
    return PUBLISHED_FIELD_MM / (max(grid.rows, grid.columns) * grid.pixel_mm)


def metal_trace(mask: Tensor, projector: Projector, margin: int = 1) -> Tensor:
    """Rays that meet metal: projection of the mask > 0, widened by `margin` bins at each side. [..., V, D] boolean."""
    projected = projector.forward(mask.to(projector.dtype))
    return widen(projected > 0, margin)


def widen(trace: Tensor, margin: int) -> Tensor:
    """Grow (margin > 0) or shrink (margin < 0) a trace by whole bins at each side of every run."""
    if margin == 0:
        return trace
    flat = (trace if margin > 0 else ~trace).reshape(-1, 1, trace.shape[-1]).float()
    grown = F.max_pool1d(flat, 2 * abs(margin) + 1, stride=1, padding=abs(margin)) > 0.5
    return (grown if margin > 0 else ~grown).reshape(trace.shape)


def require_data(trace: Tensor) -> None:
    """InputError if too few rays are free of metal (or the trace is inverted), naming share and view."""
    share = trace.flatten(-2).float().mean(-1).max().item()
    if share > MAX_TRACE_FRACTION:
        raise InputError(f"The metal trace covers {share:.0%} of the projections, but at most {MAX_TRACE_FRACTION:.0%} "
                         f"can be replaced.", "Raise the metal threshold or check that 1 means metal in the trace.")
    full = trace.all(-1).nonzero()
    if len(full):
        raise InputError(f"In view {int(full[0, -1])} every ray meets metal, so nothing is left to interpolate from.",
                         "Use a wider detector or a smaller metal mask.")


@dataclass(frozen=True)
class Gaps:
    """The rays of a trace, where the lines across them start and end (positions in the flattened sinogram), and how far
    along its line each ray lies (0 to 1). All [n]. Found once for a trace, used as often as it is filled."""

    inside: Tensor
    left: Tensor
    right: Tensor
    fraction: Tensor

    @classmethod
    def of(cls, trace: Tensor) -> Gaps:
        """Gaps of a trace [..., V, D]; beyond the last known bin of a view both ends are that bin. InputError if too
        few rays are free of metal."""
        require_data(trace)
        bins = trace.shape[-1]
        index = torch.arange(bins, device=trace.device).expand(trace.shape)
        left = torch.where(trace, -1, index).cummax(-1).values[trace]
        right = torch.where(trace, bins, index).flip(-1).cummin(-1).values.flip(-1)[trace]
        left, right = torch.where(left < 0, right, left), torch.where(right >= bins, left, right)
        inside = trace.flatten().nonzero()[:, 0]
        index = inside % bins
        fraction = (index - left) / (right - left).clamp(min=1)
        return cls(inside, inside - index + left, inside - index + right, fraction)

    @property
    def depth(self) -> Tensor:
        """Distance of each ray to the nearest ray outside the trace, in bins, 1 and more. [n]"""
        return torch.minimum((self.inside - self.left).abs(), (self.right - self.inside).abs())


def interpolate_linear(sinogram: Tensor, trace: Tensor, anchor: int = 1, gaps: Gaps | None = None) -> Tensor:
    """LI: in every view a straight line between the nearest bins outside the trace; at the detector's ends held.

    anchor : number of bins outside the trace that are averaged for each end of the line (1: LI; 5: variant of A10).
    gaps : those of the trace, where they are known already.
    Returns the sinogram; outside the trace, and everywhere for an empty trace, it is the input bit for bit."""
    gaps = gaps or Gaps.of(trace)
    low, high = (_anchors(sinogram, trace, anchor, flip).flatten() for flip in (False, True))
    low, high = low[gaps.left], high[gaps.right]
    line = low + (high - low) * gaps.fraction.to(low.dtype)
    return sinogram.flatten().index_copy(0, gaps.inside, line).view(sinogram.shape)


def _anchors(sinogram: Tensor, trace: Tensor, count: int, flip: bool) -> Tensor:
    """Mean of the last `count` bins up to each bin (or from it on, flipped), leaving out the trace. [..., V, D]."""
    if count <= 1:
        return sinogram
    known = (~trace).to(sinogram.dtype)
    parts = torch.stack((sinogram * known, known))
    parts = F.pad(parts.flip(-1) if flip else parts, (count - 1, 0)).unfold(-1, count, 1).sum(-1)
    mean = parts[0] / parts[1].clamp(min=1)
    return mean.flip(-1) if flip else mean


def ratio_floor(prior: Tensor) -> Tensor:
    """What is added to line integrals before they are divided: FLOOR_SHARE of the prior's largest one. [..., 1, 1].

    Without it the ratio of skin, clothes and table, where the prior has next to nothing, spoils its neighbours."""
    return FLOOR_SHARE * prior.amax((-2, -1), keepdim=True).clamp(min=1e-3)


def to_ratio(sinogram: Tensor, prior: Tensor) -> Tensor:
    """Ratio of a sinogram and the projection of a prior image, near 1 everywhere, whatever the size of the patient."""
    floor = ratio_floor(prior)
    return (sinogram + floor) / (prior + floor)


def from_ratio(ratio: Tensor, prior: Tensor) -> Tensor:
    """Inverse of `to_ratio`."""
    floor = ratio_floor(prior)
    return ratio * (prior + floor) - floor


def interpolate_normalised(sinogram: Tensor, trace: Tensor, prior: Tensor, gaps: Gaps | None = None) -> Tensor:
    """NMAR: LI of the ratio of sinogram and prior sinogram, times the prior sinogram (Meyer et al. 2010, eq. 2-4).

    prior : projection of the prior image, same shape; published with a bare ratio: see `ratio_floor`.
    gaps : those of the trace, where they are known already.
    Outside the trace, and everywhere for an empty trace, the result is the input bit for bit."""
    filled = from_ratio(interpolate_linear(to_ratio(sinogram, prior), trace, gaps=gaps), prior)
    return torch.where(trace, filled, sinogram)


def nmar_prior(image: Tensor, mask: Tensor, *, sigma_px: float = 1.0, mu_water: float = MU_WATER,
               keep_lung: bool = False) -> Tensor:
    """Prior image of NMAR from an LI image: air 0, soft tissue water, bone as it is (metal note, section 5).

    image [..., H, W] in 1/mm, mask its metal (set to water); thresholds from k-means with three classes on the image,
    the upper one at least 1.2 water; values come from the image smoothed with a Gaussian of `sigma_px` pixels.
    keep_lung : values between -900 and -500 HU (lung) keep their smoothed value instead of air."""
    filled = torch.where(mask, torch.full_like(image, mu_water), image)
    smooth = blur(filled, sigma_px)
    centres = three_means(filled.flatten(-2), start=(0.0, mu_water, 2 * mu_water))
    air = ((centres[..., 0] + centres[..., 1]) / 2).clamp(*(x * mu_water for x in AIR_LIMITS))[..., None, None]
    bone = ((centres[..., 1] + centres[..., 2]) / 2).clamp(min=1.2 * mu_water)[..., None, None]
    prior = torch.where(smooth < air, torch.zeros_like(smooth), torch.full_like(smooth, mu_water))
    prior = torch.where(smooth > bone, smooth, prior)
    if keep_lung:
        lung = (smooth > 0.1 * mu_water) & (smooth < torch.minimum(air, torch.full_like(air, 0.5 * mu_water)))
        prior = torch.where(lung, smooth, prior)
    return prior


def prior_image(sinogram: Tensor, trace: Tensor, mask: Tensor, reconstruct: Callable[[Tensor], Tensor],
                *, mu_water: float = MU_WATER, keep_lung: bool = False) -> Tensor:
    """NMAR prior image [..., H, W] in 1/mm of a sinogram [..., V, D]: `nmar_prior` of what LI gives."""
    image = reconstruct(interpolate_linear(sinogram, trace))
    return nmar_prior(image, mask, mu_water=mu_water, keep_lung=keep_lung)


def nmar(sinogram: Tensor, trace: Tensor, mask: Tensor, projector: Projector, reconstruct: Callable[[Tensor], Tensor],
         *, mu_water: float = MU_WATER, keep_lung: bool = False) -> Tensor:
    """NMAR sinogram: LI, prior image of its reconstruction, normalised interpolation.

    reconstruct : sinogram [..., V, D] -> image [..., H, W] in 1/mm (filtered backprojection)."""
    prior = prior_image(sinogram, trace, mask, reconstruct, mu_water=mu_water, keep_lung=keep_lung)
    return interpolate_normalised(sinogram, trace, projector.forward(prior))


def trace_excess(sinogram: Tensor, trace: Tensor) -> tuple[Tensor, Tensor]:
    """How far the data just outside the trace stick out of a line through the data further out, in robust sigmas.

    A trace that is too small leaves metal in its neighbours: there the sinogram lies far above the line through
    bins 3 to 6 outside the trace. The excess is the median over all edges of the trace of (bin 1 - extrapolated
    line); about 0 for a sufficient trace. Needs no truth.
    sinogram, trace [..., V, D] -> excess in robust sigmas of the same difference elsewhere in the body [...], and as a
    share of the metal's median height above the LI sinogram [...]; 0 where fewer than 20 edges can be judged."""
    x = torch.arange(2.0, 6.0, dtype=torch.float64)
    design = torch.stack((torch.ones_like(x), x), 1)
    weights = torch.zeros(6, dtype=torch.float64)
    weights[0], weights[2:] = 1.0, -torch.linalg.pinv(design)[0]
    values, metal = sinogram.reshape(-1, *sinogram.shape[-2:]), trace.reshape(-1, *trace.shape[-2:])
    found = torch.stack([_excess_of_slice(v, m, weights.to(v)) for v, m in zip(values, metal)])
    return found[:, 0].reshape(sinogram.shape[:-2]), found[:, 1].reshape(sinogram.shape[:-2])


def _excess_of_slice(sinogram: Tensor, trace: Tensor, weights: Tensor) -> Tensor:
    """Both figures of one slice [V, D], see `trace_excess`. [2]"""
    edges, elsewhere = [], []
    for values, metal in ((sinogram, trace), (sinogram.flip(-1), trace.flip(-1))):
        jump = values.unfold(-1, len(weights), 1) @ weights
        clear = ~metal.unfold(-1, len(weights), 1).any(-1)
        far = ~widen(metal, 4).unfold(-1, len(weights), 1).any(-1)
        edges.append(jump[:, 1:][clear[:, 1:] & metal[:, : clear.shape[1] - 1]])
        elsewhere.append(jump[far & (values[:, : far.shape[1]] > 0.2)])
    edge, other = torch.cat(edges), torch.cat(elsewhere)
    if len(edge) < 20 or len(other) < 20:
        return sinogram.new_zeros(2)
    spread = 1.4826 * (other - other.median()).abs().median()
    height = (sinogram - interpolate_linear(sinogram, trace))[trace].median()
    return edge.median() / torch.stack((spread.clamp(min=1e-6), height.clamp(min=1e-3)))


def trace_too_small(sinogram: Tensor, trace: Tensor) -> Tensor:
    """Truth-free check: True where the trace leaves metal outside. [..., V, D] -> boolean [...].

    Measured: sufficient traces reach 2.2 sigmas with 1 % of the height, or 0.6 sigmas with 20 %; traces two bins per
    side too small 5.6 ... 60 sigmas, among ribs and lungs 1.4 sigmas with 19 %. One bin too few may pass: LI loses
    5 HU then. Metal that is a few bins wide in all leaves too few edges to be judged."""
    sigmas, share = trace_excess(sinogram, trace)
    return (sigmas > EXCESS_SIGMAS[1]) | ((sigmas > EXCESS_SIGMAS[0]) & (share > EXCESS_SHARE))


def blur(image: Tensor, sigma_px: float) -> Tensor:
    """Gaussian over the last two axes, cut at 4 sigma, edge values repeated. Any leading shape."""
    if sigma_px <= 0:
        return image
    return blur_last(blur_last(image, sigma_px).transpose(-1, -2), sigma_px).transpose(-1, -2)


def blur_last(values: Tensor, sigma: float) -> Tensor:
    """Gaussian of `sigma` samples over the last axis, cut at 4 sigma, edge values repeated. Any leading shape."""
    radius = max(1, round(4 * sigma))
    x = torch.arange(-radius, radius + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    padded = F.pad(values.reshape(-1, 1, values.shape[-1]), (radius, radius), mode="replicate")
    return F.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1)).reshape(values.shape)


def three_means(values: Tensor, start: tuple[float, float, float], rounds: int = 100) -> Tensor:
    """Exact Lloyd iterations of 1-D k-means with three centres. values [..., N] -> centres [..., 3], ascending.

    Works on sorted values and their running sum, so that a round costs two binary searches; empty classes keep their
    centre."""
    ordered = values.sort(-1).values
    running = F.pad(ordered.double().cumsum(-1), (1, 0))
    centres = torch.tensor(start, dtype=torch.float64, device=values.device).expand(*values.shape[:-1], 3).clone()
    ends = torch.tensor([0, values.shape[-1]], device=values.device).expand(*values.shape[:-1], 2)
    for _ in range(rounds):
        cuts = ((centres[..., 1:] + centres[..., :-1]) / 2).to(values.dtype).contiguous()
        edges = torch.cat((ends[..., :1], torch.searchsorted(ordered, cuts), ends[..., 1:]), -1)
        count = edges.diff(dim=-1)
        mean = running.gather(-1, edges).diff(dim=-1) / count.clamp(min=1)
        moved = torch.where(count > 0, mean, centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres.to(values.dtype)


def reinsert(corrected_hu: Tensor, original_hu: Tensor, mask: Tensor, value_hu: float | None = None) -> Tensor:
    """Put the metal back: the original values exactly (value_hu None) or one fixed value in HU. Same shapes."""
    metal = original_hu if value_hu is None else torch.full_like(original_hu, value_hu)
    return torch.where(mask, metal.to(corrected_hu.dtype), corrected_hu)


def shadow_map(trace: Tensor, projector: Projector) -> Tensor:
    """Share of the rays through each pixel that met metal, 0 ... 1: what had to be estimated there. [..., H, W]."""
    every = projector.adjoint(torch.ones(trace.shape[-2:], dtype=projector.dtype, device=trace.device))
    return (projector.adjoint(trace.to(projector.dtype)) / every.clamp(min=1e-12)).clamp(0, 1)

"""Filtered backprojection for parallel beams and fan beams with flat or arc detectors.

Kak & Slaney, Principles of Computerized Tomographic Imaging (1988), chapter 3; Parker, Med. Phys. 9(2), 1982, with the
wider short scan of Silver, Med. Phys. 27(4), 2000.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .ct import Geometry, ImageGrid, backprojector

GAP_FACTOR = 4.0
GAP_RAD = math.radians(5)
"""A gap between neighbouring views of more than 4 median gaps and 5 degrees ends the scan: nothing was measured there;
smaller ones belong to irregular views."""
RANGE_TOLERANCE = 1e-3
"""Slack on the range that a short scan needs, radians."""
SLICES = 4
"""Slices that are filtered at once."""
WINDOWS = ("ramp", "hann")


def scan_range(geometry: Geometry) -> tuple[np.ndarray, np.ndarray, float]:
    """Where the views lie in the scan: angle from the scan's start and share of each view, rad [V]; covered range, rad.

    Each view owns half of the gaps to its neighbours, at the ends of an incomplete scan half of the median gap instead.
    Parallel views are taken modulo 180 degrees (opposite views measure the same rays), fan views modulo 360."""
    period = math.pi if geometry.type == "parallel" else 2 * math.pi
    angles = np.deg2rad(np.array(geometry.angles_deg)) % period
    # Views that differ by rounding only must not land at both ends of the period.
    angles[period - angles < 1e-9] = 0.0
    order = np.argsort(angles, kind="stable")
    gaps = np.diff(angles[order], append=angles[order[0]] + period)  # gap behind each view
    distinct = gaps[gaps > 1e-9]
    median = float(np.median(distinct))
    largest = int(np.argmax(gaps))
    if gaps[largest] > max(GAP_FACTOR * median, GAP_RAD):
        gaps[largest] = median
    order, gaps = np.roll(order, -largest - 1), np.roll(gaps, -largest - 1)
    share, start = np.empty(len(angles)), np.empty(len(angles))
    share[order] = (gaps + np.roll(gaps, 1)) / 2
    start[order] = gaps[-1] / 2 + np.concatenate([[0.0], gaps[:-1].cumsum()])
    return start, share, float(gaps.sum())


def parker_weights(geometry: Geometry, start: np.ndarray, covered: float) -> Tensor:
    """Weights of a short scan, float64 [V, D]: a ray and its opposite (angle + 180 degrees - 2 fan angle) add to 1.

    start : angle of each view from the scan's start, rad [V]; covered : range of the scan, 180 degrees + 2 delta."""
    beta = torch.from_numpy(start)[:, None]
    gamma, delta = geometry.fan_angles()[None], (covered - math.pi) / 2
    rise = torch.sin(math.pi / 4 * beta / (delta + gamma).clamp(min=1e-12)) ** 2
    fall = torch.sin(math.pi / 4 * (math.pi + 2 * delta - beta) / (delta - gamma).clamp(min=1e-12)) ** 2
    weights = torch.ones(len(start), geometry.bins, dtype=torch.float64)
    weights = torch.where(beta < 2 * (delta + gamma), rise, weights)
    return torch.where(beta > math.pi + 2 * gamma, fall, weights)


def view_weights(geometry: Geometry, short_scan: bool | None = None) -> Tensor:
    """Angular weight of every ray in FBP, rad, float64 [V, D] (Parker weights included).

    short_scan : None decides by the range: full circle -> 1/2; at least 180 degrees + fan -> Parker; below that every
    ray counts once, with no more than 180 degrees in total. True insists on Parker weights, False forbids them."""
    start, share, covered = scan_range(geometry)
    weights = torch.from_numpy(share)[:, None].expand(-1, geometry.bins)
    if geometry.type == "parallel":
        return weights
    enough = covered >= math.pi + 2 * geometry.half_fan_rad() - RANGE_TOLERANCE
    full = covered >= 2 * math.pi - RANGE_TOLERANCE
    if short_scan and not enough:
        need = math.degrees(math.pi + 2 * geometry.half_fan_rad())
        raise InputError(f"The views cover {math.degrees(covered):.1f} degrees; a short scan of this fan needs "
                         f"{need:.1f} degrees. Switch the short-scan weights off or use an iterative method.")
    if short_scan or (short_scan is None and enough and not full):
        return weights * parker_weights(geometry, start, covered)
    return weights * min(1.0, math.pi / covered)


def ramp_response(bins: int, spacing: float, window: str = "ramp", arc: bool = False) -> Tensor:
    """Frequency response of the band-limited ramp filter, float64 [n/2 + 1], n = power of two >= 2 bins.

    Taps times spacing (Kak & Slaney eq. 3.61): 1/(4 d) in the centre, -1/(pi^2 k^2 d) at odd k, 0 at even k. On an arc
    d is an angle (rad) and k d becomes sin(k d) (eq. 3.97). window "hann" multiplies by (1 + cos(pi f/f_Nyquist))/2."""
    if window not in WINDOWS:
        raise ValueError(f"The filter window is '{window}'; it must be one of {', '.join(WINDOWS)}.")
    n = 1 << max(1, (2 * bins - 1).bit_length())
    k = torch.arange(n, dtype=torch.float64)
    k = torch.where(k < n // 2, k, k - n)
    odd = (k % 2 != 0) & (k.abs() < bins)  # taps beyond the detector meet no data
    distance = torch.sin(k * spacing) if arc else k * spacing
    taps = torch.where(odd, -spacing / (math.pi * torch.where(odd, distance, 1.0)) ** 2, 0.0)
    taps[0] = 1 / (4 * spacing)
    response = torch.fft.rfft(taps).real
    if window == "hann":
        f = torch.arange(n // 2 + 1, dtype=torch.float64) / (n // 2)
        response = response * 0.5 * (1 + torch.cos(math.pi * f))
    return response


def filtered(sinogram: Tensor, geometry: Geometry, window: str, short_scan: bool | None) -> Tensor:
    """Weighted and ramp-filtered projections, ready for the backprojector; [..., V, D] like the input."""
    weights, spacing = view_weights(geometry, short_scan), geometry.bin_mm
    if geometry.type != "parallel":
        # The weight of a flat detector, R/sqrt(R^2 + u^2) on its image through the axis, is cos(fan angle) too.
        weights = weights * geometry.fan_angles().cos()
        axis, detector = geometry.distances_mm()
        if geometry.type == "fan-arc":
            weights, spacing = weights * axis, spacing / detector
        else:
            spacing *= axis / detector
    response = ramp_response(geometry.bins, spacing, window, geometry.type == "fan-arc").to(sinogram)
    n, weights = 2 * (len(response) - 1), weights.to(sinogram)
    # A few slices at a time: padded spectra take four times the memory of the projections.
    parts = (torch.fft.irfft(torch.fft.rfft(part * weights, n) * response, n)[..., : geometry.bins]
             for part in sinogram.reshape(-1, *sinogram.shape[-2:]).split(SLICES))
    return torch.cat(list(parts)).view(sinogram.shape)


def fbp(
    sinogram: Tensor, geometry: Geometry, grid: ImageGrid, *, window: str = "ramp", short_scan: bool | None = None
) -> Tensor:
    """Filtered backprojection: projections [..., V, D] -> attenuation [..., H, W] in 1/mm; linear, differentiable.

    window : "ramp" (exact band-limited) or "hann" (smoother). short_scan : see `view_weights`. Pixels that the detector
    doesn't see in all views are wrong, as in any FBP."""
    geometry.check_sinogram(sinogram)
    operator = backprojector(geometry, grid, sinogram.dtype, sinogram.device)
    return operator.backproject(filtered(sinogram, geometry, window, short_scan))

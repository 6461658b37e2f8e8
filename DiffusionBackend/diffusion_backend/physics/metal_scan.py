"""Simulated CT scan of a slice with metal: spectrum, partial volume, scatter, noise, water correction.

Two conventions (metal note, section 3): `field_acquisition` is that of the SynDeepLesion data family (tables of the
literature are valid only within it), `scanner_acquisition` has true size, own spectrum and an arc detector.
Images [B, H, W] in HU, metal as volume fraction 0 ... 1 per pixel [B, H, W], sinograms [B, V, D].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .ct import Geometry, ImageGrid, Projector, hu_to_mu
from .metal import blur_last, field_scale, virtual_geometry, widen
from .xray import Spectrum, correct_water, detect, material, polychromatic, spectrum, water_correction

WATER_UP_TO_HU, BONE_FROM_HU = 100.0, 1500.0
SCATTER_WIDTH_MM = 80.0             # standard deviation of the scatter distribution at the detector, our choice


@dataclass(frozen=True)
class Acquisition:
    """How a slice is measured.

    photons : per ray without object; floor : constant background in photons, not corrected (field convention);
    scatter : scatter-to-primary ratio behind the thickest tissue, smooth, corrected as if there were no metal;
    electronic : sigma in photons; detector : "photon" or "energy" (integrating); rays_per_bin : rays whose intensities
    are averaged in one bin of the metal's shadow (1: line integral is averaged instead); quarter_edge : SynDeepLesion's
    edge rule, a quarter of p_m in the outermost bin; displaces : metal takes the place of tissue instead of adding;
    scale : factor on all line integrals during the measurement, undone after it (field convention)."""

    geometry: Geometry
    tube: Spectrum
    photons: float = 1e6
    floor: float = 0.0
    scatter: float = 0.0
    electronic: float = 0.0
    detector: str = "photon"
    rays_per_bin: int = 1
    quarter_edge: bool = False
    displaces: bool = False
    scale: float = 1.0


def field_acquisition(grid: ImageGrid, views: int = 640, bins: int = 641) -> Acquisition:
    """SynDeepLesion convention: flat fan, 2e7 photons, floor of 20 photons, metal added to tissue, quarter edge rule.

    Whatever the true size of the slice, it is measured as if it were 153.6 mm wide."""
    return Acquisition(virtual_geometry(grid, views, bins), spectrum("field120"), photons=2e7, floor=20.0,
                       quarter_edge=True, scale=field_scale(grid))


def scanner_acquisition(grid: ImageGrid, *, kilovolt: int = 120, views: int = 984, photons: float = 1e6,
                        scatter: float = 0.03, electronic: float = 10.0) -> Acquisition:
    """Clinical scanner at true size: arc detector, 541 mm from source to axis, 949 mm to the detector, bins of 0.9
    pixels at the axis that cover the diagonal of the slice, energy-integrating, four rays per bin."""
    diagonal = math.hypot(grid.rows, grid.columns) * grid.pixel_mm
    axis, detector = max(541.0, 0.75 * diagonal), max(541.0, 0.75 * diagonal) * 949 / 541
    pitch = 0.9 * grid.pixel_mm * detector / axis
    bins = 2 * math.ceil(math.asin(diagonal / 2 / axis) * detector / pitch) + 3
    geometry = Geometry(type="fan-arc", angles_deg=tuple(k * 360.0 / views for k in range(views)), bins=bins,
                        bin_mm=pitch, offset_mm=pitch / 4, source_axis_mm=axis, source_detector_mm=detector)
    return Acquisition(geometry, spectrum(f"kvp{kilovolt}"), photons=photons, scatter=scatter, electronic=electronic,
                       detector="energy", rays_per_bin=4, displaces=True)


def split_tissue(image_hu: Tensor) -> tuple[Tensor, Tensor]:
    """Attenuation in 1/mm of a water part and a bone part whose sum is the image (metal note, section 3.2).

    Below 100 HU all water, above 1500 HU all bone, between them a linear mixture; HU clipped below at -1000."""
    mu = hu_to_mu(image_hu.clamp(min=-1000.0))
    low, high = hu_to_mu(WATER_UP_TO_HU), hu_to_mu(BONE_FROM_HU)
    bone = mu * ((mu - low) / (high - low)).clamp(0, 1)
    return mu - bone, bone


def scan(image_hu: Tensor, fraction: Tensor, metal: str, acquisition: Acquisition, projector: Projector,
         generators: Sequence[torch.Generator] | None) -> Tensor:
    """Measured, water-corrected line integrals [B, V, D] of slices [B, H, W] with metal.

    projector : of the acquisition's geometry and the slices' grid; generators : one per slice, None for no noise."""
    water, bone = split_tissue(image_hu)
    if acquisition.displaces:
        water, bone = water * (1 - fraction), bone * (1 - fraction)
    tissue = {"water": projector.forward(water) * acquisition.scale,
              "cortical_bone": projector.forward(bone) * acquisition.scale}
    tube, detector = acquisition.tube, acquisition.detector
    clean = polychromatic(tissue, tube, detector=detector)
    measured = torch.stack([_add_metal(clean[b], {k: v[b] for k, v in tissue.items()}, fraction[b], metal, acquisition,
                                       projector) for b in range(len(clean))])
    ratio = _scatter_ratio(clean, acquisition)
    if generators is not None:
        background = acquisition.photons * ratio * torch.exp(-clean) + acquisition.floor
        measured = torch.stack([detect(measured[b], acquisition.photons, g, background=background[b],
                                       electronic=acquisition.electronic) for b, g in enumerate(generators)])
    elif acquisition.floor > 0 or acquisition.scatter > 0:
        background = ratio * torch.exp(-clean) + acquisition.floor / acquisition.photons
        measured = -torch.log(torch.exp(-measured) + background)
    return correct_water(measured + torch.log1p(ratio), water_correction(tube, detector=detector)) / acquisition.scale


def _scatter_ratio(clean: Tensor, acquisition: Acquisition) -> Tensor:
    """Scatter over metal-free primary [B, V, D]: p e^-p of the tissue, blurred along the detector (Ohnesorge et al.
    1999), scaled to `acquisition.scatter` at the 90th percentile of the body's rays."""
    if acquisition.scatter <= 0:
        return torch.zeros_like(clean)
    sigma = SCATTER_WIDTH_MM / acquisition.geometry.bin_mm
    coarse = max(1, int(sigma / 4))                 # the distribution is smooth: blur it on wider bins
    shape = torch.nn.functional.avg_pool1d(clean * torch.exp(-clean), coarse, ceil_mode=True, count_include_pad=False)
    shape = torch.nn.functional.interpolate(blur_last(shape, sigma / coarse), size=clean.shape[-1], mode="linear")
    ratio = shape * torch.exp(clean)
    scale = [torch.quantile(r[c > 0.2][::17], 0.9) if (c > 0.2).sum() > 100 else r.new_tensor(math.inf)
             for r, c in zip(ratio, clean)]
    return ratio * (acquisition.scatter / torch.stack(scale))[:, None, None]


def _add_metal(clean: Tensor, tissue: dict[str, Tensor], fraction: Tensor, metal: str, acquisition: Acquisition,
               projector: Projector) -> Tensor:
    """Line integrals [V, D] of one slice with metal; only rays that meet metal are computed anew."""
    if not bool((fraction > 0).any()):
        return clean
    rays = acquisition.rays_per_bin
    if rays == 1:
        length = projector.forward(fraction)[..., None]
    else:
        fine = replace(acquisition.geometry, bins=acquisition.geometry.bins * rays,
                       bin_mm=acquisition.geometry.bin_mm / rays)
        length = project_pixels(fraction, projector.grid.pixel_mm, fine).unflatten(-1, (-1, rays))
    hit = (length > 0).any(-1)
    if acquisition.quarter_edge:
        length = torch.where((hit & ~widen(hit, -1))[..., None], length / 4, length)
    mu = float(material(metal).attenuation(70.0))
    lines = {name: line[hit][:, None].expand(-1, rays).contiguous() for name, line in tissue.items()}
    lines[metal] = length[hit] * (mu * acquisition.scale)
    intensity = torch.exp(-polychromatic(lines, acquisition.tube, detector=acquisition.detector).double()).mean(-1)
    measured = clean.clone()
    measured[hit] = -torch.log(intensity.clamp(min=1e-300)).to(clean.dtype)
    return measured


def project_pixels(fraction: Tensor, pixel_mm: float, geometry: Geometry) -> Tensor:
    """Strip-averaged line integrals in mm of the few non-zero pixels of a slice; [H, W] -> [V, D].

    Each pixel is a square whose shadow is a trapezoid of the exact ray direction through its centre (separable
    footprint, Long et al. 2010, in two dimensions); mean over each bin. Cost: pixels times views, for any bin width."""
    row, column = torch.nonzero(fraction, as_tuple=True)
    value = fraction[row, column].double()
    x = (column.double() - (fraction.shape[-1] - 1) / 2) * pixel_mm
    y = ((fraction.shape[-2] - 1) / 2 - row.double()) * pixel_mm
    result = torch.zeros(geometry.views, geometry.bins, dtype=torch.float64, device=fraction.device)
    for view, degrees in enumerate(geometry.angles_deg):
        centre, dx, dy, spread = _shadow(x, y, math.radians(degrees), geometry)
        inner = pixel_mm / 2 * (dx - dy).abs() * spread
        outer = pixel_mm / 2 * (dx + dy) * spread
        height = value * pixel_mm / torch.maximum(dx, dy)
        first = torch.floor((centre - outer - geometry.offset_mm) / geometry.bin_mm + geometry.bins / 2)
        count = int(torch.ceil(2 * outer.max() / geometry.bin_mm)) + 1
        edge = first[:, None] + torch.arange(count + 1, device=x.device)
        u = (edge - geometry.bins / 2) * geometry.bin_mm + geometry.offset_mm - centre[:, None]
        part = _trapezoid_integral(u, inner[:, None], outer[:, None]).diff(dim=-1) * height[:, None] / geometry.bin_mm
        index = edge[:, :-1].long()
        inside = (index >= 0) & (index < geometry.bins)
        result[view].index_add_(0, index[inside], part[inside])
    return result.to(fraction.dtype)


def _shadow(x: Tensor, y: Tensor, angle: float, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where points (mm) fall on the detector: position in mm, |direction| of their rays along x and y, and detector mm
    per mm across the ray."""
    c, s = math.cos(angle), math.sin(angle)
    across = x * c + y * s
    if geometry.source_axis_mm is None or geometry.source_detector_mm is None:
        one = torch.ones_like(x)
        return across, abs(s) * one, abs(c) * one, one
    depth = geometry.source_axis_mm - (x * s - y * c)
    distance = torch.hypot(across, depth)
    dx, dy = (x - geometry.source_axis_mm * s).abs() / distance, (y + geometry.source_axis_mm * c).abs() / distance
    if geometry.type == "fan-arc":
        return geometry.source_detector_mm * torch.atan2(across, depth), dx, dy, geometry.source_detector_mm / distance
    return (geometry.source_detector_mm * across / depth, dx, dy,
            geometry.source_detector_mm * distance / depth ** 2)


def _trapezoid_integral(u: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """Integral from -infinity to u of the trapezoid that is 1 for |u| < inner and falls to 0 at |u| = outer."""
    a = u.abs().minimum(outer)
    slope = (outer - inner).clamp(min=1e-12)
    over = (a - inner).clamp(min=0)
    half = a - over ** 2 / (2 * slope)
    return (inner + outer) / 2 + torch.sign(u) * half

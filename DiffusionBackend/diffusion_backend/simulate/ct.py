"""Sparse-view and limited-angle projections of a CT volume, with the reference to compare with. No inverse crime.

Geometry P1 of the evaluation protocol (fan beam, flat detector); the object is projected on its own fine grid, the
reference is the
mean of `binning` x `binning` pixels, and everything outside the inscribed circle is air in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..data import Grid, Item
from ..method import Input
from ..params import Boolean, Integer, Parameter, Real

INPUTS = (Input("ct", kind="volume", unit="HU", help="CT volume with square slices."),)
PARAMETERS: tuple[Parameter, ...] = (
    Integer("views", 60, unit="views", low=3, high=4000, help="Number of views, equally spaced."),
    Real(
        "range_deg",
        360.0,
        unit="deg",
        low=1,
        high=360,
        help="Angle that the views cover; below 360 both ends are measured.",
    ),
    Real("start_deg", 0.0, unit="deg", low=-360, high=360, help="Angle of the first view, counter-clockwise."),
    Real("photons", 1e5, low=0, high=1e9, help="Photons per ray without object; 0 leaves the noise out."),
    Integer("bins", 512, unit="bins", low=16, high=4096, help="Detector pixels."),
    Real("bin_mm", 1.6, unit="mm", low=0.01, high=50, help="Width of a detector pixel, at the detector."),
    Real("source_axis_mm", 595.0, unit="mm", low=10, high=10000, help="Distance from the source to the rotation axis."),
    Real("source_detector_mm", 1085.6, unit="mm", low=10, high=20000, help="Distance from the source to the detector."),
    Integer("binning", 2, low=1, high=8, help="Object pixels per reference pixel, in each direction."),
    Boolean("fit", True, help="Scale detector pixels so that the detector covers the whole slice, whatever its size."),
)


def simulate(inputs: Mapping[str, Item], p: Any, seed: int) -> dict[str, Item]:
    """`projections.npz` (slice, view, bin) and `reference.nrrd` (k, j, i) in HU."""
    import numpy as np
    import torch

    from ..data import projections, volume
    from ..physics.ct import hu_to_mu, mu_to_hu, projector

    ct = inputs["ct"]
    assert isinstance(ct, Grid)
    grid, reference_size, reference_placement = _grids(ct, p.binning)
    geometry = _geometry(grid, p)
    side = grid.rows
    forward = projector(geometry, grid)
    inside = torch.from_numpy(_circle(side))
    sinograms, references = [], []
    for k, hu in enumerate(np.asarray(ct.array)):
        mu = hu_to_mu(torch.from_numpy(hu[:side, :side].astype(np.float32)).clamp(min=-1000)) * inside
        sinograms.append(measure(forward.forward(mu), p.photons, (seed, k)).numpy())
        coarse = mu.reshape(reference_size, p.binning, reference_size, p.binning).mean((1, 3))
        references.append(mu_to_hu(coarse).numpy())
    acquisition = geometry.to_dict() | {
        "image": {"size": reference_size, "pixel_mm": grid.pixel_mm * p.binning},
        "photons": p.photons,
    }
    return {
        "projections.npz": projections(np.stack(sinograms), acquisition, reference_placement),
        "reference.nrrd": volume(np.stack(references).astype(np.float32), reference_placement),
    }


def example() -> dict[str, Item]:
    """Three slices of a chest phantom, seen from 360 views; files of the task."""
    from ..anatomy.phantoms import phantom
    from ..params import validate

    ct = phantom("chest", seed=1, slices=3, size=512).volume()
    return simulate({"ct": ct}, validate(PARAMETERS, {"views": 360}), seed=1)


def measure(line_integrals: Any, photons: float, key: tuple[int, ...]) -> Any:
    """Poisson counts of I0 exp(-p), back to line integrals ln(I0 / max(counts, 1)) (protocol, section 3); keyed,
    float32."""
    import numpy as np
    import torch

    if photons == 0:
        return line_integrals
    rng = np.random.default_rng(list(key))
    counts = rng.poisson(photons * np.exp(-line_integrals.double().numpy()))
    return torch.from_numpy(np.log(photons / np.maximum(counts, 1)).astype(np.float32))


def _grids(ct: Grid, binning: int) -> tuple[Any, int, Any]:
    """Grid of the object (square, a multiple of `binning`), size and patient geometry of the reference."""
    import numpy as np

    from ..data import PatientGeometry
    from ..errors import InputError
    from ..physics.ct import ImageGrid

    rows, columns = ct.array.shape[1:]
    x, y, z = ct.spacing
    if rows != columns or abs(x - y) > 1e-3 * x:
        raise InputError(
            f"The input 'ct' has slices of {rows} × {columns} pixels of {x:g} × {y:g} mm, but square slices "
            "with square pixels "
            "are needed. Crop or resample it first."
        )
    size = rows // binning
    if size < 8:
        raise InputError(f"The input 'ct' has slices of {rows} × {rows} pixels, but at least {8 * binning} are needed.")
    geometry = ct.geometry
    assert geometry is not None
    directions = np.asarray(geometry.direction).reshape(3, 3)
    shift = directions[:, :2] @ np.array([x, y]) * (binning - 1) / 2
    origin = np.asarray(geometry.origin) + shift
    placed = PatientGeometry.from_itk((x * binning, y * binning, z), origin, geometry.direction)
    return ImageGrid(size * binning, size * binning, x), size, placed


def _geometry(grid: Any, p: Any) -> Any:
    from ..errors import InputError
    from ..physics.ct import Geometry

    gaps = p.views if p.range_deg >= 360 else p.views - 1
    angles = tuple(p.start_deg + k * p.range_deg / gaps for k in range(p.views))
    radius = grid.rows * grid.pixel_mm / 2
    if radius >= p.source_axis_mm:
        raise InputError(f"The slices reach {radius:g} mm from the axis, beyond the source at {p.source_axis_mm:g} mm.")
    needed = 2 * p.source_detector_mm * radius / (p.source_axis_mm**2 - radius**2) ** 0.5 / p.bins
    bin_mm = max(p.bin_mm, 1.02 * needed) if p.fit else p.bin_mm
    return Geometry("fan-flat", angles, p.bins, bin_mm, 0.0, p.source_axis_mm, p.source_detector_mm)


def _circle(side: int) -> Any:
    """1 inside the inscribed circle, 0 outside. float32 [side, side]."""
    import numpy as np

    x = np.arange(side) - (side - 1) / 2
    return (np.hypot(x[:, None], x) <= side / 2).astype(np.float32)

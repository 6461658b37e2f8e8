"""Slices of a volume on a grid of square pixels, and the scanner that measures them.

Slices in HU as stored [B, H, W] may have oblong pixels; physics needs square ones, centred on the rotation axis. A
network may need a coarser grid: pixels are then averaged in squares of `factor` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .ct import Geometry, ImageGrid, Projector, projector
from .fbp import fbp
from .metal import field_scale, metal_trace

PUBLISHED_LEVEL = 4.0  # upper limit of line integrals in a field of view of 15.36 cm
ISOTROPIC = 1e-3  # relative difference of pixel sides that still counts as square


@dataclass(frozen=True)
class Plane:
    """Slices as stored, and the grid of square pixels on which the physics runs: the same unless pixels are oblong.

    shape : rows and columns as stored; spacing : row and column pitch in mm; grid : square pixels of the smaller
    pitch."""

    shape: tuple[int, int]
    spacing: tuple[float, float]
    grid: ImageGrid

    @classmethod
    def of(cls, shape: tuple[int, int], spacing: tuple[float, float]) -> Plane:
        """The plane of slices with these rows and columns."""
        pixel = min(spacing)
        if max(spacing) / pixel - 1 < ISOTROPIC:
            return cls(shape, spacing, ImageGrid(*shape, pixel))
        rows, columns = (max(1, round(n * pitch / pixel)) for n, pitch in zip(shape, spacing, strict=True))
        return cls(shape, spacing, ImageGrid(rows, columns, pixel))

    @property
    def square(self) -> bool:
        """True where nothing is resampled."""
        return self.shape == (self.grid.rows, self.grid.columns)

    def to_grid(self, image: Tensor) -> Tensor:
        """[B, *shape] -> [B, rows, columns] of the grid."""
        extent = (self.grid.rows * self.grid.pixel_mm, self.grid.columns * self.grid.pixel_mm)
        own = (self.shape[0] * self.spacing[0], self.shape[1] * self.spacing[1])
        return image if self.square else _sampled(image, own, (self.grid.rows, self.grid.columns), extent)

    def from_grid(self, image: Tensor) -> Tensor:
        """[B, rows, columns] of the grid -> [B, *shape]."""
        extent = (self.grid.rows * self.grid.pixel_mm, self.grid.columns * self.grid.pixel_mm)
        own = (self.shape[0] * self.spacing[0], self.shape[1] * self.spacing[1])
        return image if self.square else _sampled(image, extent, self.shape, own)


def _sampled(image: Tensor, extent: tuple[float, float], shape: tuple[int, int], new: tuple[float, float]) -> Tensor:
    """Bicubic values [B, *shape] of images of one extent (mm) on a centred grid of another; edge values repeated."""
    ticks = [((torch.arange(n, device=image.device) + 0.5) / n * 2 - 1) * e / f
             for n, e, f in zip(shape, new, extent, strict=True)]
    y, x = torch.meshgrid(*ticks, indexing="ij")
    grid = torch.stack([x, y], -1).to(image.dtype).expand(len(image), -1, -1, -1)
    return F.grid_sample(image[:, None], grid, mode="bicubic", padding_mode="border", align_corners=False)[:, 0]


@dataclass(frozen=True)
class Scanner:
    """Projection and reconstruction of one geometry and grid, float32 on one device; mu in 1/mm."""

    geometry: Geometry
    grid: ImageGrid
    device: str
    margin: int

    def on(self, grid: ImageGrid) -> Scanner:
        """The same scanner with another image grid."""
        return replace(self, grid=grid)

    def project(self, mu: Tensor) -> Tensor:
        """[..., H, W] -> [..., V, D]."""
        return self.projector.forward(mu)

    def reconstruct(self, sinogram: Tensor) -> Tensor:
        """Filtered backprojection (ramp) [..., V, D] -> [..., H, W]."""
        return fbp(sinogram, self.geometry, self.grid)

    def trace(self, metal: Tensor) -> Tensor:
        """Rays that meet metal [..., H, W] (boolean), with the safety margin: boolean [..., V, D]."""
        return metal_trace(metal, self.projector, self.margin)

    @property
    def projector(self) -> Projector:
        """From the bounded cache of `physics.ct`."""
        return projector(self.geometry, self.grid, device=self.device)

    @property
    def level(self) -> float:
        """Published upper limit of line integrals, scaled with the field of view (A11 note, section 2.7)."""
        return PUBLISHED_LEVEL / field_scale(self.grid)


def coarse_factor(grid: ImageGrid, size: int) -> int:
    """How many pixels to average along each side so that no side exceeds `size`.

    Odd where a side is odd and must be reduced: then the coarse grid keeps the centre of the fine one."""
    factor = max(1, -(-max(grid.rows, grid.columns) // size))
    odd = grid.rows % 2 or grid.columns % 2
    return factor + 1 if factor % 2 == 0 and odd else factor


def coarse_grid(grid: ImageGrid, factor: int) -> ImageGrid:
    """The grid of averaged pixels; its sides are rounded up so that it covers the fine grid with the same centre."""
    rows, columns = (n + 2 * _padding(n, factor) for n in (grid.rows, grid.columns))
    return ImageGrid(rows // factor, columns // factor, grid.pixel_mm * factor)


def coarsen(image: Tensor, factor: int) -> Tensor:
    """Mean over squares of `factor` pixels; edge values repeated where the side is no multiple. [B, H, W]."""
    if factor == 1:
        return image
    vertical, horizontal = (_padding(n, factor) for n in image.shape[-2:])
    padded = F.pad(image[:, None], (horizontal, horizontal, vertical, vertical), mode="replicate")
    return F.avg_pool2d(padded, factor)[:, 0]


def refine(image: Tensor, factor: int, grid: ImageGrid) -> Tensor:
    """Bicubic values of a coarse image [B, h, w] on the fine `grid` [B, rows, columns]."""
    if factor == 1:
        return image
    fine = F.interpolate(image[:, None], scale_factor=factor, mode="bicubic", align_corners=False)[:, 0]
    vertical, horizontal = _padding(grid.rows, factor), _padding(grid.columns, factor)
    return fine[:, vertical : vertical + grid.rows, horizontal : horizontal + grid.columns]


def _padding(side: int, factor: int) -> int:
    """Pixels to add at each end so that `factor` divides the side."""
    return next(pad for pad in range(factor + 1) if (side + 2 * pad) % factor == 0)

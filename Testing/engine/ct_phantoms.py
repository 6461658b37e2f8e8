"""Analytic ellipses for tests of CT: exact line integrals and antialiased images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_backend.physics.ct import Geometry, ImageGrid
from diffusion_backend.physics.tables import rays

# centre x, y; half axes; angle in degrees; attenuation 1/mm. Lengths in units of the field of view's radius.
ELLIPSES = (
    (0.0, 0.0, 0.85, 0.7, 0.0, 0.02),
    (0.3, 0.2, 0.25, 0.12, 30.0, 0.01),
    (-0.35, -0.25, 0.15, 0.2, -60.0, -0.012),
)
DISC = ((0.15, -0.1, 0.6, 0.6, 0.0, 0.02),)


def _local(x: Tensor, y: Tensor, ellipse: tuple, radius: float, shift: bool) -> tuple[Tensor, Tensor]:
    """Coordinates in which the ellipse is the unit circle (`shift`: of points, else of directions)."""
    cx, cy, a, b, angle, _ = ellipse
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    if shift:
        x, y = x - cx * radius, y - cy * radius
    return (x * c + y * s) / (a * radius), (y * c - x * s) / (b * radius)


def line_integrals(geometry: Geometry, ellipses: tuple, radius: float) -> Tensor:
    """Exact projections, float64 [V, D]: chord of the unit circle along each ray, divided by the ray's local speed."""
    out = torch.zeros(geometry.views, geometry.bins, dtype=torch.float64)
    for v in range(geometry.views):
        ox, oy, dx, dy = rays(geometry, v)
        for e in ellipses:
            (px, py), (qx, qy) = _local(ox, oy, e, radius, True), _local(dx, dy, e, radius, False)
            speed = torch.hypot(qx, qy)
            distance = (px * qy - py * qx) / speed
            out[v] += e[5] * 2 * (1 - distance**2).clamp(min=0).sqrt() / speed
    return out


def image(grid: ImageGrid, ellipses: tuple, radius: float, fine: int = 8) -> Tensor:
    """Antialiased image, float64 [H, W]: mean of fine x fine samples per pixel."""
    dense = ImageGrid(grid.rows * fine, grid.columns * fine, grid.pixel_mm / fine)
    x, y = dense.coordinates_mm()
    out = torch.zeros_like(x)
    for e in ellipses:
        u, v = _local(x, y, e, radius, True)
        out += e[5] * (u * u + v * v <= 1)
    return out.view(grid.rows, fine, grid.columns, fine).mean((1, 3))

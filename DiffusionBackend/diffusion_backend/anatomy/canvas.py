"""A slice to paint on: coordinates in mm, soft-edged shapes, textures. Used by the generated phantoms.

x grows to the image's right (patient left), y grows downwards (posterior), the origin is the middle of the slice.
Shapes are signed distances in mm (negative inside), so that a shell is the same shape with an offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

CORTEX_HU = 1000.0


@dataclass
class Canvas:
    """One axial slice in HU [rows, columns]; `rng` drives its textures, `z` is its height in mm."""

    hu: np.ndarray
    x: np.ndarray
    y: np.ndarray
    pixel_mm: float
    z: float
    rng: np.random.Generator

    @classmethod
    def empty(cls, size: int, pixel_mm: float, z: float, rng: np.random.Generator) -> Canvas:
        axis = (np.arange(size) - (size - 1) / 2) * pixel_mm
        x, y = np.meshgrid(axis, axis)
        return cls(np.full((size, size), -1000.0), x, y, pixel_mm, z, rng)

    def oval(self, cx: float, cy: float, rx: float, ry: float, *, tilt: float = 0.0, power: float = 2.0,
             wobble: np.ndarray | None = None) -> np.ndarray:
        """Superellipse around (cx, cy), half axes rx, ry in mm, tilted by degrees clockwise on the image.

        wobble : amplitudes and phases [n, 2] of harmonics 2, 3, ... of the radius, relative."""
        t = np.deg2rad(tilt)
        u = (self.x - cx) * np.cos(t) + (self.y - cy) * np.sin(t)
        v = -(self.x - cx) * np.sin(t) + (self.y - cy) * np.cos(t)
        radius = ((np.abs(u) / rx) ** power + (np.abs(v) / ry) ** power) ** (1 / power)
        if wobble is not None:
            angle = np.arctan2(v, u)
            radius = radius / (1 + sum(a * np.cos((n + 2) * angle + p) for n, (a, p) in enumerate(wobble)))
        return (radius - 1) * min(rx, ry)

    def band(self, points: np.ndarray, half_width: float | np.ndarray) -> np.ndarray:
        """Neighbourhood of a curve given by points [n, 2] in mm, of one half width or one for each point."""
        width = np.broadcast_to(np.asarray(half_width, dtype=float), len(points))
        result = np.full(self.x.shape, np.inf)
        for (px, py), w in zip(points, width):
            np.minimum(result, np.hypot(self.x - px, self.y - py) - w, out=result)
        return result

    def paint(self, distance: np.ndarray, value: float | np.ndarray, within: np.ndarray | None = None,
              soft_mm: float | None = None) -> None:
        """Fill a shape; its edge is a ramp one pixel wide or `soft_mm`; `within` cuts it to another shape."""
        if within is not None:
            distance = np.maximum(distance, within)
        share = np.clip(0.5 - distance / (soft_mm or self.pixel_mm), 0, 1)
        self.hu += share * (value - self.hu)

    def bone(self, distance: np.ndarray, shell_mm: float = 2.0, inner: float = 260.0, cortex: float = CORTEX_HU,
             within: np.ndarray | None = None) -> None:
        """Cortical shell with trabecular inside."""
        self.paint(distance, cortex, within)
        trabeculae = inner + self.texture(1.0, 45.0) + self.texture(4.0, 30.0)
        self.paint(distance + shell_mm, trabeculae, within, soft_mm=1.5 * self.pixel_mm)

    def texture(self, scale_mm: float, deviation: float) -> np.ndarray:
        """Gaussian random field of zero mean: correlation length in mm, standard deviation in HU."""
        white = self.rng.standard_normal(self.hu.shape)
        noise = gaussian_filter(white, max(scale_mm / self.pixel_mm, 0.3), mode="wrap")
        return noise * (deviation / noise.std())


def wobble(rng: np.random.Generator, amplitude: float, count: int = 4) -> np.ndarray:
    """Random harmonics for `Canvas.oval`: amplitudes fall with the order; [count, 2]."""
    sizes = amplitude * rng.uniform(0.3, 1.0, count) / (1 + np.arange(count))
    return np.stack((sizes, rng.uniform(0, 2 * np.pi, count)), axis=1)


def arc(cx: float, cy: float, rx: float, ry: float, first: float, last: float, count: int = 40) -> np.ndarray:
    """Points [count, 2] on an ellipse from angle `first` to `last`, degrees, clockwise from the image's right."""
    t = np.deg2rad(np.linspace(first, last, count))
    return np.stack((cx + rx * np.cos(t), cy + ry * np.sin(t)), axis=1)


def line(x0: float, y0: float, x1: float, y1: float, count: int = 16) -> np.ndarray:
    """Points [count, 2] on a straight line."""
    return np.stack((np.linspace(x0, x1, count), np.linspace(y0, y1, count)), axis=1)


def globe(radius: float, height: float, length: float) -> float:
    """Relative cross-section 0 ... 1 of an ellipsoid of half length `length` at `height` (radius 1 in the middle)."""
    return radius * float(np.sqrt(max(0.0, 1 - (height / length) ** 2)))

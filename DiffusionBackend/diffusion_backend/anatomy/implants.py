"""Generated metal implants: solids in mm, sites in a CT volume, and their volume fraction per voxel.

Coordinates: (x, y, z) in mm from the middle of the volume, x along columns, y along rows (down), z along slices.
Sizes follow common implants: hip head 28-36 mm, stem 12-16 mm, pedicle screw 5-7 mm, rod 5.5-6 mm, filling 5-9 mm,
clip 3-5 mm long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

KINDS = ("hip", "stem", "screw", "rod", "filling", "clip")
USUAL_METAL = {"hip": "cocrmo", "stem": "ti6al4v", "screw": "ti6al4v", "rod": "ti6al4v", "filling": "amalgam",
               "clip": "titanium"}
BONE_HU, TOOTH_HU, BODY_HU = 180.0, 1300.0, -300.0
HIP_ROOM_MM = 18.0                          # bone this thick in a slice is taken for a femoral head
FINE = 4                                    # sub-samples per pixel in each direction when a solid is rasterised


@dataclass(frozen=True)
class Capsule:
    """Round rod from p to q, radius `start` at p to `end` at q, in mm; a ball where p = q."""

    p: tuple[float, float, float]
    q: tuple[float, float, float]
    start: float
    end: float

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Signed distance in mm, negative inside (linear taper: distance to the axis minus the local radius)."""
        p, axis = np.array(self.p), np.subtract(self.q, self.p)
        length = float(axis @ axis)
        t = 0.0
        if length > 0:
            t = np.clip(((x - p[0]) * axis[0] + (y - p[1]) * axis[1] + (z - p[2]) * axis[2]) / length, 0, 1)
        away = np.sqrt((x - p[0] - t * axis[0]) ** 2 + (y - p[1] - t * axis[1]) ** 2 + (z - p[2] - t * axis[2]) ** 2)
        return away - (self.start + t * (self.end - self.start))

    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner (x, y, z) in mm."""
        r = max(self.start, self.end)
        return np.minimum(self.p, self.q) - r, np.maximum(self.p, self.q) + r


@dataclass(frozen=True)
class Prism:
    """An outline (grey image 0 ... 1, any size) of mean diameter `diameter` mm, turned by `turn` degrees about the
    centre, `height` mm high."""

    outline: np.ndarray
    centre: tuple[float, float, float]
    diameter: float
    turn: float
    height: float

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Pseudo-distance: negative inside, zero at half grey, steep, so that sub-sampling alone softens the edge."""
        pitch = self.diameter / (2 * np.sqrt(self.outline.sum() / np.pi))
        c, s = np.cos(np.deg2rad(self.turn)), np.sin(np.deg2rad(self.turn))
        u, v = x - self.centre[0], y - self.centre[1]
        rows, columns = np.array(self.outline.shape) / 2 - 0.5
        grey = ndimage.map_coordinates(self.outline.astype(float), [rows + (c * v - s * u) / pitch,
                                                                    columns + (c * u + s * v) / pitch], order=1)
        return np.maximum((0.5 - grey) * self.diameter, np.abs(z - self.centre[2]) - self.height / 2)

    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner (x, y, z) in mm."""
        half = np.array([self.diameter, self.diameter, self.height / 2])
        return np.array(self.centre) - half, np.array(self.centre) + half


Solid = Capsule | Prism


def implant(kind: str, site: tuple[float, float, float], room_mm: float, rng: np.random.Generator) -> list[Solid]:
    """Solids of one implant at `site`; `room_mm`: distance from the site to the edge of the tissue that holds it."""
    x, y, z = site
    if kind == "hip":
        head = min(rng.uniform(14, 18), max(9.0, 0.9 * room_mm))
        side = 1.0 if x > 0 else -1.0                       # the neck points away from the middle of the body
        neck = (x + side * 1.9 * head, y + rng.uniform(2, 8), z - 1.6 * head)
        shaft = (neck[0] + side * 3, neck[1], neck[2] - 120)
        return [Capsule(site, site, head, head), Capsule(site, neck, 6.5, 7.0), Capsule(neck, shaft, 8.0, 6.0)]
    if kind == "stem":
        radius = min(rng.uniform(6, 8), max(4.0, 0.8 * room_mm))
        lean = rng.uniform(-4, 4, 2)
        return [Capsule((x + lean[0], y + lean[1], z + 60), (x - lean[0], y - lean[1], z - 80), radius, 0.75 * radius)]
    if kind == "screw":
        angle, rise = rng.uniform(0, 2 * np.pi), rng.uniform(-0.15, 0.15)
        axis, half = np.array([np.cos(angle), np.sin(angle), rise]), rng.uniform(16, 22)
        p, q = (np.array(site) + s * half * axis for s in (-1, 1))
        radius = rng.uniform(2.5, 3.5)
        cap = tuple(p - 3.0 * axis)
        return [Capsule(tuple(p), tuple(q), radius, 0.7 * radius), Capsule(cap, tuple(p), 1.8 * radius, 1.8 * radius)]
    if kind == "rod":
        lean = rng.uniform(-6, 6, 2)
        return [Capsule((x + lean[0], y + lean[1], z + 60), (x - lean[0], y - lean[1], z - 60), 2.9, 2.9)]
    if kind == "filling":
        parts = [np.array(site) + rng.uniform(-1.5, 1.5, 3) for _ in range(2)]
        radius = rng.uniform(2.0, 3.2)
        return [Capsule(tuple(parts[0]), tuple(parts[1]), radius, 0.8 * radius)]
    if kind == "clip":
        angle, half = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 2.5)
        dx, dy = half * np.cos(angle), half * np.sin(angle)
        return [Capsule((x - dx, y - dy, z), (x + dx, y + dy, z + 1), 0.8, 0.8)]
    raise ValueError(f"The implant is '{kind}', but must be one of {', '.join(KINDS)}.")


def rasterise(solids: list[Solid], shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Volume fraction 0 ... 1 per voxel (k, j, i), float32; spacing (x, y, z). Mean of FINE^2 points in the plane and
    of points about 1 mm apart through the slice."""
    result = np.zeros(shape, np.float32)
    fine_z = max(1, round(spacing_mm[2]))
    for solid in solids:
        low, high = solid.box()
        spans = []
        for n, pitch, a, b in zip(reversed(shape), spacing_mm, low, high):
            spans.append((max(0, int(np.floor(a / pitch + n / 2))), min(n, int(np.ceil(b / pitch + n / 2)))))
        if any(a >= b for a, b in spans):
            continue
        ticks = [(np.arange((b - a) * m) + 0.5) / m * pitch + (a - n / 2) * pitch for (a, b), m, pitch, n
                 in zip(spans, (FINE, FINE, fine_z), spacing_mm, reversed(shape))]
        (i0, i1), (j0, j1), (k0, k1) = spans
        y, x = np.meshgrid(ticks[1], ticks[0], indexing="ij")
        edge = min(spacing_mm[:2]) / FINE
        for k in range(k0, k1):
            planes = [np.clip(0.5 - solid.distance(x, y, np.asarray(z)) / edge, 0, 1)
                      for z in ticks[2][(k - k0) * fine_z:(k - k0 + 1) * fine_z]]
            share = np.mean(planes, axis=0).reshape(j1 - j0, FINE, i1 - i0, FINE).mean((1, 3))
            np.maximum(result[k, j0:j1, i0:i1], share, out=result[k, j0:j1, i0:i1])
    return result


def usual_implant(slice_hu: np.ndarray, pixel_mm: float) -> str:
    """What may be found in this slice: fillings where teeth are, a hip where bone is thick, a screw otherwise."""
    if np.count_nonzero(ndimage.binary_opening(slice_hu > TOOTH_HU)) * pixel_mm ** 2 > 60:
        return "filling"
    return "hip" if _room(slice_hu, "hip", pixel_mm).max() > HIP_ROOM_MM else "screw"


def find_sites(volume_hu: np.ndarray, spacing_mm: tuple[float, float, float], kind: str, count: int,
               rng: np.random.Generator) -> list[tuple[tuple[float, float, float], float]]:
    """Up to `count` sites with their room in mm, in slices of the middle half of the volume; [] if nothing fits.

    Hips sit at the thickest bone of each half of the body, fillings in teeth, other implants anywhere in bone, clips in
    soft tissue."""
    slices, rows, columns = volume_hu.shape
    middle = range(slices // 4, max(slices // 4 + 1, slices - slices // 4))
    found: list[tuple[tuple[float, float, float], float]] = []
    common = slices // 2                                     # paired implants lie at one height
    for _ in range(count):
        k = common if kind in ("hip", "stem", "rod") else int(rng.choice(middle))
        room = _room(volume_hu[k], kind, spacing_mm[0])
        x = (np.arange(columns) - (columns - 1) / 2) * spacing_mm[0]
        y = (np.arange(rows) - (rows - 1) / 2) * spacing_mm[1]
        for (sx, sy, _), size in found:
            room[np.hypot(y[:, None] - sy, x - sx) < max(12.0, 2 * size)] = 0
        least = {"hip": 9.0, "stem": 5.0, "clip": 8.0, "filling": 1.0}.get(kind, 3.0)
        if room.max() < least:
            break
        weight = (np.maximum(room - least, 1e-6) * (room >= least)).ravel() ** (40 if kind == "hip" else 1)
        j, i = np.unravel_index(rng.choice(weight.size, p=weight / weight.sum()), room.shape)
        found.append(((float(x[i]), float(y[j]), (k - (slices - 1) / 2) * spacing_mm[2]), float(room[j, i])))
    return found


def _room(slice_hu: np.ndarray, kind: str, pixel_mm: float) -> np.ndarray:
    """Distance in mm to the edge of the tissue that may hold the implant, [rows, columns]; 0 elsewhere."""
    if kind == "clip":
        tissue = ndimage.binary_opening((slice_hu > -50) & (slice_hu < 200), iterations=2)
    elif kind == "filling":
        tissue = slice_hu > TOOTH_HU
        if not tissue.any():
            tissue = slice_hu > 2.5 * BONE_HU
    else:
        solid = ndimage.binary_closing(slice_hu > BONE_HU, iterations=2)
        tissue = ndimage.binary_opening(ndimage.binary_fill_holes(solid), iterations=1)
    body = np.asarray(ndimage.binary_fill_holes(slice_hu > BODY_HU), bool)
    inside = np.asarray(tissue, bool) & body
    return np.asarray(ndimage.distance_transform_edt(inside)) * pixel_mm

"""Generated anatomical CT phantoms in HU: head-neck, chest, abdomen, pelvis. No patient data in them.

Painted from soft-edged analytic shapes with seeded variation of sizes and places; organs, bones with cortex and
trabeculae, vessels, gas, textures. For demonstrations and tests, not a model of anatomy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..data import Grid, PatientGeometry, volume
from .canvas import Canvas, arc, globe, line, wobble

REGIONS = ("head-neck", "chest", "abdomen", "pelvis")
FIELD_MM = {"head-neck": 240.0, "chest": 400.0, "abdomen": 400.0, "pelvis": 420.0}
NOISE_HU = 7.0


@dataclass(frozen=True)
class Phantom:
    """HU (k, j, i) float32; pixel and slice pitch in mm; places: names of sites for implants -> (x, y, z, radius) in mm
    from the middle of the volume, x to the image's right, y down, z along the slices."""

    hu: np.ndarray
    pixel_mm: float
    slice_mm: float
    places: dict[str, tuple[float, float, float, float]]

    def volume(self) -> Grid:
        """Rounded HU (k, j, i) int16, axial, centred on the patient's origin."""
        spacing = (self.pixel_mm, self.pixel_mm, self.slice_mm)
        origin = [-(n - 1) / 2 * s for n, s in zip(reversed(self.hu.shape), spacing)]
        geometry = PatientGeometry.from_itk(spacing, origin, np.eye(3).ravel())
        return volume(np.round(self.hu).astype(np.int16), geometry)


def phantom(region: str, *, seed: int, slices: int = 1, size: int = 256, slice_mm: float = 3.0) -> Phantom:
    """A phantom of `region`: `slices` axial slices of size x size pixels around the middle of the region."""
    if region not in REGIONS:
        raise ValueError(f"The region is '{region}', but must be one of {', '.join(REGIONS)}.")
    pixel_mm = FIELD_MM[region] / size
    heights = (np.arange(slices) - (slices - 1) / 2) * slice_mm
    planes, places = [], {}
    for k, z in enumerate(heights):
        canvas = Canvas.empty(size, pixel_mm, float(z), np.random.default_rng((seed, 1, k)))
        places = PAINTERS[region](canvas, np.random.default_rng((seed, 0)))      # same patient in every slice
        body = np.clip((canvas.hu + 990) / 100, 0, 1)
        canvas.hu += canvas.texture(0.6, NOISE_HU) * (0.3 + 0.7 * body)
        planes.append(np.maximum(canvas.hu, -1024))
    return Phantom(np.stack(planes).astype(np.float32), pixel_mm, slice_mm, places)


def _vertebra(c: Canvas, rng: np.random.Generator, cx: float, cy: float, size: float, *, spread: float = 1.0) -> None:
    """Vertebra with body, canal, arch and processes; between two bodies the disc. `size`: half width in mm."""
    phase = (c.z / 30.0 + 0.5) % 1.0                        # a body 24 mm high and a disc of 6 mm
    disc = phase < 0.1 or phase > 0.9
    body = c.oval(cx, cy, size, 0.75 * size, power=2.3, wobble=wobble(rng, 0.03))
    arch = arc(cx, cy + 1.15 * size, 0.62 * size, 0.62 * size, -25, 205)
    c.paint(c.oval(cx, cy + 1.1 * size, 0.55 * size, 0.5 * size), 20)
    c.bone(c.band(arch, 0.16 * size), 1.3, 350)
    for side in (-1, 1):
        process = line(cx + side * 0.6 * size, cy + 0.95 * size, cx + side * 1.7 * size * spread, cy + 1.35 * size)
        c.bone(c.band(process, 0.15 * size), 1.2, 300)
        pedicle = line(cx + side * 0.55 * size, cy + 0.55 * size, cx + side * 0.62 * size, cy + size)
        c.bone(c.band(pedicle, 0.18 * size), 1.3)
    c.bone(c.band(line(cx, cy + 1.7 * size, cx, cy + 2.6 * size), 0.14 * size), 1.3, 300)
    c.paint(c.oval(cx, cy + 1.12 * size, 0.36 * size, 0.3 * size), 38)
    if disc:
        c.paint(body, 85 + c.texture(2, 8))
    else:
        c.bone(body, 1.8, 190)


def _vessel(c: Canvas, cx: float, cy: float, radius: float, value: float) -> None:
    """A vessel across the slice, with a thin wall."""
    c.paint(c.oval(cx, cy, radius + 1, radius + 1), 45)
    c.paint(c.oval(cx, cy, radius, radius), value)


def _muscles(c: Canvas, parts: list[tuple[float, float, float, float, float]], rng: np.random.Generator) -> None:
    """Pairs of muscles (x, y, rx, ry, tilt), mirrored; fat streaks come from their gaps."""
    for x, y, rx, ry, tilt in parts:
        for side in (-1, 1):
            shape = c.oval(side * x, y, rx, ry, tilt=side * tilt, power=2.4, wobble=wobble(rng, 0.08))
            c.paint(shape, 56 + c.texture(2.5, 9), soft_mm=2 * c.pixel_mm)


def _trunk(c: Canvas, rng: np.random.Generator, rx: float, ry: float, fat: float, wall: float) -> np.ndarray:
    """Skin, subcutaneous fat, muscular wall; returns the distance to the inner side of the wall."""
    shape = wobble(rng, 0.02)
    outline = c.oval(0, 0, rx, ry, power=2.5, wobble=shape)
    c.paint(outline, 10)
    c.paint(outline + 2.0, -105 + c.texture(5, 7))
    inner = c.oval(0, -1, rx - fat, ry - 0.8 * fat, power=2.4, wobble=shape)
    c.paint(inner, 52 + c.texture(2.5, 8))
    cavity = c.oval(0, -3, rx - fat - wall, ry - 0.8 * fat - 1.1 * wall, power=2.3, wobble=shape)
    c.paint(cavity, -100 + c.texture(4, 8))
    return cavity


def _back(c: Canvas, rng: np.random.Generator, y: float) -> None:
    """Erector muscles beside the spine, with a fat plane behind it."""
    c.paint(c.oval(0, y + 12, 62, 15, power=3), -95 + c.texture(4, 8))
    _muscles(c, [(26, y + 10, 22, 17, 12), (54, y + 6, 15, 13, -20)], rng)


def _chest(c: Canvas, rng: np.random.Generator) -> dict:
    rx, ry = rng.uniform(158, 176), rng.uniform(106, 118)
    cavity = _trunk(c, rng, rx, ry, rng.uniform(9, 17), 15)
    c.paint(cavity, 35)
    _back(c, rng, ry - 47)
    lungs = [c.oval(side * 0.44 * rx, -4, 0.385 * rx, 0.70 * ry, power=2.4, tilt=side * 7, wobble=wobble(rng, 0.05))
             for side in (-1, 1)]
    for lung in lungs:
        c.paint(lung, -850 + c.texture(2.0, 22) + c.texture(12, 18) + 0.5 * c.y)
    _lung_vessels(c, rng, lungs, rx, ry)
    c.paint(c.oval(0, 2, 0.21 * rx, 0.62 * ry, power=2.2, wobble=wobble(rng, 0.06)), -95 + c.texture(3, 9))
    heart = c.oval(0.17 * rx, -0.16 * ry, 0.36 * rx, 0.36 * ry, tilt=32, wobble=wobble(rng, 0.04))
    c.paint(heart, -85)
    c.paint(heart + 4, 55 + c.texture(3, 6))
    for dx, dy, size in ((0.20, -0.20, 0.15), (0.04, -0.08, 0.13), (0.30, -0.10, 0.12)):
        c.paint(c.oval(dx * rx, dy * ry, size * rx, size * 0.9 * ry, tilt=30, wobble=wobble(rng, 0.08)), 150, soft_mm=3)
    spine = 0.56 * ry
    c.paint(c.oval(0, spine + 4, 26, 26), 40)
    _vessel(c, 0.17 * rx, 0.40 * ry, rng.uniform(11, 14), 165)
    _vessel(c, -0.05 * rx, -0.30 * ry, 9, 155)
    c.paint(c.oval(0.02 * rx, 0.32 * ry, 7, 5), 40)
    for side in (-1, 1):
        c.paint(c.oval(side * 14, 0.12 * ry, 6.5, 5.5), 40)
        c.paint(c.oval(side * 14, 0.12 * ry, 5, 4), -990)
    _vertebra(c, rng, 0, spine, 17)
    _ribs(c, rng, rx, ry)
    c.bone(c.oval(0, -0.86 * ry, 20, 6, power=2.6), 1.3, 180)
    return {"vertebra": (0.0, spine, 0.0, 15.0), "heart": (0.17 * rx, -0.16 * ry, 0.0, 30.0),
            "sternum": (0.0, -0.86 * ry, 0.0, 5.0)}


def _ribs(c: Canvas, rng: np.random.Generator, rx: float, ry: float) -> None:
    """Ribs cut obliquely (they wander along the wall with z), scapulae behind them."""
    shift = rng.uniform(0, 30) + 1.2 * c.z
    for side in (-1, 1):
        for n in range(8):
            middle = -62 + (n * 24 + shift) % 140
            length = rng.uniform(7, 12)
            curve = arc(0, -1, 0.86 * rx, 0.83 * ry, middle - length / 2, middle + length / 2, 16)
            c.bone(c.band(curve * (side, 1), rng.uniform(3.2, 4.4)), 1.3, 200)
        blade = np.concatenate((line(0.62 * rx, 0.74 * ry, 0.80 * rx, 0.52 * ry), line(0.80 * rx, 0.52 * ry, 0.86 * rx,
                                                                                       0.36 * ry)))
        c.bone(c.band(blade * (side, 1), 2.6), 1.2, 400)


def _lung_vessels(c: Canvas, rng: np.random.Generator, lungs: list, rx: float, ry: float) -> None:
    """Vessels from the hilum outwards: thick and few near it, thin and many far away; some run in the slice."""
    for side, lung in zip((-1, 1), lungs):
        for _ in range(70):
            reach, angle = rng.uniform(0.08, 1.0), rng.uniform(-1.5, 1.5)
            px = side * rx * (0.16 + 0.62 * reach * np.cos(angle))
            py = ry * (0.05 + 0.72 * reach * np.sin(angle))
            drift, size = rng.uniform(-0.6, 0.6, 2), (3.8 * (1 - reach) + 0.7) * rng.uniform(0.6, 1.3)
            px, py = px + drift[0] * c.z, py + drift[1] * c.z
            if rng.random() < 0.3:
                end = (px + side * rng.uniform(6, 18), py + rng.uniform(-9, 9))
                shape = c.band(line(px, py, *end, 12), np.linspace(size, 0.4 * size, 12) * 0.7)
            else:
                shape = c.oval(px, py, size, size * 0.8, tilt=rng.uniform(0, 180))
            c.paint(shape, 40, within=lung + 2, soft_mm=1.5 * c.pixel_mm)


def _abdomen(c: Canvas, rng: np.random.Generator) -> dict:
    rx, ry = rng.uniform(152, 172), rng.uniform(100, 114)
    cavity = _trunk(c, rng, rx, ry, rng.uniform(13, 24), 14)
    spine = 0.42 * ry
    _back(c, rng, ry - 45)
    _muscles(c, [(36, spine + 8, 15, 17, 0)], rng)
    liver = c.oval(-0.40 * rx, -0.12 * ry, 0.40 * rx, 0.58 * ry, tilt=-18, power=2.2, wobble=wobble(rng, 0.07))
    lobe = c.oval(-0.08 * rx, -0.44 * ry, 0.30 * rx, 0.22 * ry, tilt=-12, wobble=wobble(rng, 0.08))
    c.paint(np.minimum(liver, lobe), 105 + c.texture(2, 6), within=cavity + 1)
    for _ in range(16):
        px, py = -rng.uniform(0.15, 0.65) * rx, rng.uniform(-0.45, 0.25) * ry
        c.paint(c.oval(px, py, rng.uniform(2, 6), rng.uniform(1.5, 3), tilt=rng.uniform(0, 180)),
                150, within=liver + 6, soft_mm=2 * c.pixel_mm)
    spleen = c.oval(0.62 * rx, 0.12 * ry, 0.15 * rx, 0.36 * ry, tilt=14, wobble=wobble(rng, 0.08))
    c.paint(spleen, 118 + c.texture(2, 6), within=cavity + 1)
    _stomach(c, rng, rx, ry, cavity)
    pancreas = c.oval(0.05 * rx, -0.04 * ry, 0.27 * rx, 0.10 * ry, tilt=-14, wobble=wobble(rng, 0.15))
    c.paint(pancreas, 90 + c.texture(2, 14))
    _bowel(c, rng, rx, ry, cavity)
    for side in (-1, 1):
        kidney = c.oval(side * 0.40 * rx, 0.42 * ry, 0.15 * rx, 0.25 * ry, tilt=side * -25, wobble=wobble(rng, 0.05))
        c.paint(kidney - 3, -100, within=cavity)
        c.paint(kidney, 175 + c.texture(1.5, 8))
        c.paint(kidney + 9, 135 + c.texture(2, 12), soft_mm=3)
        c.paint(c.oval(side * 0.36 * rx, 0.42 * ry, 0.045 * rx, 0.1 * ry, tilt=side * -25), -60, soft_mm=3)
    _vessel(c, 4, spine - 24, rng.uniform(9, 11.5), 175)
    _vessel(c, -19, spine - 21, rng.uniform(9, 12), 140)
    _vertebra(c, rng, 0, spine, 21, spread=1.1)
    return {"vertebra": (0.0, spine, 0.0, 18.0), "liver": (-0.4 * rx, -0.1 * ry, 0.0, 30.0)}


def _stomach(c: Canvas, rng: np.random.Generator, rx: float, ry: float, cavity: np.ndarray) -> None:
    """Wall, fluid and an air-fluid level (the patient lies on the back)."""
    stomach = c.oval(0.36 * rx, -0.36 * ry, 0.26 * rx, 0.27 * ry, tilt=24, wobble=wobble(rng, 0.08))
    c.paint(stomach, 75, within=cavity + 2)
    c.paint(stomach + 5, 15 + c.texture(3, 10), within=cavity + 6)
    level = -0.40 * ry + rng.uniform(-6, 6)
    c.paint(np.maximum(stomach + 5, c.y - level), -990, within=cavity + 6)


def _bowel(c: Canvas, rng: np.random.Generator, rx: float, ry: float, cavity: np.ndarray) -> None:
    """Loops of bowel with wall, content and gas on the left and in front."""
    for _ in range(13):
        px, py, r = rng.uniform(-0.15, 0.62) * rx, rng.uniform(-0.62, 0.3) * ry, rng.uniform(8, 15)
        if px < 0.45 * rx and py < -0.25 * ry:
            continue                                        # the stomach lies there
        loop = c.oval(px, py, r, r * rng.uniform(0.7, 1.0), tilt=rng.uniform(0, 180), wobble=wobble(rng, 0.1))
        c.paint(loop, 80, within=cavity + 3)
        c.paint(loop + 2.5, rng.uniform(5, 45) + c.texture(2, 15), within=cavity + 5)
        if rng.random() < 0.45:
            c.paint(np.maximum(loop + 3, c.y - py + 0.2 * r), -950, within=cavity + 6)


def _pelvis(c: Canvas, rng: np.random.Generator) -> dict:
    rx, ry = rng.uniform(168, 184), rng.uniform(104, 118)
    outline = c.oval(0, 0, rx, ry, power=2.6, wobble=wobble(rng, 0.015))
    c.paint(outline, 10)
    c.paint(outline + 2, -105 + c.texture(5, 7))
    hip, radius = rng.uniform(84, 91), rng.uniform(22.5, 25.5)
    _muscles(c, [(0.60 * rx, 0.50 * ry, 46, 22, -30), (0.34 * rx, 0.66 * ry, 40, 19, 8),
                 (0.78 * rx, -0.05 * ry, 14, 36, 8), (0.66 * rx, -0.46 * ry, 19, 21, 20),
                 (0.47 * rx, -0.56 * ry, 16, 15, 0), (0.33 * rx, -0.34 * ry, 17, 14, 30),
                 (0.60 * rx, -0.26 * ry, 17, 12, 15), (0.26 * rx, 0.10 * ry, 9, 38, -8)], rng)
    c.paint(c.oval(0, -0.02 * ry, 0.20 * rx, 0.62 * ry, power=2.2), -98 + c.texture(4, 8))
    _pelvic_organs(c, rng, ry)
    for side in (-1, 1):
        _hip(c, rng, side, hip, radius)
        _vessel(c, side * 0.40 * rx, -0.62 * ry, 5, 130)
        _vessel(c, side * 0.36 * rx, -0.56 * ry, 6, 110)
    tail = arc(0, 0.40 * ry, 26, 0.26 * ry, 30, 150)
    c.bone(c.band(tail, 5.0), 1.6, 170)
    return {"left hip": (hip, 0.0, 0.0, radius), "right hip": (-hip, 0.0, 0.0, radius),
            "sacrum": (0.0, 0.64 * ry, 0.0, 6.0)}


def _pelvic_organs(c: Canvas, rng: np.random.Generator, ry: float) -> None:
    """Bladder, uterus or prostate, rectum with gas."""
    scale = globe(1.0, c.z - 10, 60)
    bladder = c.oval(rng.uniform(-5, 5), -0.28 * ry, 40 * scale + 3, 27 * scale + 3, power=2.3,
                     wobble=wobble(rng, 0.05))
    c.paint(bladder, 45)
    c.paint(bladder + 3.5, 6 + c.texture(3, 4))
    c.paint(c.oval(0, 0.08 * ry, 25, 14, wobble=wobble(rng, 0.08)), 62 + c.texture(2, 10))
    rectum = c.oval(rng.uniform(-4, 4), 0.40 * ry, 17, 13, wobble=wobble(rng, 0.08))
    c.paint(rectum, 50)
    c.paint(rectum + 3.5, 20 + c.texture(2, 25))
    c.paint(c.oval(rng.uniform(-4, 4), 0.36 * ry, 7, 4.5, wobble=wobble(rng, 0.2)), -950, within=rectum + 4)


def _hip(c: Canvas, rng: np.random.Generator, side: int, hip: float, radius: float) -> None:
    """Acetabulum with two columns, femoral head (a sphere), neck and greater trochanter."""
    cx = side * hip
    opening = 62
    cup = arc(cx, 0, radius + 7, radius + 7, 180 - 90 - opening / 2 + 8, 180 + 90 + opening / 2 - 8)
    if side < 0:
        cup = cup * (-1, 1) + (2 * cx, 0)
    widths = 4.0 + 5.5 * np.abs(np.linspace(-1, 1, len(cup))) ** 2
    c.bone(c.band(cup, widths), 1.8, 230)
    pubis = line(cx - side * (radius + 4), -radius * 0.7, side * 12, -radius * 1.55, 20)
    c.bone(c.band(pubis, np.linspace(7, 8.5, 20)), 1.7, 200)
    spine = line(cx - side * (radius + 5), radius * 0.75, cx - side * (radius + 9), radius * 1.7, 12)
    c.bone(c.band(spine, np.linspace(8, 5, 12)), 1.7, 200)
    trochanter = globe(1.0, c.z + 12, 34)
    if trochanter > 0.25:
        bump = c.oval(cx + side * 45, 12, 14 * trochanter, 18 * trochanter, tilt=side * 20, wobble=wobble(rng, 0.05))
        c.bone(bump, 2.0, 180)
        neck = line(cx, 2, cx + side * 42, 10, 20)
        c.bone(c.band(neck, 12.5 * trochanter), 2.6, 230)
    head = globe(radius, c.z, radius)
    if head > 2:
        c.paint(c.oval(cx, 0, head + 2.5, head + 2.5), 45)
        c.bone(c.oval(cx, 0, head, head), 1.6, 330)
        base = c.oval(cx + side * 0.6 * head, 4, 0.55 * head, 0.4 * head, tilt=side * 12)
        c.paint(base, 300 + c.texture(1, 45), soft_mm=6)


def _head_neck(c: Canvas, rng: np.random.Generator) -> dict:
    rx, ry = rng.uniform(66, 74), rng.uniform(84, 92)
    outline = c.oval(0, 2, rx, ry, power=2.3, wobble=wobble(rng, 0.02))
    c.paint(outline, 20)
    c.paint(outline + 2, -90 + c.texture(3, 10))
    _muscles(c, [(34, 58, 20, 15, -25), (13, 62, 11, 15, 0), (17, 47, 13, 8, 20), (48, 34, 10, 19, 25),
                 (52, -8, 8, 22, 6), (36, -3, 7, 17, 12)], rng)
    for side in (-1, 1):
        c.paint(c.oval(side * 54, 18, 11, 17, tilt=side * 15, wobble=wobble(rng, 0.12)), -15 + c.texture(1.5, 25))
        _vessel(c, side * 30, 25, 3.2, 160)
        _vessel(c, side * 36, 30, 5.0, 140)
    tongue = c.oval(0, -28, 30, 36, power=2.3, wobble=wobble(rng, 0.05))
    c.paint(tongue, 55 + c.texture(2, 12))
    c.paint(c.oval(0, -26, 1.5, 24), -20, soft_mm=3)
    pharynx = c.oval(0, 14, 19, 9, power=2.5, wobble=wobble(rng, 0.1))
    c.paint(pharynx - 4, 60)
    c.paint(pharynx, -990)
    c.paint(c.oval(0, 26, 26, 5), 55)
    _vertebra(c, rng, 0, 36, 10.5, spread=0.85)
    return _jaw(c, rng, ry)


def _jaw(c: Canvas, rng: np.random.Generator, ry: float) -> dict:
    """Mandible as a parabola with rami, teeth on its inner side (only around the bite plane), and their places."""
    t = np.linspace(-1, 1, 60)
    front, back, half = -0.80 * ry, 8.0, rng.uniform(44, 48)
    across = half * np.sin(t * np.pi / 2) * (0.86 + 0.14 * np.abs(t))
    curve = np.stack((across, front + (back - front) * np.abs(t) ** 2.1), 1)
    c.bone(c.band(curve, 5.0 + 0.8 * np.abs(t)), 2.2, 300, cortex=1350)
    places = {}
    reach = globe(1.0, c.z, 12)
    for n in range(14):
        s = (n - 6.5) / 7.0 * 0.80
        px = (half - 1.5) * np.sin(s * np.pi / 2) * 0.90
        py = front + 1 + (back - front) * abs(s) ** 2.1
        size = (3.1 + 2.4 * abs(s) ** 1.2) * rng.uniform(0.93, 1.07)
        if reach > 0.2:
            tooth = c.oval(px, py, size * reach, size * 0.85 * reach, tilt=np.degrees(s), power=2.4)
            c.paint(tooth - 0.6, -20)
            c.paint(tooth, rng.uniform(1750, 2050))
            c.paint(tooth + 1.2, 1350, soft_mm=1.2)
            c.paint(tooth + 0.65 * size * reach, 250)
        places[f"tooth {n + 1}"] = (float(px), float(py), 0.0, float(size))
    return places


PAINTERS: dict[str, Callable[[Canvas, np.random.Generator], dict]] = {
    "head-neck": _head_neck, "chest": _chest, "abdomen": _abdomen, "pelvis": _pelvis}

"""Cases of `evaluate mar`: held-out patients with simulated metal.

Slices: `ct-tcia-slices/test-native512.npz` (patients that no recipe trains on), 2 x 2 means. Metal: outlines of
`metal-shapes` where the folder has them, else generated implants, in four sizes and materials, measured at true size
by a clinical scanner (`convention=scanner`) or as in the SynDeepLesion data family (`field`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Grid, PatientGeometry, Segmentation, volume
from ..errors import InputError
from ..params import validate
from ..simulate import metal as simulation

METALS = (("amalgam", 5.0), ("titanium", 10.0), ("cocrmo", 16.0), ("ti6al4v", 26.0))  # material, mean diameter in mm
GENERATED = ("filling", "screw", "stem", "hip")  # without a file of outlines, in the same order


@dataclass(frozen=True)
class Case:
    """One slice with simulated metal: what the methods get, and what they are compared with."""

    name: str
    metal: str
    ct: Grid
    sinogram: Grid
    mask: Segmentation
    reference: np.ndarray  # HU [H, W]


def held_out(data: Path, patients: int, slices: int) -> Iterator[tuple[str, Grid]]:
    """(patient/index, one-slice volume in HU) of up to `slices` slices of `patients` held-out patients."""
    pack = data / "ct-tcia-slices" / "test-native512.npz"
    if not pack.exists():
        raise InputError(f"'{data}' has no ct-tcia-slices/test-native512.npz.", "Give --data the folder that holds it.")
    with np.load(pack) as arrays:
        hu, pixel, thick, names = (arrays[k] for k in ("hu", "pixel_mm", "slice_mm", "patient"))
    for patient in sorted(set(names.tolist()))[:patients]:
        indices = np.flatnonzero(names == patient)
        for index in indices[np.linspace(0, len(indices) - 1, min(slices, len(indices))).round().astype(int)]:
            image = hu[index].astype(np.float32)
            image = image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2).mean((1, 3))
            spacing = (2 * float(pixel[index]), 2 * float(pixel[index]), float(thick[index]))
            placed = PatientGeometry.from_itk(spacing, (0, 0, 0), np.eye(3).ravel())
            yield f"{patient}/{index}", volume(image[None], placed)


def make_case(name: str, clean: Grid, data: Path, number: int, seed: int, convention: str = "scanner") -> Case:
    """The slice with the metal `number` of METALS, measured in the simulator's `convention` (scanner or field)."""
    material, diameter = METALS[number]
    shapes = data / "metal-shapes" / "metal-shapes.npz"
    wanted: dict[str, Any] = {"metal": material, "keep_projections": True, "implant": GENERATED[number],
                              "convention": convention}  # fmt: skip
    if shapes.exists():
        wanted |= {"shapes": str(shapes), "shape_mm": diameter}
    made = simulation.simulate({"ct": clean}, validate(simulation.PARAMETERS, wanted), seed)
    return Case(name, f"{material} {diameter:g} mm", made["ct.nrrd"], made["projections.npz"],  # type: ignore[arg-type]
                made["metal.nrrd"], np.asarray(clean.array)[0])  # type: ignore[arg-type]  # fmt: skip

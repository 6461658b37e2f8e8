"""Cases of `evaluate mar`: held-out patients with simulated metal.

Slices: `ct-tcia-slices/test-native512.npz` (patients that no recipe trains on), 2 x 2 means. Metal: outlines of
`metal-shapes` where the folder has them, else generated implants, in four sizes and materials, measured at true size
by a clinical scanner (`convention=scanner`) or as in the SynDeepLesion data family (`field`). And the slice of
SynDeepLesion with five metals, measured by its authors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.implants import find_sites
from ..data import Grid, PatientGeometry, Segmentation, volume
from ..errors import InputError
from ..io.syndeeplesion import metals, read
from ..params import validate
from ..physics.metal import PUBLISHED_FIELD_MM
from ..simulate import metal as simulation

METALS = (("amalgam", 5.0), ("titanium", 10.0), ("cocrmo", 16.0), ("ti6al4v", 26.0))  # material, mean diameter in mm
GENERATED = ("filling", "screw", "stem", "hip")  # without a file of outlines, in the same order
METAL_HU = 2500.0


@dataclass(frozen=True)
class Case:
    """One slice with simulated metal: what the methods get, and what they are compared with."""

    name: str
    metal: str
    ct: Grid
    sinogram: Grid
    mask: Segmentation
    reference: np.ndarray  # HU [H, W]
    parameters: Mapping[str, Any] = field(default_factory=dict)  # that the case asks of every method


def held_out(data: Path, patients: int, slices: int) -> Iterator[tuple[str, Grid]]:
    """(patient/index, one-slice volume in HU) of `patients` x `slices` slices of held-out patients.

    A slice qualifies if it holds no metal and bone thick enough for every implant. Each patient gives at most `slices`
    of its own, spread evenly; where patients have fewer, more patients fill the number, as far as there are any."""
    pack = data / "ct-tcia-slices" / "test-native512.npz"
    if not pack.exists():
        raise InputError(f"'{data}' has no ct-tcia-slices/test-native512.npz.", "Give --data the folder that holds it.")
    with np.load(pack, allow_pickle=False) as arrays:
        hu, pixel, thick, names = (arrays[k] for k in ("hu", "pixel_mm", "slice_mm", "patient"))
    left = patients * slices
    for patient in sorted(set(names.tolist())):
        clean = {int(k): _binned(hu[k], float(pixel[k]), float(thick[k])) for k in np.flatnonzero(names == patient)}
        fit = [k for k, ct in clean.items() if _holds_any_implant(ct)]
        count = min(slices, len(fit), left)
        for place in np.linspace(0, len(fit) - 1, count).round().astype(int):
            yield f"{patient}/{fit[place]}", clean[fit[place]]
        left -= count


def _binned(hu: np.ndarray, pixel_mm: float, slice_mm: float) -> Grid:
    """2 x 2 means of a slice as a volume of one slice."""
    image = hu.astype(np.float32).reshape(hu.shape[0] // 2, 2, hu.shape[1] // 2, 2).mean((1, 3))
    placed = PatientGeometry.from_itk((2 * pixel_mm, 2 * pixel_mm, slice_mm), (0, 0, 0), np.eye(3).ravel())
    return volume(image[None], placed)


def _holds_any_implant(ct: Grid) -> bool:
    """No voxel counts as metal, and there is bone thick enough for a hip, the implant that needs most room."""
    hu = np.asarray(ct.array)
    return bool(hu.max() < METAL_HU) and bool(find_sites(hu, ct.spacing, "hip", 1, np.random.default_rng(0)))


def make_case(name: str, clean: Grid, data: Path, number: int, seed: int, convention: str = "scanner") -> Case:
    """The slice with the metal `number` of METALS, measured in the simulator's `convention` (scanner or field).

    The field's convention takes every slice for one of 153.6 mm width: patient and metal shrink alike, and only a
    screw still finds bone that is wide enough."""
    material, diameter = METALS[number]
    if convention == "field":
        shrink = PUBLISHED_FIELD_MM / (max(clean.array.shape[1:]) * clean.spacing[0])
        placed = PatientGeometry.from_itk([shrink * s for s in clean.spacing], (0, 0, 0), np.eye(3).ravel())
        clean, diameter = volume(clean.array, placed), shrink * diameter
    shapes = data / "metal-shapes" / "metal-shapes.npz"
    implant = GENERATED[number] if convention == "scanner" else "screw"
    wanted: dict[str, Any] = {"metal": material, "implant": implant, "convention": convention, "keep_projections": True}
    if shapes.exists():
        wanted |= {"shapes": str(shapes), "shape_mm": diameter}
    made = simulation.simulate({"ct": clean}, validate(simulation.PARAMETERS, wanted), seed)
    return Case(name, f"{material} {METALS[number][1]:g} mm", made["ct.nrrd"], made["projections.npz"],  # type: ignore[arg-type]
                made["metal.nrrd"], np.asarray(clean.array)[0])  # type: ignore[arg-type]  # fmt: skip


def syndeeplesion(data: Path) -> Iterator[Case]:
    """The sample of SynDeepLesion: one slice, five titanium implants, measured sinograms, exact masks. Its published
    trace has no safety margin, hence `trace_dilation` 0."""
    folder = data / "syndeeplesion-sample"
    for k in metals(folder):
        s = read(folder, k)
        label = f"titanium {np.count_nonzero(s.metal.array)} px"
        reference = np.asarray(s.reference.array)[0]
        yield Case("syndeeplesion", label, s.ct, s.sinogram, s.metal, reference, {"trace_dilation": 0})

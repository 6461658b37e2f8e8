"""A CT volume with simulated metal: generated implants, polychromatic measurement, noise, reconstruction.

Outputs: `ct.nrrd` (with artefacts), `reference.nrrd`, `metal.nrrd` (voxels at least half metal), and on request
`projections.npz`. The reference is what the field compares with: the input slices themselves, without metal
(`reference=image`), or their noise-free, metal-free reconstruction by the same scanner (`reference=reconstruction`),
which leaves the blur of projection and reconstruction out of the comparison. Every slice is measured, also those
without metal, so that noise and sharpness are the same all over the volume.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import Grid, Item, Segmentation, projections, volume
from ..errors import InputError
from ..method import Input
from ..params import Boolean, Choice, Integer, Parameter, Real, Text

if TYPE_CHECKING:
    from torch import Tensor

    from ..physics.metal_scan import Acquisition
    from ..physics.plane import Plane

METALS = ("usual", "aluminium", "titanium", "ti6al4v", "nitinol", "iron", "steel316l", "cocrmo", "copper", "silver",
          "amalgam", "tantalum", "gold", "platinum", "zirconia")
TWELVE_BIT_TOP = 3071.0
BATCH = 8                     # slices measured at once

INPUTS = (Input("ct", kind="volume", unit="HU", help="CT volume without metal, axial slices."),)
PARAMETERS: tuple[Parameter, ...] = (
    Choice("implant", "usual", choices=("usual", "hip", "stem", "screw", "rod", "filling", "clip"),
           help="What is implanted; 'usual' chooses by the anatomy of the middle slice."),
    Integer("count", 1, low=1, high=20, help="Number of implants."),
    Choice("metal", "usual", choices=METALS, help="Material; 'usual' is the common one of the implant."),
    Choice("convention", "scanner", choices=("scanner", "field"),
           help="True size and a clinical scanner, or the convention of the SynDeepLesion data family."),
    Choice("kilovolt", "120", choices=("80", "100", "120", "140"), help="Tube voltage in kV (scanner convention)."),
    Real("photons", 1e6, low=0, high=1e9,
         help="Photons per ray without object (scanner convention); 0 leaves noise out."),
    Real("scatter", 0.03, low=0, high=0.5, level="advanced",
         help="Scatter-to-primary ratio behind the thickest tissue (scanner convention)."),
    Real("electronic", 10.0, low=0, high=1000, level="advanced",
         help="Electronic noise in photons, standard deviation (scanner convention)."),
    Integer("views", 984, unit="views", low=90, high=4000, level="advanced", help="Number of views over 360 degrees."),
    Choice("reference", "image", choices=("image", "reconstruction"), level="advanced",
           help="Compare with the input slices or with their metal-free reconstruction by the same scanner."),
    Boolean("twelve_bit", False, level="advanced", help="Cut values at 3071 HU as many scanners do."),
    Boolean("keep_projections", False, level="advanced", help="Also write the measured projections."),
    Text("shapes", "", longest=1000, level="advanced",
         help="An .npz file of outlines (key 'bits' with 'shape', or 'masks') to use in place of generated implants."),
    Real("shape_mm", 12.0, unit="mm", low=1, high=80, level="advanced",
         help="Mean diameter of an outline from the file."),
)


def simulate(inputs: Mapping[str, Item], p: Any, seed: int) -> dict[str, Item]:
    """Files of the task, see the module's text. HU float32 (k, j, i) on the grid of the input."""
    from ..physics.plane import Plane

    ct = inputs["ct"]
    assert isinstance(ct, Grid) and ct.geometry is not None
    hu = np.maximum(np.asarray(ct.array, np.float32), -1000.0)
    _require_hounsfield(hu)
    x, y, z = ct.spacing
    plane = Plane.of((hu.shape[1], hu.shape[2]), (y, x))
    fraction, kind = place_metal(hu, plane, z, p, np.random.default_rng((seed, 0)))
    metal = p.metal if p.metal != "usual" else _usual_metal(kind)
    images, clean, sinograms, acquisition = measure(hu, fraction, metal, plane, p, seed)
    if p.twelve_bit:
        images = np.minimum(images, TWELVE_BIT_TOP)
    stored = np.stack([_to_stored(f, plane) for f in fraction])
    mask = stored >= min(0.5, 0.9 * float(stored.max()))
    files: dict[str, Item] = {
        "ct.nrrd": volume(images, ct.geometry),
        "reference.nrrd": volume(hu if p.reference == "image" else clean, ct.geometry),
        "metal.nrrd": Segmentation(mask.astype(np.uint8), ct.geometry, {"metal": 1}),
    }
    if p.keep_projections:
        about = acquisition.geometry.to_dict() | {"metal": metal, "spectrum": acquisition.tube.name}
        files["projections.npz"] = projections(sinograms, about, ct.geometry)
    return files


def example() -> dict[str, Item]:
    """Three slices of a head-neck phantom with a simulated filling; files of the task. The reference is a scan without
    metal and noise: what a perfect correction would give."""
    from ..anatomy.phantoms import phantom
    from ..params import validate

    ct = phantom("head-neck", seed=1, slices=3).volume()
    return simulate({"ct": ct}, validate(PARAMETERS, {"reference": "reconstruction"}), seed=1)


def place_metal(hu: np.ndarray, plane: Plane, slice_mm: float, p: Any, rng: np.random.Generator
                ) -> tuple[np.ndarray, str]:
    """Volume fraction of metal per voxel of the plane's square grid (k, row, column), and the kind of implant."""
    import torch

    from ..anatomy.implants import Prism, find_sites, implant, rasterise, usual_implant

    pixel = plane.grid.pixel_mm
    square = hu if plane.square else plane.to_grid(torch.from_numpy(hu)).numpy()
    kind = p.implant if p.implant != "usual" else usual_implant(square[len(hu) // 2], pixel)
    outlines = read_outlines(p.shapes) if p.shapes else None
    sites = find_sites(square, (pixel, pixel, slice_mm), kind, p.count, rng)
    if not sites and kind != "clip":
        kind = "clip"                                        # no bone: something small in soft tissue
        sites = find_sites(square, (pixel, pixel, slice_mm), kind, p.count, rng)
    if not sites:
        raise InputError("The input 'ct' has no bone or soft tissue that could hold an implant.",
                         "Check that its values are in Hounsfield units.")
    solids = []
    for site, room in sites:
        if outlines is None:
            solids += implant(kind, site, room, rng)
        else:
            chosen = outlines[rng.integers(len(outlines))]
            solids.append(Prism(chosen, site, p.shape_mm, float(rng.uniform(0, 360)), 1.5 * p.shape_mm))
    return rasterise(solids, square.shape, (pixel, pixel, slice_mm)), kind


def measure(hu: np.ndarray, fraction: np.ndarray, metal: str, plane: Plane, p: Any, seed: int
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Acquisition]:
    """Images with metal and clean images in HU on the stored grid, projections [S, V, D], how they were measured."""
    import torch

    from ..physics.ct import mu_to_hu, projector
    from ..physics.fbp import fbp
    from ..physics.metal_scan import scan

    acquisition = _acquisition(plane, p)
    forward = projector(acquisition.geometry, plane.grid)
    images, clean, sinograms = np.empty_like(hu), np.empty_like(hu), []

    def image(sinogram: Tensor) -> np.ndarray:
        return plane.from_grid(mu_to_hu(fbp(sinogram, acquisition.geometry, plane.grid))).numpy()

    for a in range(0, len(hu), BATCH):
        chosen = slice(a, min(a + BATCH, len(hu)))
        tissue = plane.to_grid(torch.from_numpy(hu[chosen]))
        share = torch.from_numpy(fraction[chosen])
        noise = [_generator(seed, k) for k in range(chosen.start, chosen.stop)] if p.photons > 0 else None
        sinogram = scan(tissue, share, metal, acquisition, forward, noise)
        images[chosen] = image(sinogram)
        if p.reference == "reconstruction":
            clean[chosen] = image(scan(tissue, torch.zeros_like(share), metal, acquisition, forward, None))
        if p.keep_projections:
            sinograms.append(sinogram.numpy())
    return images, clean, np.concatenate(sinograms) if sinograms else np.empty(0), acquisition


def read_outlines(path: str) -> np.ndarray:
    """Metal outlines [n, rows, columns], boolean, from an .npz with 'bits' (packed) and 'shape', or with 'masks'."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if "masks" in file:
                masks = np.asarray(file["masks"]) > 0
            else:
                shape = tuple(int(n) for n in file["shape"])
                masks = np.unpackbits(file["bits"], axis=1)[:, :shape[1] * shape[2]].reshape(shape).astype(bool)
    except (OSError, KeyError, ValueError) as problem:
        raise InputError(f"The file of outlines '{path}' can't be read ({problem}).",
                         "Give an .npz with 'masks' (n, rows, columns), or with 'bits' and 'shape'.") from None
    if masks.ndim != 3 or not masks.any((1, 2)).all():
        raise InputError(f"The outlines in '{path}' have the shape {masks.shape}, but (n, rows, columns) without empty "
                         "outlines is needed.")
    return masks


def _acquisition(plane: Plane, p: Any) -> Acquisition:
    from dataclasses import replace

    from ..physics.metal_scan import field_acquisition, scanner_acquisition

    if p.convention == "field":
        bins = int(1.54 * max(plane.grid.rows, plane.grid.columns)) // 2 * 2 + 1      # as published: 641 for 416
        made = field_acquisition(plane.grid, p.views, bins)
        return made if p.photons > 0 else replace(made, floor=0.0)
    return scanner_acquisition(plane.grid, kilovolt=int(p.kilovolt), views=p.views, photons=max(p.photons, 1.0),
                               scatter=p.scatter, electronic=p.electronic)


def _generator(seed: int, k: int) -> Any:
    """Noise of slice k: the same for every batch."""
    import torch

    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, 1, k)).generate_state(1, np.uint64)[0] >> 1))


def _to_stored(fraction: np.ndarray, plane: Plane) -> np.ndarray:
    import torch

    return plane.from_grid(torch.from_numpy(fraction)[None])[0].numpy()


def _usual_metal(kind: str) -> str:
    from ..anatomy.implants import USUAL_METAL

    return USUAL_METAL[kind]


def _require_hounsfield(hu: np.ndarray) -> None:
    if hu.max() - hu.min() < 200 or hu.min() > -200:
        raise InputError(f"The input 'ct' has values from {hu.min():g} to {hu.max():g}, but Hounsfield units with air "
                         "(about -1000) and tissue are needed.", "Check the input's unit and field of view.")

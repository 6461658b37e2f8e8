"""SynDeepLesion: simulated metal in slices of NIH DeepLesion, the data set of the dual-domain literature.

Two layouts of a slice's folder are read: the published HDF5 files (`gt.h5`, `0.h5`, `1.h5`, ... with `testmask.npy` or
`trainmask.npy` in a folder above; A11 note, section 2.8) and the re-encoded sample (`gt.npz`, `metal0.npz`, ...).
Published units: attenuation in 1/cm with water at 0.192; sinograms are line integrals without unit, 640 views x 641
bins, of a field of 153.6 mm that every slice is said to have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Grid, PatientGeometry, Segmentation, projections, volume
from ..errors import InputError
from .folders import move_files, temporary
from .images import write_item
from .projections import write_projections

SIDE, MASK_SIDE, VIEWS, BINS = 416, 512, 640, 641
PIXEL_MM = 0.3 * MASK_SIDE / SIDE
MU_WATER_CM = 0.192
LINE_INTEGRAL_STEPS = 4096              # of the sample's 16-bit sinograms


@dataclass(frozen=True)
class Sample:
    """One slice with one metal. Images (1, 416, 416) in HU, sinograms (1, 640, 641) with their geometry.

    ct : with artefacts; reference : without metal; metal : where it is; sinogram : measured with metal;
    reference_sinogram : measured without; trace : the published metal trace, boolean [640, 641], True = metal."""

    ct: Grid
    reference: Grid
    metal: Segmentation
    sinogram: Grid
    reference_sinogram: Grid
    trace: np.ndarray


def geometry() -> dict[str, Any]:
    """The published fan beam on a flat detector, as stored beside projections: lengths in mm."""
    return {
        "type": "fan-flat", "angles_deg": [(k + 0.5) * 360 / VIEWS - 90 for k in range(VIEWS)], "bins": BINS,
        "bin_mm": 2 * math.sqrt(2) * SIDE / BINS * PIXEL_MM, "offset_mm": 0.0,
        "source_axis_mm": 1075 * PIXEL_MM, "source_detector_mm": 2150 * PIXEL_MM,
    }  # fmt: skip


def slice_folders(path: Path) -> list[Path]:
    """Folders at or below `path` that hold a slice, in either layout. InputError where there is none."""
    found = {file.parent for name in ("gt.npz", "gt.h5") for file in path.rglob(name)}
    if not found:
        raise InputError(f"'{path}' holds no slice of SynDeepLesion (no gt.h5 or gt.npz in it or below).",
                         "Give the folder of a slice or one above.")
    return sorted(found)


def metals(folder: Path) -> list[int]:
    """Numbers of the metals that a slice's folder holds."""
    stems = [f.stem.removeprefix("metal") for f in (*folder.glob("metal*.npz"), *folder.glob("*.h5"))]
    return sorted(int(s) for s in stems if s.isdecimal())


def read(folder: Path, metal: int) -> Sample:
    """The slice in `folder` with this metal. Raises InputError when something is missing or unreadable."""
    if metal not in metals(folder):
        known = ", ".join(map(str, metals(folder))) or "none"
        raise InputError(f"'{folder}' has no metal {metal!r}; it has: {known}.", "Choose one with --set metal=NUMBER.")
    arrays = _sample(folder, metal) if (folder / "gt.npz").exists() else _published(folder, metal)
    for name, array in arrays.items():
        wanted = (VIEWS, BINS) if name in ("sinogram", "reference_sinogram", "trace") else (SIDE, SIDE)
        if array.shape != wanted:
            raise InputError(f"The {name} of metal {metal} in '{folder}' has the shape {array.shape}, but {wanted} is "
                             "needed.")
    placed = PatientGeometry.from_itk((PIXEL_MM, PIXEL_MM, 1.0), (0, 0, 0), np.eye(3).ravel())
    images = {n: volume(arrays[n][None].astype(np.float32), placed) for n in ("ct", "reference")}
    lines = {n: projections(arrays[n][None].astype(np.float32), geometry(), placed)
             for n in ("sinogram", "reference_sinogram")}  # fmt: skip
    mask = Segmentation(arrays["metal"][None].astype(np.uint8), placed, {"metal": 1})
    return Sample(**images, metal=mask, **lines, trace=arrays["trace"] > 0)


def convert(path: Path, output: Path, *, metal: int | None = None) -> None:
    """Write one folder `metal<K>` per metal (or for one metal), below patient/slice where `path` holds several.

    Each has ct.nrrd, reference.nrrd, metal.nrrd, projections.npz and reference-projections.npz, ready for `run`."""
    folders = slice_folders(path)
    for folder in folders:
        place = output if len(folders) == 1 else output / folder.parent.name / folder.name
        for k in metals(folder) if metal is None else [metal]:
            _write(read(folder, k), place / f"metal{k}")
            print(f"Written: {place / f'metal{k}'}")


def _write(sample: Sample, output: Path) -> None:
    with temporary(output.absolute().parent, ".diffusion-") as work:
        for name, item in (("ct", sample.ct), ("reference", sample.reference), ("metal", sample.metal)):
            write_item(item, work / f"{name}.nrrd")
        write_projections(sample.sinogram, work / "projections.npz")
        write_projections(sample.reference_sinogram, work / "reference-projections.npz")
        move_files(work, output, last="projections.npz")


def _sample(folder: Path, metal: int) -> dict[str, np.ndarray]:
    """Arrays of the re-encoded sample: HU as integers, sinograms in steps of 1/4096, packed masks."""
    try:
        files = (np.load(folder / name, allow_pickle=False) for name in ("gt.npz", f"metal{metal}.npz"))
        with next(files) as truth, next(files) as damaged:
            return {
                "ct": damaged["ma_CT_hu"], "reference": truth["image_hu"],
                "metal": np.unpackbits(damaged["mask416_bits"], count=SIDE * SIDE).reshape(SIDE, SIDE),
                "sinogram": damaged["ma_sinogram_q"] / LINE_INTEGRAL_STEPS,
                "reference_sinogram": truth["poly_sinogram_q"] / LINE_INTEGRAL_STEPS,
                "trace": np.unpackbits(damaged["metal_trace_bits"], count=VIEWS * BINS).reshape(VIEWS, BINS),
            }  # fmt: skip
    except (OSError, KeyError, ValueError) as problem:
        raise InputError(f"Metal {metal} in '{folder}' can't be read ({problem}).") from None


def _published(folder: Path, metal: int) -> dict[str, np.ndarray]:
    """Arrays of the published files: attenuation in 1/cm, brought to HU."""
    image, clean = _hdf5(folder / "gt.h5", "image", "poly_sinogram")
    damaged, sinogram, trace = _hdf5(folder / f"{metal}.h5", "ma_CT", "ma_sinogram", "metal_trace")
    return {
        "ct": _hounsfield(damaged), "reference": _hounsfield(image), "metal": shrink(_outline(folder, metal)),
        "sinogram": sinogram, "reference_sinogram": clean, "trace": trace,
    }  # fmt: skip


def _hounsfield(mu_cm: np.ndarray) -> np.ndarray:
    return 1000 * (mu_cm.astype(np.float64) / MU_WATER_CM - 1)


def _hdf5(file: Path, *names: str) -> list[np.ndarray]:
    """Datasets of an HDF5 file."""
    try:
        import h5py
    except ImportError:
        raise InputError(f"Reading '{file.name}' needs the package h5py.",
                         "Install it: pip install 'diffusionmodels[syndeeplesion]'.") from None
    try:
        with h5py.File(file, "r") as stored:
            return [np.asarray(stored[name]) for name in names]
    except (OSError, KeyError) as problem:
        raise InputError(f"'{file}' can't be read as SynDeepLesion data ({problem}).") from None


def _outline(folder: Path, metal: int) -> np.ndarray:
    """Metal mask [512, 512], 0 or 1, from the stack [512, 512, n] in the nearest folder above that has one."""
    names = ["testmask.npy", "trainmask.npy"]
    if any("train" in part for part in folder.parts):
        names.reverse()
    for file in (parent / name for parent in (folder, *folder.absolute().parents) for name in names):
        if file.is_file():
            stack = np.load(file, mmap_mode="r", allow_pickle=False)
            if stack.ndim == 3 and metal < stack.shape[2]:
                return np.asarray(stack[:, :, metal])
            raise InputError(f"'{file}' has the shape {stack.shape}, but (512, 512, n) with n > {metal} is needed.")
    raise InputError(f"No folder above '{folder}' has testmask.npy or trainmask.npy.",
                     "Copy the metal masks of the data set beside its slices.")


def shrink(mask: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A square mask of 0 and 1 brought to `side` pixels as published: bilinear with a footprint of the coarser pixel,
    along rows, then along columns, rounded to 0 or 1 after each."""
    old = mask.shape[0]
    step = old / side
    away = np.abs(np.arange(old) + 0.5 - (np.arange(side)[:, None] + 0.5) * step) / step
    weights = np.clip(1 - away, 0, None)
    weights /= weights.sum(1, keepdims=True)
    rows = mask.astype(float) @ weights.T >= 0.5
    return (weights @ rows >= 0.5).astype(np.uint8)

"""OpenKBP: head-and-neck CT with contours (Babier et al. 2021, doi:10.1002/mp.14845), repository ababier/open-kbp.

Two layouts are read: the published `provided-data` (per patient a folder of sparse CSV files) and packed patients, one
`SPLIT_pt_NNN.npz` each. Published arrays run to the patient's posterior, left and inferior; here everything is
(k, j, i) of an LPS volume: k to superior, j to posterior, i to left. Stored CT values are HU + 1024 (known to about
25 HU).
A structure without a file was not contoured: it is unlabelled, not absent.

In a hundred of the patients the CT of the outer slices is kept near the contours only: a network would see the answer.
Such slices (a fifth of the contoured ones) don't count as scanned; train and measure on scanned slices.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..errors import InputError

SIDE = 128
OFFSET, LARGEST = 1024, 4095  # some 13 patients hold corrupt values up to 32743
STRUCTURES = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible")
BITS = (*STRUCTURES, "PTV56", "PTV63", "PTV70", "possible_dose_mask")  # bit b of the packed masks
SPLITS = {"train": range(1, 201), "validation": range(201, 241), "test": range(241, 341)}  # official
SHAPE = (SIDE, SIDE, SIDE)
BODY_MM2 = 6500.0                         # less CT outside the organs isn't a whole slice of neck or head


@dataclass(frozen=True)
class Patient:
    """One patient; arrays [k, j, i].

    hu : int16. masks : uint16, bit b = BITS[b]. present : names from BITS that were contoured. spacing : mm (i, j, k).
    scanned : (first, last + 1), the longest run of slices with a body in them, see `with_body`."""

    name: str
    split: str
    hu: np.ndarray
    masks: np.ndarray
    present: tuple[str, ...]
    spacing: tuple[float, float, float]
    scanned: tuple[int, int]

    def mask(self, name: str) -> np.ndarray:
        """Boolean [k, j, i]; InputError where the structure wasn't contoured."""
        if name not in self.present:
            raise InputError(f"{self.name} has no contour of {name}; it has: {', '.join(self.present) or 'none'}.")
        return (self.masks >> BITS.index(name)) & 1 > 0


def split_of(number: int) -> str:
    """The official split of pt_<number>."""
    return next((split for split, numbers in SPLITS.items() if number in numbers), "")


def patients(folder: Path, split: str, cache: Path | None = None) -> Iterator[Patient]:
    """Patients of a split that have a CT, by number, from either layout in `folder`.

    cache : where the published layout is packed on first use (parsing takes about a second a patient)."""
    found = 0
    for number in SPLITS[split]:
        file = _packed(folder, split, number)
        if not file.exists() and (source := _published(folder, number)):
            packed = read_published(source, number)
            if cache is None:
                found += 1
                yield unpack(packed, number)
                continue
            file = _packed(cache, split, number)
            if not file.exists():
                save(packed, file)
        if file.exists():
            found += 1
            yield read(file)
    if not found:
        raise InputError(f"'{folder}' holds no {split} patient of OpenKBP with a CT.",
                         "Give the folder provided-data of ababier/open-kbp, or one of packed patients.")


def _packed(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}_pt_{number:03d}.npz"


def _published(folder: Path, number: int) -> Path | None:
    """The folder of a patient with a CT (some copies lack large files), at most two levels below `folder`."""
    for pattern in (f"pt_{number}", f"*/pt_{number}", f"*/*/pt_{number}"):
        for place in sorted(folder.glob(pattern)):
            if (place / "ct.csv").exists() and (place / "voxel_dimensions.csv").exists():
                return place
    return None


def read(file: Path) -> Patient:
    """A packed patient. InputError where the file is unreadable."""
    match = re.search(r"pt_(\d+)$", file.stem)
    if match is None:
        raise InputError(f"The name of '{file.name}' doesn't end in pt_NUMBER.npz.")
    try:
        with np.load(file, allow_pickle=False) as stored:
            return unpack({k: stored[k] for k in ("ct", "structures", "present", "voxel_mm")}, int(match[1]))
    except (OSError, KeyError, ValueError) as problem:
        raise InputError(f"'{file}' can't be read as a packed OpenKBP patient ({problem}).") from None


def unpack(packed: dict[str, np.ndarray], number: int) -> Patient:
    """From packed arrays in published axes to a patient in (k, j, i)."""
    if packed["ct"].shape != SHAPE or packed["structures"].shape != SHAPE:
        raise InputError(f"pt_{number} has arrays {packed['ct'].shape} and {packed['structures'].shape}, "
                         f"but {SHAPE} is needed.")
    ct, masks = (np.ascontiguousarray(packed[k].transpose(2, 0, 1)[::-1]) for k in ("ct", "structures"))
    v0, v1, v2 = (float(v) for v in packed["voxel_mm"])
    hu = (np.clip(ct, 0, LARGEST) - OFFSET).astype(np.int16)
    present = tuple(name for name in BITS if name in set(packed["present"].tolist()))
    scanned = longest_run(with_body(ct, masks, v0 * v1))
    return Patient(f"pt_{number}", split_of(number), hu, masks, present, (v1, v0, v2), scanned)


def with_body(ct: np.ndarray, masks: np.ndarray, pixel_mm2: float) -> np.ndarray:
    """Slices (boolean [k]) with at least 65 cm2 of CT outside the organs, whose organs aren't surrounded by nothing."""
    organs = (masks & (2 ** len(STRUCTURES) - 1)) > 0
    filled = ct > 0
    around = ndimage.binary_dilation(organs, np.ones((1, 3, 3))) & ~organs
    empty = (around & ~filled).sum((1, 2)) > 0.5 * around.sum((1, 2))
    return ((filled & ~organs).sum((1, 2)) * pixel_mm2 >= BODY_MM2) & ~empty


def longest_run(flags: np.ndarray) -> tuple[int, int]:
    """(first, last + 1) of the longest run of true flags; (0, 0) where there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    runs = edges.reshape(-1, 2)
    if not len(runs):
        return 0, 0
    first, end = runs[np.argmax(runs[:, 1] - runs[:, 0])]
    return int(first), int(end)


def read_published(folder: Path, number: int) -> dict[str, np.ndarray]:
    """Packed arrays of a patient's folder of CSV files: ct int16, structures uint16, present, voxel_mm."""
    ct = np.zeros(SIDE**3, np.int16)
    index, values = _table(folder / "ct.csv", 2)
    ct[index.astype(np.int64)] = np.minimum(values, np.iinfo(np.int16).max)
    masks, present = np.zeros(SIDE**3, np.uint16), []
    for bit, name in enumerate(BITS):
        if (file := folder / f"{name}.csv").exists():
            masks[_table(file, 1)[0].astype(np.int64)] |= np.uint16(1 << bit)
            present.append(name)
    return {
        "ct": ct.reshape(SHAPE), "structures": masks.reshape(SHAPE), "present": np.array(present),
        "voxel_mm": _numbers(folder / "voxel_dimensions.csv", folder.joinpath("voxel_dimensions.csv").read_text()),
    }  # fmt: skip


def _table(file: Path, columns: int) -> np.ndarray:
    """The columns of a sparse list: voxel indices and, for columns = 2, values. InputError where it is damaged."""
    _, _, body = file.read_text(encoding="ascii").partition("\n")
    numbers = _numbers(file, body.replace(",", " "))
    if len(numbers) % columns:
        raise InputError(f"'{file}' is damaged: a voxel has no value.", "Get the file again.")
    table = numbers.reshape(-1, columns).T
    if table.size and (table[0].min() < 0 or table[0].max() >= SIDE**3):
        raise InputError(f"'{file}' has voxel indices outside 0 to {SIDE**3 - 1}.", "Get the file again.")
    return table


def _numbers(file: Path, text: str) -> np.ndarray:
    try:
        return np.array(text.split(), np.float64)
    except ValueError as problem:
        raise InputError(f"'{file}' is damaged ({problem}).", "Get the file again.") from None


def save(packed: dict[str, np.ndarray], file: Path) -> None:
    """Write packed arrays; the file appears complete or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as stream:
        np.savez_compressed(stream, **packed)  # type: ignore[arg-type]
    os.chmod(stream.name, 0o644)
    os.replace(stream.name, file)

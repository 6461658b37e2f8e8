"""Volumes from and to files: NRRD, NIfTI, MHA and DICOM folders through SimpleITK, the geometry exactly as the file
has it.

ITK and DICOM speak of LPS millimetres, Slicer of RAS: `PatientGeometry` holds both. Arrays are (k, j, i[, component]).
Two-dimensional images become volumes of one slice. Nothing that identifies a patient is kept: of the texts in DICOM
headers only the name of a correction that the scanner made, one of a fixed list.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..data import Grid, PatientGeometry, Segmentation, volume
from ..errors import DiskError, InputError
from ..physics.metal_mask import vendor_correction
from . import headers

GAP_MM = 0.01  # distances of DICOM slices may differ by this much (rounding of positions in the header)
# DICOM texts in which scanners name their own correction: ImageType, SeriesDescription, DerivationDescription,
# FilterType, ConvolutionKernel, ReconstructionAlgorithm, ImageFilter, ImageComments. Not ProtocolName: one protocol
# often gives the corrected and the uncorrected series.
TEXTS = ("0008|0008", "0008|103e", "0008|2111", "0018|1160", "0018|1210", "0018|9315", "0018|9320", "0020|4000")


def read_volume(path: Path, unit: str = "HU") -> Grid:
    """A scalar or vector volume from a file or a folder of DICOM slices. Raises InputError when it can't be read.

    Where the DICOM header says that the scanner corrected for metal, `acquisition` holds its name:
    {"vendor_correction": "O-MAR"}."""
    image = read_image(path)
    grid = volume(_array(image), _geometry(image), unit)
    name = vendor_correction(image.GetMetaData(key) for key in TEXTS if image.HasMetaDataKey(key))
    return replace(grid, acquisition={"vendor_correction": name}) if name else grid


def read_segmentation(path: Path) -> Segmentation:
    """Labels from a label image or a `.seg.nrrd` with one layer; label names are read where the file has them."""
    image = read_image(path)
    array = _array(image)
    if array.ndim != 3 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"'{path.name}' is no label image: it has {array.dtype} values and {array.ndim} axes.")
    labels = {str(n): int(n) for n in np.unique(array) if n}
    return Segmentation(array, _geometry(image), _segment_names(image) or labels)


def read_image(path: Path) -> sitk.Image:
    """The three-dimensional image in `path`."""
    if not path.is_file() and not path.is_dir():
        raise InputError(f"There is no file or folder '{path}'.")
    try:
        image = _read_dicom(path) if path.is_dir() else _read_file(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].split(": ", 1)[-1]
        raise InputError(
            f"'{path.name}' can't be read as an image ({reason}). Give NRRD, NIfTI, MHA or a DICOM folder."
        ) from None
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    if image.GetDimension() != 3:
        raise InputError(
            f"'{path.name}' has {image.GetDimension()} dimensions, but a volume has three. Extract one volume first."
        )
    return image


def _read_file(path: Path) -> sitk.Image:
    headers.check(path)
    return sitk.ReadImage(str(path))


def write_item(item: Grid | Segmentation, path: Path) -> None:
    """Write a volume or labels with their geometry; compressed, as int16/uint8/float32 ... just as the array is.

    Raises DiskError when the file can't be written.
    """
    array = np.ascontiguousarray(item.array)
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    if item.geometry is not None:
        image.SetSpacing(item.geometry.spacing)
        image.SetOrigin(item.geometry.origin)
        image.SetDirection(item.geometry.direction)
    if isinstance(item, Segmentation):
        extent = " ".join(f"0 {length - 1}" for length in reversed(array.shape))
        for n, (name, value) in enumerate(item.labels.items()):
            described = {"Name": name, "ID": f"Segment_{n}", "LabelValue": str(value), "Layer": "0", "Extent": extent}
            for key, text in described.items():
                image.SetMetaData(f"Segment{n}_{key}", text)
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError:
        raise DiskError(
            f"'{path.name}' can't be written into '{path.parent}'.", "Check free space and permissions."
        ) from None


def _array(image: sitk.Image) -> np.ndarray:
    """(k, j, i) or (k, j, i, component), in the file's own type."""
    return sitk.GetArrayFromImage(image)


def _geometry(image: sitk.Image) -> PatientGeometry:
    spacing, origin, direction = image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    if not np.all(np.isfinite((*spacing, *origin, *direction))) or min(spacing) <= 0:
        raise InputError("The image has a voxel size or position that is no number or 0. Correct its header.")
    return PatientGeometry.from_itk(spacing, origin, direction)


def _segment_names(image: sitk.Image) -> dict[str, int]:
    """Names and values of the segments that Slicer stores in a `.seg.nrrd`."""
    names = {}
    n = 0
    while image.HasMetaDataKey(f"Segment{n}_Name"):
        key = f"Segment{n}_LabelValue"
        value = image.GetMetaData(key).strip() if image.HasMetaDataKey(key) else ""
        if not re.fullmatch(r"\d{1,9}", value):
            raise InputError(f"The segment number {n} of the file has no whole number as its LabelValue.")
        names[image.GetMetaData(f"Segment{n}_Name")] = int(value)
        n += 1
    return names


def _read_dicom(folder: Path) -> sitk.Image:
    """The only image series in a folder, with the TEXTS of its first image."""
    series = [sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in _series(folder)]
    if not series:
        raise InputError(f"The folder '{folder.name}' holds no DICOM images.")
    if len(series) > 1:
        counts = ", ".join(str(len(files)) for files in series)
        raise InputError(
            f"The folder '{folder.name}' holds {len(series)} DICOM series ({counts} images). Give a folder with "
            "one series."
        )
    files = series[0]
    if len(files) > 1:
        _check_positions(folder, files)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    image, first = reader.Execute(), sitk.ImageFileReader()
    first.SetFileName(files[0])
    first.ReadImageInformation()
    for key in TEXTS:
        if first.HasMetaDataKey(key):
            image.SetMetaData(key, first.GetMetaData(key))
    return image


def _series(folder: Path) -> tuple[str, ...]:
    """Series identifiers; ITK's warnings about other files in the folder are no concern of the user."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        return sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(True)


def _check_positions(folder: Path, files: tuple[str, ...]) -> None:
    """Slices must lie at equal distances along their common normal; ITK only warns about gaps and shears tilted
    scans."""
    reader = sitk.ImageFileReader()
    origins, normals = [], []
    for name in files:
        reader.SetFileName(name)
        reader.ReadImageInformation()
        origins.append(reader.GetOrigin()[:3])
        normals.append(np.asarray(reader.GetDirection()).reshape(3, 3)[:, 2])
    steps, normal = np.diff(np.asarray(origins), axis=0), normals[0]
    along = steps @ normal
    if np.abs(np.asarray(normals) - normal).max() > 1e-3 or np.abs(steps - along[:, None] * normal).max() > 0.1:
        raise InputError(
            f"The slices of '{folder.name}' are tilted or turned against each other. Resample the scan to a "
            "straight grid."
        )
    distance = np.median(along)
    worst = int(np.abs(along - distance).argmax())
    if abs(along[worst] - distance) > max(GAP_MM, 1e-2 * abs(distance)):
        raise InputError(
            f"Slices are missing in '{folder.name}': they lie {abs(distance):g} mm apart, but "
            f"{abs(along[worst]):g} mm between slices {worst} and {worst + 1}. Complete the series."
        )

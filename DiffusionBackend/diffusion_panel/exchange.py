"""Nodes, texts and paths <-> what a job folder holds: an array and its description, see `diffusion_backend.io.arrays`.

A description is the entry of an input in `job.json` without its file name: {"kind", "unit", "axes", "ijkToRAS"} for
arrays, further "labels" for segmentations and "acquisition" for projections; {"text"} and {"columns", "rows"} carry
their content themselves. "ijkToRAS" leads to the world: linear parent transforms are part of it.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from . import segmentations, sequences
from .geometry import (
    ExchangeError,
    alive,
    image_of,
    living,
    name_of,
    parts,
    put_at,
    put_beside,
    voxels,
    world_matrix,
)
from .roi import Slab, crop

COMPLEX = "DiffusionModels.Complex"  # attribute of a vector volume whose two components are real and imaginary part
GEOMETRY = "DiffusionModels.Geometry"  # attribute of a volume of projections: JSON of how they were measured
UNIT = "DiffusionModels.Unit"
ACQUISITION_KEYS = ("type", "angles_deg", "bins", "bin_mm")
CODES = {"HU": ("[hnsf'U]", "UCUM", "Hounsfield unit"), "Gy": ("Gy", "UCUM", "Gray")}  # as DICOM names the units
WINDOW_SAMPLE = 100_000  # voxels from which a window is taken
STORABLE = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")

Read = tuple[dict[str, Any], "np.ndarray | None"]


@dataclass(frozen=True)
class Exported:
    """What a job needs of one input. array : an own copy, None where the description is all. node_id : "" for texts
    and paths."""

    description: dict[str, Any]
    array: np.ndarray | None
    node_id: str


def export(kind: str, value: Any, *, unit: str = "", reference: Any = None, slab: Slab | None = None) -> Exported:
    """Copy an input out of the scene; call it on the GUI thread, write the copy elsewhere.

    kind : as declared. value : node, Frame of a sequence, text, path, or (segmentation node, {name: segment id}).
    unit : the declared one, for nodes that don't say theirs. reference : volume on whose grid a segmentation is
    given. slab : (array axis, first, last + 1), the part that is wanted. ExchangeError says what is wrong in one
    sentence.
    """
    description, view = read(kind, value, unit=unit, reference=reference, slab=slab)
    own = view is None or (view.flags.owndata and view.flags.c_contiguous)  # labels, stacked frames, files
    array = view if own else np.array(view, order="C", copy=True)
    node = value[0] if type(value) is tuple else parts(value)[0]
    return Exported(description, array, (node.GetID() or "") if hasattr(node, "GetID") else "")


def read(kind: str, value: Any, *, unit: str = "", reference: Any = None, slab: Slab | None = None) -> Read:
    """As `export`, but the array may be a read-only view of the node's memory."""
    if kind in ("segmentation", "structures"):
        labels, matrix, names = segmentations.labels_of(value, reference)
        described, array = {"kind": kind, "labels": names, "ijkToRAS": matrix.tolist()}, labels
    elif kind == "sequence":
        described, array = _sequence(value, unit)
    elif kind == "projections":
        described, array = _projections(value)
    elif kind in ("volume", "vector volume", "complex volume"):
        described, array = _volume(kind, value, unit)
    else:
        return _plain(kind, value), None
    return (described, array) if slab is None else crop(described, array, slab)


def create(
    description: Mapping[str, Any], array: np.ndarray | None, *, name: str, like: Any = None
) -> slicer.vtkMRMLNode:
    """The node of a result entry, under the parent transform of `like` (node, Frame or None) and beside it in the
    subject hierarchy; bit for bit on its grid where the description has the same. The array is copied."""
    if "text" in description or "columns" in description:
        node = _text_node(description, name) if "text" in description else _table_node(description, name)
        put_beside(node, like)
        return node
    matrix = np.array(description.get("ijkToRAS", np.eye(4)), float)
    if "labels" in description:
        labels = array if array.ndim == 3 else array[None]
        return segmentations.create_segmentation(labels, matrix, description["labels"], name, like)
    if description.get("kind") == "sequence":
        frame = {k: v for k, v in description.items() if k != "axes"} | {"kind": "volume"}
        return sequences.create_sequence([(frame, part) for part in array], name, like, create)
    stored = _storable(array)
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLScalarVolumeNode" if stored.ndim == 3 else "vtkMRMLVectorVolumeNode",
        slicer.mrmlScene.GenerateUniqueName(name),
    )
    _show(node, stored, description, like)
    node.SetAndObserveImageData(_image(stored))
    if description.get("kind") == "projections":
        _describe_projections(node, description)
    else:
        put_at(node, matrix, like)
    if np.iscomplexobj(array):
        node.SetAttribute(COMPLEX, "1")
    _set_unit(node, description.get("unit", ""))
    put_beside(node, like)
    return node


def attach_geometry(node: Any, acquisition: Mapping[str, Any], ijk_to_ras: Any = None) -> None:
    """Make a volume (slice, view, bin) projections: `acquisition` says how they were measured, `ijk_to_ras` (4 x 4,
    world) where the volume to reconstruct lies. ExchangeError when something is missing."""
    _checked_acquisition(acquisition, name_of(node))
    placed = {} if ijk_to_ras is None else {"ijkToRAS": np.asarray(ijk_to_ras, float).tolist()}
    node.SetAttribute(GEOMETRY, json.dumps({**acquisition, **placed}))


# ---- reading ----


def _volume(kind: str, value: Any, unit: str) -> Read:
    node, _place = parts(living(value, "vtkMRMLVolumeNode", _("volume")))
    array, matrix = voxels(image_of(value)), world_matrix(value)
    if kind == "complex volume" and array.ndim == 4 and array.shape[3] == 2 and array.dtype.kind == "f":
        array = array.view(np.result_type(array, np.complex64))[..., 0]
    names = ("k", "j", "i", "component")[: array.ndim]
    return {
        "kind": kind,
        "unit": _unit_of(node, unit),
        "axes": _axes(names, matrix),
        "ijkToRAS": matrix.tolist(),
    }, array


def _sequence(value: Any, unit: str) -> Read:
    """All frames as (frame, k, j, i); they must have one grid."""
    read_frames = [_volume("volume", sequences.frame(value, i), unit) for i in range(sequences.frames(value))]
    if not read_frames:
        raise ExchangeError(_("The sequence '{name}' has no frame.").format(name=name_of(value)))
    first, array = read_frames[0]
    for i, (described, other) in enumerate(read_frames):
        if described["ijkToRAS"] != first["ijkToRAS"] or other.shape != array.shape:
            raise ExchangeError(
                _("Frame {frame} of the sequence '{name}' lies on another grid than the first.").format(
                    frame=i, name=name_of(value)
                )
            )
    axes = [{"name": "frame", "unit": "", "step": 0.0}, *first["axes"]]
    return first | {"kind": "sequence", "axes": axes}, np.stack([other for _described, other in read_frames])


def _projections(value: Any) -> Read:
    """From a volume with its geometry in an attribute, or from an .npz file with `sinogram` and `geometry`."""
    if isinstance(value, (str, os.PathLike)):
        array, acquisition, matrix = _npz(os.fspath(value))
    else:
        living(value, "vtkMRMLVolumeNode", _("volume of projections"))
        array, text = voxels(image_of(value)), parts(value)[0].GetAttribute(GEOMETRY)
        if not text:
            raise ExchangeError(
                _("'{name}' has no geometry of the scan. Give the file that describes it.").format(name=name_of(value))
            )
        acquisition = _json(text, name_of(value))
        matrix = acquisition.pop("ijkToRAS", None)
    _checked_acquisition(acquisition, name_of(value))
    steps = {"view": ("deg", 0.0), "bin": ("mm", float(acquisition["bin_mm"]))}
    names = ("slice", "view", "bin")[-array.ndim :]
    axes = [dict(zip(("name", "unit", "step"), (n, *steps.get(n, ("", 0.0))))) for n in names]
    described = {"kind": "projections", "unit": "", "axes": axes, "acquisition": acquisition}
    return described | ({} if matrix is None else {"ijkToRAS": matrix}), array


def _npz(path: str) -> tuple[np.ndarray, dict[str, Any], Any]:
    name = os.path.basename(path)
    if not os.path.isfile(path):
        raise ExchangeError(_("There is no file '{path}'.").format(path=path))
    try:
        with np.load(path, allow_pickle=False) as archive:
            array, text = archive["sinogram"], str(archive["geometry"])
            matrix = archive["ijkToRAS"].astype(float).tolist() if "ijkToRAS" in archive else None
    except (KeyError, TypeError, AttributeError):
        raise ExchangeError(_("'{name}' lacks the arrays 'sinogram' and 'geometry'.").format(name=name)) from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ExchangeError(
            _("'{name}' can't be read as projections ({error}).").format(name=name, error=error)
        ) from None
    if array.ndim not in (2, 3) or array.dtype.kind not in "iuf":
        raise ExchangeError(
            _("The sinogram in '{name}' has {axes} axes of type {type}, but 2 or 3 of real numbers are needed.").format(
                name=name, axes=array.ndim, type=array.dtype
            )
        )
    return array, _json(text, name), matrix


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ExchangeError(
            _("The geometry of '{name}' isn't readable JSON ({error}).").format(name=name, error=error)
        ) from None


def _checked_acquisition(acquisition: Any, name: str) -> None:
    given = acquisition if isinstance(acquisition, Mapping) else {}
    missing = [key for key in ACQUISITION_KEYS if key not in given]
    if missing:
        raise ExchangeError(
            _("The geometry of '{name}' lacks {missing}.").format(name=name, missing=", ".join(missing))
        )


def _plain(kind: str, value: Any) -> dict[str, Any]:
    """Texts, paths and tables: the description is the whole."""
    if kind == "table":
        node = living(value, "vtkMRMLTableNode", _("table"))
        columns = [node.GetTable().GetColumn(c) for c in range(node.GetNumberOfColumns())]
        cells = [[_cell(column, row) for column in columns] for row in range(node.GetNumberOfRows())]
        return {"kind": kind, "columns": [column.GetName() for column in columns], "rows": cells}
    if kind not in ("text", "file"):
        raise ExchangeError(_("Inputs of the kind '{kind}' aren't known to this version.").format(kind=kind))
    if value is None:
        raise ExchangeError(_("No {kind} is chosen. Choose one.").format(kind=kind))
    if kind == "file" and not os.path.exists(value):
        raise ExchangeError(_("There is no file '{path}'. Choose another one.").format(path=value))
    if isinstance(value, (str, os.PathLike)):
        return {"kind": kind, "text": os.fspath(value)}
    return {"kind": kind, "text": living(value, "vtkMRMLTextNode", _("text")).GetText() or ""}


def _cell(column: Any, row: int) -> Any:
    if isinstance(column, vtk.vtkStringArray):
        return column.GetValue(row)
    value = column.GetTuple1(row)
    return value if isinstance(column, (vtk.vtkDoubleArray, vtk.vtkFloatArray)) else int(value)


def _axes(names: tuple[str, ...], matrix: np.ndarray) -> list[dict[str, Any]]:
    steps = dict(zip("ijk", np.linalg.norm(matrix[:3, :3], axis=0).tolist()))
    return [{"name": n, "unit": "mm" if n in steps else "", "step": steps.get(n, 0.0)} for n in names]


def _unit_of(node: Any, declared: str) -> str:
    """The unit that a node says: our attribute, else its coded unit; without either the declared one."""
    ours = node.GetAttribute(UNIT)
    entry = node.GetVoxelValueUnits()
    code = entry.GetCodeValue() if entry is not None else None
    known = {code: unit for unit, (code, _scheme, _meaning) in CODES.items()}
    return ours or (known.get(code, code) if code else declared)


# ---- writing ----


def _storable(array: np.ndarray) -> np.ndarray:
    """The array in three dimensions (and components) and in a type that volumes can hold and show."""
    if np.iscomplexobj(array):
        single = array.dtype == np.complex64
        array = np.stack((array.real, array.imag), axis=-1).astype(np.float32 if single else np.float64, copy=False)
        array = array if array.ndim == 4 else array[None]
    elif array.ndim == 2:
        array = array[None]
    if array.dtype.newbyteorder("=").name in STORABLE:
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind in "iu":
        low, top = int(array.min(initial=0)), int(array.max(initial=0))
        return array.astype(np.int32 if low >= -(2**31) and top < 2**31 else np.float64)
    return array.astype({"b": np.uint8}.get(array.dtype.kind, np.float32 if array.itemsize < 4 else np.float64))


def _image(array: np.ndarray) -> vtk.vtkImageData:
    """Image data with a copy of an array (k, j, i) or (k, j, i, component)."""
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[2::-1])
    components = 1 if array.ndim == 3 else array.shape[3]
    image.AllocateScalars(numpy_support.get_vtk_array_type(array.dtype), components)
    if array.size:
        target = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        np.copyto(target.reshape(array.shape), array)
    return image


def _show(node: Any, array: np.ndarray, description: Mapping[str, Any], like: Any) -> None:
    """Display node of a volume that has no image data yet, with the window of `like` where the two are compared.

    Without a window the display would take it from a histogram of all voxels: a second for a large CT."""
    node.CreateDefaultDisplayNodes()
    if array.ndim != 3 or not array.size:
        return
    display, neighbour = node.GetDisplayNode(), parts(like)[1] if alive(like) else None
    display.AutoWindowLevelOff()
    unit, role = description.get("unit", ""), description.get("display", "compare")
    shown = neighbour.GetDisplayNode() if neighbour is not None and neighbour.IsA("vtkMRMLScalarVolumeNode") else None
    if shown is not None and role == "compare" and _unit_of(neighbour, unit) == unit:
        display.SetWindowLevel(shown.GetWindow(), shown.GetLevel())
        return
    sample = array.ravel()[:: max(1, array.size // WINDOW_SAMPLE)]
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, (0.5, 99.5)) if sample.size else (0.0, 1.0)
    display.SetWindowLevelMinMax(float(low), float(max(high, low + 1e-6 * max(1.0, abs(low)))))


def _describe_projections(node: Any, description: Mapping[str, Any]) -> None:
    """The axes of projections as voxel size (bin mm, view 1, slice 1), how they were measured as attribute.

    They get no parent transform: where the volume lies is written in world coordinates."""
    acquisition = description.get("acquisition", {})
    node.SetSpacing(float(acquisition.get("bin_mm") or 1.0), 1.0, 1.0)
    attach_geometry(node, acquisition, description.get("ijkToRAS"))


def _set_unit(node: Any, unit: str) -> None:
    if not unit:
        return
    node.SetAttribute(UNIT, unit)
    if unit in CODES:
        entry = slicer.vtkCodedEntry()
        entry.SetValueSchemeMeaning(*CODES[unit])
        node.SetVoxelValueUnits(entry)


def _text_node(description: Mapping[str, Any], name: str) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", slicer.mrmlScene.GenerateUniqueName(name))
    node.SetText(description["text"])
    return node


def _table_node(description: Mapping[str, Any], name: str) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", slicer.mrmlScene.GenerateUniqueName(name))
    rows = description["rows"]
    for c, title in enumerate(description["columns"]):
        node.AddColumn(_column(title, [row[c] for row in rows]))
    return node


def _column(title: str, cells: list[Any]) -> Any:
    """Whole numbers, numbers (None is NaN) or texts."""
    numbers = [cell for cell in cells if cell is not None]
    whole = all(isinstance(n, int) and abs(n) < 2**31 for n in numbers) and len(numbers) == len(cells)
    if not cells or not all(isinstance(n, (int, float)) for n in numbers):
        column: Any = vtk.vtkStringArray()
        cells = ["" if cell is None else str(cell) for cell in cells]
    else:
        column = vtk.vtkIntArray() if whole else vtk.vtkDoubleArray()
        cells = [float("nan") if cell is None else cell for cell in cells]
    column.SetName(title)
    for cell in cells:
        column.InsertNextValue(cell)
    return column

"""Segmentation nodes <-> label arrays (k, j, i), exact on grids that share their voxels, nearest neighbour on others.

A label array holds one structure per voxel: segments that overlap are refused with a sentence, because to drop one of
them silently would change the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from . import terminology
from .geometry import (
    ExchangeError,
    Placed,
    alive,
    array_of,
    image_of,
    living,
    local_to_world,
    parts,
    placed,
    put_beside,
    shifted,
    voxels,
    vtk_matrix,
)

SAME_VOXELS = 0.01  # of a voxel: grids whose voxels lie closer are copied, not resampled


def labels_of(value: Any, reference: Any = None) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Labels (k, j, i), voxel -> world matrix and {structure name: label} of `value`.

    value : segmentation node (all segments), (segmentation node, {name: segment id} or None), or label map volume.
    reference : volume node or Frame whose grid is used; None takes the data's own.
    """
    node, wanted = value if type(value) is tuple else (value, None)  # a Frame is a tuple, too
    if hasattr(node, "IsA") and node.IsA("vtkMRMLLabelMapVolumeNode"):
        return _from_label_map(node, reference)
    living(node, "vtkMRMLSegmentationNode", _("segmentation"))
    chosen = _chosen(node, wanted)
    images = _images(node, chosen.values(), reference)
    grid = placed(reference) if reference is not None else _common_grid(node, images.values())
    labels = np.zeros(grid.shape, np.uint8 if len(chosen) < 256 else np.uint16)
    layers: dict[Any, tuple[tuple[slice, ...], np.ndarray]] = {}
    for number, segment_id in enumerate(chosen.values(), 1):
        image = images[segment_id]
        if image is None:
            continue
        if image not in layers:
            layers[image] = _on_grid(image, _image_matrix(node, image), grid)
        box, layer = layers[image]
        mark(labels[box], layer == node.GetSegmentation().GetSegment(segment_id).GetLabelValue(), number, list(chosen))
    return labels, grid.matrix, {name: number for number, name in enumerate(chosen, 1)}


def mark(labels: np.ndarray, inside: np.ndarray, number: int, names: list[str]) -> None:
    """Write `number` where `inside`; ExchangeError where another structure is already."""
    taken = labels[inside]
    if taken.any():
        other = names[int(taken.max()) - 1]
        raise ExchangeError(
            _(
                "The segments '{first}' and '{second}' overlap in {count} voxels, but each voxel can belong to one "
                "only. Choose one of them or separate them in the Segment Editor."
            ).format(first=other, second=names[number - 1], count=int(np.count_nonzero(taken)))
        )
    labels[inside] = number


def _chosen(node: Any, wanted: Mapping[str, str] | None) -> dict[str, str]:
    """{name: segment id} in the order of the segmentation, or as asked for."""
    segmentation = node.GetSegmentation()
    if segmentation is None or not segmentation.GetNumberOfSegments():
        raise ExchangeError(_("'{name}' has no segment. Draw or load one.").format(name=node.GetName()))
    if wanted is None:
        chosen: dict[str, str] = {}
        for segment_id in segmentation.GetSegmentIDs():
            name, count = segmentation.GetSegment(segment_id).GetName(), 1
            while (unique := name if count == 1 else f"{name} {count}") in chosen:
                count += 1
            chosen[unique] = segment_id
        return chosen
    for name, segment_id in wanted.items():
        if segmentation.GetSegment(segment_id) is None:
            raise ExchangeError(
                _("'{node}' has no segment '{id}' for '{name}'. Choose the segments again.").format(
                    node=node.GetName(), id=segment_id, name=name
                )
            )
    return dict(wanted)


def _images(node: Any, segment_ids: Any, reference: Any) -> dict[str, Any]:
    """Binary label map of each segment, None for an empty one; other representations are converted in a copy."""
    source, wanted = node.GetSegmentation(), list(segment_ids)
    kind = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if not source.ContainsRepresentation(kind):
        source = _converted(node, wanted, reference, kind)
    images = {s: source.GetSegment(s).GetRepresentation(kind) for s in wanted}
    return {s: image if image is not None and _filled(image) else None for s, image in images.items()}


def _filled(image: Any) -> bool:
    extent = image.GetExtent()
    return image.GetPointData().GetScalars() is not None and all(a <= b for a, b in zip(extent[::2], extent[1::2]))


def _converted(node: Any, segment_ids: list[str], reference: Any, kind: str) -> Any:
    """A copy of these segments with binary label maps, made on the grid of `reference` where there is one.

    The user's own segmentation gets no new representation."""
    copy = slicer.vtkSegmentation()
    copy.SetSourceRepresentationName(node.GetSegmentation().GetSourceRepresentationName())
    copy.CopyConversionParameters(node.GetSegmentation())
    for segment_id in segment_ids:
        copy.CopySegmentFromSegmentation(node.GetSegmentation(), segment_id)
    if reference is not None:
        grid = placed(reference)
        own = np.linalg.solve(local_to_world(node, np.eye(4)), grid.matrix)
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(*grid.shape[::-1])
        image.SetImageToWorldMatrix(vtk_matrix(own))
        converter = slicer.vtkSegmentationConverter
        copy.SetConversionParameter(
            converter.GetReferenceImageGeometryParameterName(), converter.SerializeImageGeometry(image)
        )
    if not copy.CreateRepresentation(kind):
        raise ExchangeError(
            _("'{name}' can't be converted to a label map. Create its binary labelmap first.").format(
                name=node.GetName()
            )
        )
    return copy


def _image_matrix(node: Any, image: Any) -> np.ndarray:
    """Voxel (i, j, k) of the array of a segment's label map -> world."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return shifted(local_to_world(node, array_of(matrix)), image.GetExtent()[::2])


def _common_grid(node: Any, images: Any) -> Placed:
    """The grid of the reference geometry of a segmentation, or that of its first label map with voxels."""
    image = slicer.vtkOrientedImageData()
    text = node.GetSegmentation().GetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    )
    if not text or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False):
        image = next((i for i in images if i is not None), None)
    if image is None:
        raise ExchangeError(_("'{name}' has no labelled voxel. Mark at least one.").format(name=node.GetName()))
    return Placed(tuple(reversed(image.GetDimensions())), _image_matrix(node, image))


def _on_grid(image: Any, matrix: np.ndarray, grid: Placed) -> tuple[tuple[slice, ...], np.ndarray]:
    """Index box (k, j, i) of `grid` around an image, and the image's values there."""
    to_grid = np.linalg.solve(grid.matrix, matrix)
    size = np.array(image.GetDimensions())
    step = np.rint(to_grid[:3, 3])
    corners = np.array([[*c, 1] for c in product(*((0, n - 1) for n in size))]).T
    if np.abs((to_grid @ corners)[:3] - corners[:3] - step[:, None]).max() <= SAME_VOXELS:
        start = step.astype(int)
        low, high = np.clip(start, 0, grid.shape[::-1]), np.clip(start + size, 0, grid.shape[::-1])
        return _box(low, high), voxels(image)[_box(low - start, np.maximum(high, low) - start)]
    spread = (to_grid @ np.array([[*c, 1] for c in product(*((-0.5, n - 0.5) for n in size))]).T)[:3]
    low = np.clip(np.floor(spread.min(axis=1)).astype(int), 0, grid.shape[::-1])
    high = np.clip(np.ceil(spread.max(axis=1)).astype(int) + 1, 0, grid.shape[::-1])
    if (high <= low).any():
        return _box(low, low), np.zeros((0, 0, 0), np.uint8)
    return _box(low, high), _resampled(image, np.linalg.inv(to_grid), low, high)


def _box(low: Any, high: Any) -> tuple[slice, ...]:
    """Slices (k, j, i) of an index box (i, j, k)."""
    return tuple(slice(int(a), int(max(a, b))) for a, b in zip(low[::-1], high[::-1]))


def _resampled(image: Any, to_image: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Nearest values of an image at the indices low ... high - 1 of another grid; 0 outside the image."""
    plain = vtk.vtkImageData()
    plain.SetDimensions(*image.GetDimensions())
    plain.GetPointData().SetScalars(image.GetPointData().GetScalars())
    transform = vtk.vtkMatrixToLinearTransform()
    transform.SetInput(vtk_matrix(to_image))
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(plain)
    reslice.SetResliceTransform(transform)
    reslice.SetInterpolationModeToNearestNeighbor()
    reslice.SetBackgroundLevel(0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputExtent(*(int(v) for pair in zip(low, high - 1) for v in pair))
    reslice.Update()
    return voxels(reslice.GetOutput())


def _from_label_map(node: Any, reference: Any) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    living(node, "vtkMRMLLabelMapVolumeNode", _("label map"))
    own, values = placed(node), voxels(image_of(node))
    if not np.issubdtype(values.dtype, np.integer):
        raise ExchangeError(
            _("The label map '{name}' holds values of type {type}, but whole numbers are needed.").format(
                name=node.GetName(), type=values.dtype
            )
        )
    grid = placed(reference) if reference is not None else own
    box, layer = _on_grid(image_of(node), own.matrix, grid)
    labels = np.zeros(grid.shape, values.dtype)
    labels[box] = layer
    present = np.flatnonzero(np.bincount(np.maximum(labels, 0).ravel()))
    display = node.GetDisplayNode()
    colours = display.GetColorNode() if display else None
    names = {int(v): colours.GetColorName(int(v)) if colours else None for v in present if v}
    return labels, grid.matrix, {name or f"label {value}": value for value, name in names.items()}


def create_segmentation(labels: np.ndarray, matrix: np.ndarray, names: Mapping[str, int], name: str, like: Any) -> Any:
    """A segmentation node with one named segment per label, all in one shared label map at the world `matrix`.

    It gets the parent transform and the reference geometry of `like` (volume node, Frame or None)."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(name))
    node.CreateDefaultDisplayNodes()
    own = _under_parent_of(node, matrix, like)
    image = _oriented(labels, own)
    segmentation = node.GetSegmentation()
    kind = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segmentation.SetSourceRepresentationName(kind)
    for structure, value in names.items():
        segment = slicer.vtkSegment()
        segment.SetName(structure)
        segment.SetLabelValue(int(value))
        terminology.describe(segment, structure)
        segment.AddRepresentation(kind, image)
        segmentation.AddSegment(segment, segmentation.GenerateUniqueSegmentID(structure))
    put_beside(node, like)
    return node


def _under_parent_of(node: Any, matrix: np.ndarray, like: Any) -> np.ndarray:
    """Give the node parent and reference geometry of `like`; returns the matrix in the node's own coordinates."""
    volume, place = parts(like) if alive(like) else (None, None)
    own = matrix
    try:
        own = np.linalg.solve(local_to_world(place, np.eye(4)), matrix)
        if place is not None:
            node.SetAndObserveTransformNodeID(place.GetTransformNodeID())
        if place is not None and np.array_equal(placed(like).matrix, matrix):
            ijk_to_ras = vtk.vtkMatrix4x4()
            volume.GetIJKToRASMatrix(ijk_to_ras)
            own = shifted(array_of(ijk_to_ras), image_of(like).GetExtent()[::2])
    except ExchangeError:
        pass  # the parent of `like` is no longer linear: the same place of the world, without any
    if place is not None and place.IsA("vtkMRMLScalarVolumeNode"):
        node.SetReferenceImageGeometryParameterFromVolumeNode(place)
    return own


def _oriented(labels: np.ndarray, matrix: np.ndarray) -> Any:
    """A label array as oriented image, in the smallest of VTK's types that holds it."""
    top = int(labels.max(initial=0))
    kind = np.uint8 if top < 256 else np.uint16 if top < 65536 else np.int32
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*labels.shape[::-1])
    image.SetImageToWorldMatrix(vtk_matrix(matrix))
    image.AllocateScalars(numpy_support.get_vtk_array_type(kind), 1)
    numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())[:] = labels.ravel()
    return image

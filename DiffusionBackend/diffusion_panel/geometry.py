"""Where nodes lie in the patient: matrices, parent transforms, grids, subject hierarchy.

Matrices are numpy, 4 x 4, float64, columns (i, j, k, origin) or (x, y, z, origin), lengths in mm, world = RAS.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

SHEAR = 1e-3  # largest deviation of a direction matrix from an orthogonal one, as the engine has it


class ExchangeError(RuntimeError):
    """Something that can't be exchanged between the scene and the engine; the text is one sentence for the user."""


class Frame(NamedTuple):
    """One frame of a sequence, used like a volume node: the data node, the node that shows it in the scene and
    carries its transform (None where no browser shows the sequence), the frame's number."""

    node: Any
    place: Any
    index: int


class Placed(NamedTuple):
    """A grid: its size (k, j, i) and its voxel (i, j, k) -> world matrix."""

    shape: tuple[int, int, int]
    matrix: np.ndarray


def parts(value: Any) -> tuple[Any, Any]:
    """The node that holds the data of a node or Frame, and the one that holds its place in scene (or None)."""
    return (value.node, value.place) if isinstance(value, Frame) else (value, value)


def alive(value: Any) -> bool:
    """Whether a node or Frame is still part of a scene."""
    node = parts(value)[0]
    return node is not None and hasattr(node, "GetScene") and node.GetScene() is not None


def living(value: Any, class_name: str, what: str) -> Any:
    """`value` when it is a node (or Frame) of this class in a scene; ExchangeError otherwise. `what` names the kind."""
    node = parts(value)[0]
    if node is None:
        raise ExchangeError(_("No {what} is chosen. Choose one.").format(what=what))
    if not hasattr(node, "IsA") or not node.IsA(class_name):
        found = node.GetNodeTagName() if hasattr(node, "GetNodeTagName") else type(node).__name__
        raise ExchangeError(_("A {what} is needed, but a {found} is given.").format(what=what, found=found))
    if not alive(value):
        raise ExchangeError(
            _("'{name}' was removed from the scene. Choose another {what}.").format(name=node.GetName(), what=what)
        )
    return value


def array_of(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """A VTK matrix as numpy."""
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


def vtk_matrix(array: Any) -> vtk.vtkMatrix4x4:
    """A 4 x 4 array as VTK matrix."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy([float(value) for value in np.asarray(array).ravel()])
    return matrix


def shifted(matrix: np.ndarray, ijk: Any) -> np.ndarray:
    """The matrix of a grid whose voxel (0, 0, 0) is voxel `ijk` of this one."""
    if not any(ijk):
        return matrix
    moved = matrix.copy()
    moved[:, 3] = matrix @ [*ijk, 1]
    return moved


def parent_to_world(place: Any) -> np.ndarray | None:
    """Parent transform of a node (or None) to world; None where there is none. ExchangeError when it isn't linear."""
    transform = place.GetParentTransformNode() if place is not None else None
    if transform is None:
        return None
    if not transform.IsTransformToWorldLinear():
        raise ExchangeError(
            _(
                "'{name}' lies under the transform '{transform}', which isn't linear. Harden the transform or resample "
                "the data first."
            ).format(name=place.GetName(), transform=transform.GetName())
        )
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return array_of(matrix)


def local_to_world(place: Any, matrix: np.ndarray) -> np.ndarray:
    """`matrix` in the node's own coordinates, brought into the world."""
    parent = parent_to_world(place)
    return matrix if parent is None else parent @ matrix


def world_matrix(volume: Any) -> np.ndarray:
    """Voxel (i, j, k) of the array of a volume node (or Frame) -> world, parent transforms included.

    ExchangeError for a transform that isn't linear, and for a grid that is sheared or without extent."""
    node, place = parts(volume)
    own = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(own)
    matrix = shifted(local_to_world(place, array_of(own)), image_of(volume).GetExtent()[::2])
    sizes = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(matrix).all() or sizes.min() <= 0:
        raise ExchangeError(
            _("'{name}' has a voxel size of zero or none at all. Correct it in the Volumes module.").format(
                name=node.GetName()
            )
        )
    directions = matrix[:3, :3] / sizes
    if np.abs(directions.T @ directions - np.eye(3)).max() > SHEAR:
        raise ExchangeError(
            _("'{name}' has a sheared grid: its axes aren't at right angles. Resample it first.").format(
                name=node.GetName()
            )
        )
    return matrix


def placed(volume: Any) -> Placed:
    """The grid of a volume node or Frame."""
    return Placed(tuple(reversed(image_of(volume).GetDimensions())), world_matrix(volume))


def image_of(volume: Any) -> vtk.vtkImageData:
    """The image data of a volume node or Frame. ExchangeError when there is none."""
    node = parts(volume)[0]
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or not image.GetNumberOfPoints():
        raise ExchangeError(_("'{name}' has no image data. Load or choose another one.").format(name=node.GetName()))
    return image


def voxels(image: vtk.vtkImageData) -> np.ndarray:
    """The scalars of an image as (k, j, i) or (k, j, i, component): a view of VTK's memory, never to be written to."""
    scalars = image.GetPointData().GetScalars()
    shape = tuple(reversed(image.GetDimensions()))
    components = scalars.GetNumberOfComponents()
    view = numpy_support.vtk_to_numpy(scalars).reshape(shape + ((components,) if components > 1 else ()))
    view.flags.writeable = False
    return view


def put_at(volume: Any, matrix: np.ndarray, like: Any) -> None:
    """Place a new volume node at the world matrix `matrix`, under the parent transform of `like` (node, Frame, None).

    Bit for bit on the grid of `like` where that is the same one. Without a usable parent (removed, no longer linear)
    the node lies at the same place of the world without any."""
    if not alive(like):
        volume.SetIJKToRASMatrix(vtk_matrix(matrix))
        return
    node, place = parts(like)
    try:
        parent, own = parent_to_world(place), world_matrix(like) if node.IsA("vtkMRMLVolumeNode") else None
    except ExchangeError:
        volume.SetIJKToRASMatrix(vtk_matrix(matrix))
        return
    if parent is not None:
        volume.SetAndObserveTransformNodeID(place.GetTransformNodeID())
    if own is not None and np.array_equal(own, matrix) and not any(image_of(like).GetExtent()[::2]):
        _same_grid(volume, node)
    else:
        volume.SetIJKToRASMatrix(vtk_matrix(matrix if parent is None else np.linalg.solve(parent, matrix)))


def _same_grid(volume: Any, like: Any) -> None:
    """The three parts one by one: through the matrix they would change by rounding."""
    directions = vtk.vtkMatrix4x4()
    like.GetIJKToRASDirectionMatrix(directions)
    volume.SetSpacing(like.GetSpacing())
    volume.SetOrigin(like.GetOrigin())
    volume.SetIJKToRASDirectionMatrix(directions)


def put_beside(node: Any, like: Any) -> None:
    """Put a node into the folder, study or patient of the subject hierarchy in which `like` lies."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    place = parts(like)[1] if alive(like) else None
    if hierarchy is None or place is None:
        return
    item, neighbour = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(place)
    if not neighbour:
        return
    parent = hierarchy.GetItemParent(neighbour)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


def name_of(value: Any) -> str:
    """How a sentence names a node, Frame, text or path."""
    node = parts(value)[0]
    return node.GetName() if hasattr(node, "GetName") else os.path.basename(str(node))

"""What the exchange tests share: grids in every orientation, transforms, and the way through the engine's own files."""

from __future__ import annotations

import json
from itertools import permutations, product

import numpy as np
import slicer
import vtk

from diffusion_backend.io.arrays import load_item, save_item
from diffusion_panel import exchange

OBLIQUE = ((20.0, (1.0, 2.0, 3.0)), (-35.0, (0.3, -1.0, 0.2)))  # degrees about an axis, one after the other


def rotation(*turns):
    """4 x 4 rotation, made by VTK."""
    transform = vtk.vtkTransform()
    for degrees, axis in turns:
        transform.RotateWXYZ(degrees, *axis)
    matrix = np.eye(4)
    transform.GetMatrix().DeepCopy(matrix.ravel(), transform.GetMatrix())
    return matrix


def orientations():
    """The 48 directions of axes: every order of the patient's axes, every sign."""
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        directions = np.zeros((3, 3))
        directions[order, range(3)] = signs
        yield directions


STRAIGHT = np.eye(3)


def grid(directions=STRAIGHT, spacing=(0.7, 0.9, 2.5), origin=(-30.25, 17.5, -1200.125), oblique=False):
    """IJK to RAS, 4 x 4."""
    matrix = np.eye(4)
    matrix[:3, :3] = directions * spacing
    matrix[:3, 3] = origin
    return rotation(*OBLIQUE) @ matrix if oblique else matrix


def node_matrix(matrix):
    made = vtk.vtkMatrix4x4()
    made.DeepCopy(np.asarray(matrix, float).ravel())
    return made


def volume(array, matrix=None, name="ct", class_name="vtkMRMLScalarVolumeNode", parent=None):
    """A volume node made by slicer.util, not by our own code."""
    node = slicer.mrmlScene.AddNewNodeByClass(class_name, name)
    slicer.util.updateVolumeFromArray(node, array)
    node.SetIJKToRASMatrix(node_matrix(grid() if matrix is None else matrix))
    if class_name != "vtkMRMLLabelMapVolumeNode":  # its colours are files of the application
        node.CreateDefaultDisplayNodes()
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def values(shape=(3, 4, 5), dtype=np.int16, seed=0):
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return random.normal(0, 500, shape).astype(dtype)
    top = min(np.iinfo(dtype).max, 3000)
    return random.integers(max(np.iinfo(dtype).min, -1000), top, shape).astype(dtype)


def transform(matrix, parent=None, name="moved"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(node_matrix(matrix))
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def bent(name="bent"):
    """A transform that isn't linear."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", name)
    spline = vtk.vtkThinPlateSplineTransform()
    ends = vtk.vtkPoints(), vtk.vtkPoints()
    for corner in product((0.0, 50.0), repeat=3):
        ends[0].InsertNextPoint(corner)
        ends[1].InsertNextPoint(corner[0] + 0.001 * corner[1] * corner[2], corner[1], corner[2])
    spline.SetSourceLandmarks(ends[0])
    spline.SetTargetLandmarks(ends[1])
    spline.SetBasisToR()
    node.SetAndObserveTransformToParent(spline)
    return node


def corners(shape):
    """Voxel indices (i, j, k) of the corners of an array (k, j, i)."""
    return list(product(*((0, n - 1) for n in shape[2::-1])))


def ras(node, shape):
    """World positions of the corner voxels of a volume node, by MRML's own transforms."""
    own, world = vtk.vtkMatrix4x4(), vtk.vtkGeneralTransform()
    node.GetIJKToRASMatrix(own)
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, world)
    return np.array([world.TransformPoint(own.MultiplyPoint((*ijk, 1))[:3]) for ijk in corners(shape)])


def itk_ras(geometry, shape):
    """World positions of the corner voxels from the engine's ITK fields."""
    lps = [np.array(geometry.direction).reshape(3, 3) * geometry.spacing @ ijk for ijk in corners(shape)]
    return (np.array(lps) + geometry.origin) * (-1, -1, 1)


def as_item(folder, exported, name="x"):
    """What the engine reads from a job folder with this input."""
    described = json.loads(json.dumps(exported.description))
    if exported.array is not None:
        np.save(folder / f"{name}.npy", exported.array)
        described["file"] = f"{name}.npy"
    return load_item(folder, described)


def as_result(folder, item, kind):
    """Description and array of a result entry that the engine wrote for `item`."""
    described = json.loads(json.dumps(save_item(folder, "result", item) | {"kind": kind}))
    return described, np.load(folder / described["file"]) if "file" in described else None


def there_and_back(folder, kind, value, like, **options):
    """node -> job folder -> the engine's item -> result entry -> node; the item too."""
    item = as_item(folder, exchange.export(kind, value, **options))
    described, array = as_result(folder, item, kind)
    return exchange.create(described, array, name="back", like=like), item

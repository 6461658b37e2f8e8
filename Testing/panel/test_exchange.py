"""Volumes to the engine and back: every voxel at the same point of the patient, with the same value and type."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer
import vtk

from diffusion_panel import exchange
from diffusion_panel.geometry import ExchangeError

from . import exchanging as ex

SHAPE = (3, 4, 5)
CLOSE = {"rtol": 0, "atol": 1e-4}  # mm
PARENTS = {
    "rotated": [ex.rotation((50, (0, 1, 0.4)))],
    "moved": [ex.grid(origin=(12.5, -3.25, 700.0), spacing=(1, 1, 1))],
    "scaled": [np.diag([2.0, 2.0, 2.0, 1.0])],
    "nested": [
        ex.rotation((33, (1, 1, 0))),
        ex.grid(origin=(5, 6, 7), spacing=(1, 1, 1)),
        ex.rotation((-80, (0, 0, 1))),
    ],
    "mirrored": [np.diag([-1.0, 1.0, 1.0, 1.0])],
}


def parents(name):
    """The innermost of these transforms, each below the next."""
    node = None
    for matrix in reversed(PARENTS[name]):
        node = ex.transform(matrix, node)
    return node


def exact_matrix(node):
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return [matrix.GetElement(r, c) for r in range(4) for c in range(4)]


def check(tmp_path, node, array, kind="volume"):
    """Node, engine and result agree on place and values; returns the result."""
    back, item = ex.there_and_back(tmp_path, kind, node, node)
    expected = ex.ras(node, array.shape)
    np.testing.assert_allclose(ex.itk_ras(item.geometry, array.shape), expected, **CLOSE)
    np.testing.assert_allclose(ex.ras(back, array.shape), expected, **CLOSE)
    assert exact_matrix(back) == exact_matrix(node)
    assert back.GetParentTransformNode() is node.GetParentTransformNode()
    result = slicer.util.arrayFromVolume(back)
    assert result.dtype == array.dtype and np.array_equal(result, array)
    assert item.array.dtype == array.dtype and np.array_equal(item.array, array)
    return back


@pytest.mark.parametrize("oblique", [False, True])
def test_48_orientations_come_back_exactly(tmp_path, oblique):
    array, count = ex.values(SHAPE), 0
    for directions in ex.orientations():
        node = ex.volume(array, ex.grid(directions, oblique=oblique))
        check(tmp_path, node, array)
        count += 1
        slicer.mrmlScene.Clear(0)
    assert count == 48


@pytest.mark.parametrize("name", PARENTS)
@pytest.mark.parametrize("oblique", [False, True])
def test_linear_parents_are_part_of_the_place(tmp_path, name, oblique):
    array = ex.values(SHAPE)
    parent = parents(name)
    for directions in list(ex.orientations())[::7]:
        check(tmp_path, ex.volume(array, ex.grid(directions, oblique=oblique), parent=parent), array)


def test_a_scale_that_keeps_right_angles_is_exact_and_one_that_shears_is_refused(tmp_path):
    parent = ex.transform(np.diag([1.5, 0.5, 2.0, 1.0]))
    array = ex.values(SHAPE)
    for directions in ex.orientations():
        node = ex.volume(array, ex.grid(directions), parent=parent)
        check(tmp_path, node, array)
        slicer.mrmlScene.RemoveNode(node)
    with pytest.raises(ExchangeError, match="'ct' has a sheared grid.*Resample"):
        exchange.export("volume", ex.volume(array, ex.grid(oblique=True), parent=parent))


@pytest.mark.parametrize("nested", [False, True])
def test_a_transform_that_is_not_linear_is_refused(nested):
    parent = ex.bent()
    if nested:
        parent = ex.transform(ex.rotation((10, (0, 0, 1))), parent, "inner")
    node = ex.volume(ex.values(SHAPE), parent=parent)
    with pytest.raises(ExchangeError, match="'ct' lies under the transform '(bent|inner)', which isn't linear.*Harden"):
        exchange.export("volume", node)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_types_are_preserved_and_the_input_is_untouched(tmp_path, dtype):
    array = ex.values(SHAPE, dtype)
    node = ex.volume(array)
    check(tmp_path, node, array)
    exported = exchange.export("volume", node)
    exported.array[...] = 0
    assert np.array_equal(slicer.util.arrayFromVolume(node), array) and exported.array.flags.c_contiguous


@pytest.mark.parametrize(
    "array,stored",
    [
        (np.array([[[True, False]]]), np.uint8),
        (np.array([[[1, -(2**31)]]], np.int64), np.int32),
        (np.array([[[1, 2**40]]], np.int64), np.float64),
        (np.array([[[1, 7]]], np.uint64), np.int32),
        (np.array([[[1.5, -2.0]]], np.float16), np.float32),
        (np.array([[1, 2], [3, 4]], np.int16), np.int16),
        (np.array([[[1, 2]]], ">i2"), np.int16),
        (np.array([[[1.5]]], ">f4"), np.float32),
    ],
)
def test_results_of_other_types_are_stored_in_one_that_volumes_can_hold(array, stored):
    node = exchange.create({"kind": "volume"}, array, name="result")
    result = slicer.util.arrayFromVolume(node)
    assert result.dtype == stored and np.array_equal(result.reshape(array.shape), array.astype(np.float64))


def test_vector_volumes_keep_their_components(tmp_path):
    array = ex.values((*SHAPE, 3), np.uint8)
    node = ex.volume(array, ex.grid(oblique=True), class_name="vtkMRMLVectorVolumeNode", parent=parents("nested"))
    back = check(tmp_path, node, array, "vector volume")
    assert back.IsA("vtkMRMLVectorVolumeNode")


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_volumes_are_complex_for_the_engine(tmp_path, dtype):
    real = np.float32 if dtype == np.complex64 else np.float64
    array = ex.values((*SHAPE, 2), real)
    node = ex.volume(array, class_name="vtkMRMLVectorVolumeNode")
    back, item = ex.there_and_back(tmp_path, "complex volume", node, node)
    assert item.array.dtype == dtype and np.array_equal(item.array, array[..., 0] + 1j * array[..., 1])
    assert np.array_equal(slicer.util.arrayFromVolume(back), array)
    assert back.GetAttribute("DiffusionModels.Complex") == "1"


def test_a_label_map_volume_is_a_volume_too(tmp_path):
    array = ex.values(SHAPE, np.uint8)
    node = ex.volume(array, class_name="vtkMRMLLabelMapVolumeNode")
    back, _item = ex.there_and_back(tmp_path, "volume", node, node)
    assert np.array_equal(slicer.util.arrayFromVolume(back), array)


def test_a_volume_whose_array_does_not_begin_at_zero(tmp_path):
    """IJK counts from VTK's structured origin; arrays from their first voxel."""
    array = ex.values(SHAPE)
    node = ex.volume(array)
    image = vtk.vtkImageData()
    image.DeepCopy(node.GetImageData())
    image.SetExtent(2, 6, -1, 2, 10, 12)
    node.SetAndObserveImageData(image)
    back, item = ex.there_and_back(tmp_path, "volume", node, node)
    own = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(own)
    first = own.MultiplyPoint((2, -1, 10, 1))[:3]
    np.testing.assert_allclose(ex.itk_ras(item.geometry, SHAPE)[0], first, **CLOSE)
    np.testing.assert_allclose(ex.ras(back, SHAPE)[0], first, **CLOSE)


def test_a_slab_moves_along_every_axis(tmp_path):
    array = ex.values((6, 7, 8))
    node = ex.volume(array, ex.grid(oblique=True), parent=parents("nested"))
    everywhere = ex.ras(node, array.shape)
    for axis in range(3):
        back, item = ex.there_and_back(tmp_path, "volume", node, node, slab=(axis, 2, 5))
        part = np.take(array, range(2, 5), axis)
        assert np.array_equal(slicer.util.arrayFromVolume(back), part)
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        start = [2.0 if a == axis else 0.0 for a in (2, 1, 0)]
        world = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, world)
        first = world.TransformPoint(matrix.MultiplyPoint((*start, 1))[:3])
        np.testing.assert_allclose(ex.ras(back, part.shape)[0], first, **CLOSE)
        np.testing.assert_allclose(ex.itk_ras(item.geometry, part.shape)[0], first, **CLOSE)
    assert not np.allclose(ex.ras(back, part.shape)[0], everywhere[0])
    with pytest.raises(ExchangeError, match="Slices 4 to 8 are asked for, but there are 6"):
        exchange.export("volume", node, slab=(0, 4, 9))


def test_the_result_lies_beside_the_input_and_under_its_transform():
    node = ex.volume(ex.values(SHAPE), parent=parents("rotated"))
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    subject = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "somebody")
    study = hierarchy.CreateStudyItem(subject, "a day")
    hierarchy.CreateItem(study, node)
    made = [
        exchange.create(exchange.export("volume", node).description, ex.values(SHAPE), name="r", like=node),
        exchange.create({"labels": {"metal": 1}}, np.ones(SHAPE, np.uint8), name="s", like=node),
        exchange.create({"columns": ["a"], "rows": [[1]]}, None, name="t", like=node),
        exchange.create({"text": "words"}, None, name="w", like=node),
    ]
    for result in made:
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(result)) == study, result.GetName()


def test_results_are_placed_in_the_world_when_the_input_is_gone_or_no_longer_linear(tmp_path):
    node = ex.volume(ex.values(SHAPE), parent=parents("nested"))
    expected = ex.ras(node, SHAPE)
    exported = exchange.export("volume", node)
    node.SetAndObserveTransformNodeID(ex.bent().GetID())
    for _attempt in range(2):
        back = exchange.create(exported.description, exported.array, name="back", like=node)
        assert back.GetParentTransformNode() is None
        np.testing.assert_allclose(ex.ras(back, SHAPE), expected, **CLOSE)
        slicer.mrmlScene.RemoveNode(node)


def test_units_come_from_the_node_before_the_declaration():
    node = ex.volume(ex.values(SHAPE))
    assert exchange.export("volume", node, unit="HU").description["unit"] == "HU"
    entry = slicer.vtkCodedEntry()
    entry.SetValueSchemeMeaning("{SUVbw}g/ml", "UCUM", "SUV")
    node.SetVoxelValueUnits(entry)
    assert exchange.export("volume", node, unit="HU").description["unit"] == "{SUVbw}g/ml"
    made = exchange.create({"kind": "volume", "unit": "Gy"}, ex.values(SHAPE), name="dose")
    assert made.GetVoxelValueUnits().GetCodeValue() == "Gy"
    made.RemoveAttribute("DiffusionModels.Unit")
    assert exchange.export("volume", made, unit="HU").description["unit"] == "Gy"


def removed():
    node = ex.volume(ex.values(SHAPE), name="gone")
    slicer.mrmlScene.RemoveNode(node)
    return node


def bare(class_name="vtkMRMLScalarVolumeNode"):
    return slicer.mrmlScene.AddNewNodeByClass(class_name, "bare")


def hollow():
    node = ex.volume(ex.values(SHAPE), name="hollow")
    image = vtk.vtkImageData()
    node.SetAndObserveImageData(image)
    return node


@pytest.mark.parametrize(
    "kind,value,words",
    [
        ("volume", lambda: None, "No volume is chosen"),
        ("volume", removed, "'gone' was removed from the scene. Choose another volume"),
        ("volume", bare, "'bare' has no image data"),
        ("volume", hollow, "'hollow' has no image data"),
        ("volume", lambda: bare("vtkMRMLTextNode"), "A volume is needed, but a Text"),
        ("volume", lambda: "a text", "A volume is needed, but a str"),
        ("segmentation", lambda: bare("vtkMRMLSegmentationNode"), "'bare' has no segment"),
        ("segmentation", lambda: (None, None), "No segmentation is chosen"),
        ("sequence", lambda: bare("vtkMRMLSequenceNode"), "'bare' has no frame"),
        ("projections", bare, "'bare' has no image data"),
        ("projections", lambda: ex.volume(ex.values(SHAPE)), "'ct' has no geometry of the scan"),
        ("projections", lambda: "/nowhere/x.npz", "There is no file '/nowhere/x.npz'"),
        ("table", lambda: None, "No table is chosen"),
        ("text", lambda: None, "No text is chosen"),
        ("file", lambda: None, "No file is chosen"),
        ("file", lambda: "/nowhere/x", "There is no file '/nowhere/x'"),
        ("dream", lambda: "x", "kind 'dream' aren't known"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(kind, value, words):
    value = value()
    with pytest.raises(ExchangeError, match=words) as error:
        exchange.export(kind, value)
    assert len(str(error.value)) < 200


def test_texts_tables_and_files(tmp_path):
    node = exchange.create({"text": "large left pleural effusion, 測試"}, None, name="prompt")
    assert ex.as_item(tmp_path, exchange.export("text", node)).text == "large left pleural effusion, 測試"
    assert ex.as_item(tmp_path, exchange.export("text", "a prompt")).text == "a prompt"
    assert ex.as_item(tmp_path, exchange.export("file", tmp_path)).text == str(tmp_path)
    rows = [[1, 2.5, "left", 2**40], [-3, 1e-9, "", 1]]
    table = exchange.create({"columns": ["n", "x", "side", "big"], "rows": rows}, None, name="table")
    item = ex.as_item(tmp_path, exchange.export("table", table))
    assert item.columns == ("n", "x", "side", "big") and [list(row) for row in item.rows] == rows
    holes = exchange.create({"columns": ["x"], "rows": [[None], [2]]}, None, name="holes")
    assert np.isnan(exchange.export("table", holes).description["rows"][0][0])


ACQUISITION = {"type": "fan", "angles_deg": [0.0, 1.5, 3.0, 4.5], "bins": 5, "bin_mm": 1.25, "source_axis_mm": 500.0}


def test_projections_in_a_node_and_in_a_file_are_the_same(tmp_path):
    array, matrix = ex.values(SHAPE, np.float32), ex.grid(oblique=True)
    node = ex.volume(array)
    exchange.attach_geometry(node, ACQUISITION, matrix)
    np.savez(tmp_path / "p.npz", sinogram=array, geometry=json.dumps(ACQUISITION), ijkToRAS=matrix)
    for value in (node, str(tmp_path / "p.npz"), tmp_path / "p.npz"):
        item = ex.as_item(tmp_path, exchange.export("projections", value))
        assert np.array_equal(item.array, array) and item.acquisition == ACQUISITION
        assert np.array_equal(item.geometry.ijk_to_ras, matrix) and [a.name for a in item.axes][-2:] == ["view", "bin"]
    back, item = ex.there_and_back(tmp_path, "projections", node, ex.volume(array, parent=parents("rotated")))
    again = ex.as_item(tmp_path, exchange.export("projections", back))
    assert np.array_equal(again.array, array) and again.acquisition == ACQUISITION
    assert np.array_equal(again.geometry.ijk_to_ras, matrix) and back.GetParentTransformNode() is None
    for axis in range(3):  # slices of the scan, whatever axis they are in the volume
        part = ex.as_item(tmp_path, exchange.export("projections", node, slab=(axis, 1, 3)))
        assert np.array_equal(part.array, array[1:3])
    np.testing.assert_allclose(np.array(part.geometry.ijk_to_ras)[:, 3], matrix @ (0, 0, 1, 1), **CLOSE)


def test_a_single_sinogram_stays_whole(tmp_path):
    np.savez(tmp_path / "p.npz", sinogram=ex.values((4, 5), np.float32), geometry=json.dumps(ACQUISITION))
    assert exchange.export("projections", tmp_path / "p.npz", slab=(0, 7, 9)).array.shape == (4, 5)


@pytest.mark.parametrize(
    "content,words",
    [
        ({"sinogram": np.zeros((4, 5))}, "lacks the arrays"),
        ({"sinogram": np.zeros((4, 5)), "geometry": "{"}, "isn't readable JSON"),
        ({"sinogram": np.zeros((4, 5)), "geometry": "{}"}, "lacks type, angles_deg, bins, bin_mm"),
        ({"sinogram": np.zeros((4, 5)), "geometry": "3"}, "lacks type, angles_deg, bins, bin_mm"),
        ({"sinogram": np.zeros(5), "geometry": "{}"}, "has 1 axes of type float64"),
        (b"not a file of arrays", "can't be read as projections"),
    ],
)
def test_files_of_projections_that_lack_something(tmp_path, content, words):
    if isinstance(content, bytes):
        (tmp_path / "p.npz").write_bytes(content)
    else:
        np.savez(tmp_path / "p.npz", **content)
    with pytest.raises(ExchangeError, match=words):
        exchange.export("projections", tmp_path / "p.npz")


def window(node):
    return node.GetDisplayNode().GetWindow(), node.GetDisplayNode().GetLevel()


def test_a_result_to_compare_has_the_window_of_the_input_and_others_one_of_their_own():
    node = ex.volume(ex.values(SHAPE))
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevel(350, 40)
    array = np.linspace(-50, 150, 60).reshape(SHAPE)
    placed = exchange.export("volume", node).description

    def made(description, like=node):
        return exchange.create(placed | description, array, name="r", like=like)

    assert window(made({"unit": "HU", "display": "compare"})) == (350, 40)
    assert not made({"unit": "HU"}).GetDisplayNode().GetAutoWindowLevel()
    node.SetAttribute(exchange.UNIT, "HU")
    for other in (made({"unit": "HU", "display": "overlay"}), made({"unit": "Gy"}), made({"unit": "HU"}, None)):
        np.testing.assert_allclose(window(other), (200, 50), rtol=0.03)
    array[...] = np.nan
    assert window(made({"display": "overlay"}))[0] > 0
    array[...] = 7.0
    assert window(made({"display": "overlay"}))[0] > 0

"""The scene of the stand-in, and the traps of MRML that the panels must know."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk

import headless


def volume(array: np.ndarray, name: str = "CT"):
    return slicer.util.addVolumeFromArray(array, ijkToRAS=np.diag([-1.0, -2.0, 3.0, 1.0]), name=name)


def test_slicer_util_stays_in_its_own_namespace():
    assert hasattr(slicer.util, "arrayFromVolume") and not hasattr(slicer, "arrayFromVolume")
    assert slicer.vtkMRMLScene and slicer.mrmlScene is slicer.app.mrmlScene()


def test_label_volumes_find_their_colours(scene):
    node = slicer.util.addVolumeFromArray(np.ones((2, 3, 4), np.uint8), nodeClassName="vtkMRMLLabelMapVolumeNode")
    assert node.GetDisplayNode().GetColorNode() is not None


def test_a_bundle_comes_back(scene, tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    volume(array)
    assert slicer.util.saveScene(str(tmp_path / "s.mrb"))
    scene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "s.mrb"))
    node = slicer.util.getFirstNodeByName("CT")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), array)


def test_a_relative_bundle_name_keeps_the_working_folder(scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    volume(np.zeros((2, 3, 4), np.float32))
    assert slicer.util.saveScene("s.mrb")
    slicer.util.loadScene("s.mrb", {"clear": True})
    assert (tmp_path / "s.mrb").samefile("s.mrb")


@pytest.mark.parametrize("kind, error", [(np.int64, RuntimeError), (np.float16, TypeError), (bool, TypeError)])
def test_types_that_a_volume_does_not_take(scene, kind, error):
    node = volume(np.zeros((2, 3, 4), np.float32))
    with pytest.raises(error):
        slicer.util.updateVolumeFromArray(node, np.zeros((2, 3, 4), kind))


def test_a_volume_array_is_a_view(scene):
    node = volume(np.zeros((2, 3, 4), np.float32))
    slicer.util.arrayFromVolume(node)[0, 0, 0] = 5
    assert slicer.util.arrayFromVolume(node)[0, 0, 0] == 5


@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz"])
def test_volumes_are_written_and_read(scene, tmp_path, extension):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    node = volume(array)
    assert slicer.util.saveNode(node, str(tmp_path / ("a" + extension)))
    read = slicer.util.loadVolume(str(tmp_path / ("a" + extension)), {"name": "read"})
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(read), array)
    matrices = [vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()]
    node.GetIJKToRASMatrix(matrices[0])
    read.GetIJKToRASMatrix(matrices[1])
    np.testing.assert_allclose(*map(slicer.util.arrayFromVTKMatrix, matrices), atol=1e-5)
    assert read.GetName() == "read"
    assert slicer.app.applicationLogic().GetSelectionNode().GetActiveVolumeID() == read.GetID()


def test_segmentations_are_written_and_read(scene, tmp_path):
    reference = volume(np.zeros((2, 3, 4), np.float32))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    mask = np.zeros((2, 3, 4), np.uint8)
    mask[1, 1:, 2] = 1
    segment = node.GetSegmentation().AddEmptySegment("liver", "liver")
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, reference)
    assert slicer.util.saveNode(node, str(tmp_path / "a.seg.nrrd"))
    read = slicer.util.loadSegmentation(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(read, "liver", reference), mask)


def test_sequences_are_written_and_read_with_a_browser(scene, tmp_path):
    frame = volume(np.zeros((2, 3, 4), np.float32))
    node = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Q")
    for index in range(3):
        node.SetDataNodeAtValue(frame, str(index))
    assert slicer.util.saveNode(node, str(tmp_path / "q.seq.nrrd"))
    read = slicer.util.loadSequence(str(tmp_path / "q.seq.nrrd"))
    assert read.GetNumberOfDataNodes() == 3
    assert slicer.modules.sequences.logic().GetFirstBrowserNodeForSequenceNode(read) is not None


def test_reading_raises_and_writing_answers_false(scene, tmp_path):
    with pytest.raises(RuntimeError, match="no such file"):
        slicer.util.loadVolume(str(tmp_path / "none.nrrd"))
    with pytest.raises(RuntimeError):
        slicer.util.loadNodeFromFile(__file__)
    node = volume(np.zeros((2, 3, 4), np.float32))
    (tmp_path / "file").write_text("a file where a folder is needed")
    with headless.errors.expect("Failed to create directory"):
        assert slicer.util.saveNode(node, str(tmp_path / "file" / "a.nrrd")) is False


def test_closing_the_scene_keeps_singletons(scene):
    colours = scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode")
    volume(np.zeros((2, 3, 4), np.float32))
    scene.Clear(0)
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    assert scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode") == colours > 0


def test_without_a_main_window_there_are_no_views(monkeypatch):
    monkeypatch.setattr(slicer.app.commandOptions(), "noMainWindow", True)
    assert slicer.app.layoutManager() is None

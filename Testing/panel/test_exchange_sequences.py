"""Sequences: frames like volumes, results that move with the source's browser, and its frame left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

from diffusion_panel import exchange, facts, sequences
from diffusion_panel.geometry import ExchangeError

from . import exchanging as ex

SHAPE = (3, 4, 5)


def sequence(count=4, parent=None, browser=True, matrix=None):
    """(sequence, browser or None, array) of a sequence made by MRML's own functions."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
    node.SetIndexName("time")
    node.SetIndexUnit("s")
    array = ex.values((count, *SHAPE))
    for n, part in enumerate(array):
        volume = ex.volume(part, ex.grid(oblique=True) if matrix is None else matrix)
        node.SetDataNodeAtValue(volume, str(0.5 * n))
        slicer.mrmlScene.RemoveNode(volume)
    if not browser:
        return node, None, array
    shown = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "cine browser")
    shown.SetAndObserveMasterSequenceNodeID(node.GetID())
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(shown)
    if parent is not None:
        shown.GetProxyNode(node).SetAndObserveTransformNodeID(parent.GetID())
    return node, shown, array


def update(browser):
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)


def test_sequence_browser_and_shown_volume_name_the_same_frames():
    node, browser, array = sequence()
    shown = browser.GetProxyNode(node)
    for value in (node, browser, shown):
        assert sequences.frames(value) == 4
        assert np.array_equal(exchange.export("volume", sequences.frame(value, 2)).array, array[2])
    assert sequences.showing(shown) is browser and sequences.showing(ex.volume(array[0])) is None
    with pytest.raises(ExchangeError, match="'cine' has 4 frames.*frame 4 is asked for"):
        sequences.frame(node, 4)
    with pytest.raises(ExchangeError, match="A sequence is needed, but a Volume"):
        sequences.frames(ex.volume(array[0]))


def test_a_frame_lies_where_the_browser_shows_it(tmp_path):
    parent = ex.transform(ex.rotation((30, (0.2, 1, 0))), ex.transform(ex.grid(origin=(9, 8, 7), spacing=(1, 1, 1))))
    node, browser, array = sequence(parent=parent)
    shown = browser.GetProxyNode(node)
    item = ex.as_item(tmp_path, exchange.export("volume", sequences.frame(node, 3)))
    np.testing.assert_allclose(ex.itk_ras(item.geometry, SHAPE), ex.ras(shown, SHAPE), rtol=0, atol=1e-4)
    assert facts.facts("volume", sequences.frame(node, 3))["range"][1] == array[3].max()
    assert facts.facts("volume", sequences.frame(node, 1))["range"][1] == array[1].max()


@pytest.mark.parametrize("matrix", [np.diag([-1.0, 2.0, -3.0, 1.0]), None])
def test_results_of_all_frames_move_with_the_browser(tmp_path, matrix):
    parent = ex.transform(ex.rotation((30, (0.2, 1, 0))))
    node, browser, array = sequence(parent=parent, matrix=matrix)
    browser.SetSelectedItemNumber(2)
    update(browser)
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)  # made when first asked for
    before = slicer.mrmlScene.GetNumberOfNodes()
    result = sequences.new_sequence(browser, "cine result")
    for n in range(4):
        frame = sequences.frame(browser, n)
        description = exchange.export("volume", frame).description
        made = exchange.create(description, array[n] + 1, name="r", like=frame)
        sequences.add_frame(result, browser, n, made)
    assert slicer.mrmlScene.GetNumberOfNodes() == before + 1  # the sequence alone
    shown = sequences.synchronise(result, browser)
    assert browser.GetSelectedItemNumber() == 2
    source = browser.GetProxyNode(node)
    for n in (0, 3, 1):
        browser.SetSelectedItemNumber(n)
        update(browser)
        assert np.array_equal(slicer.util.arrayFromVolume(shown), array[n] + 1)
        assert shown.GetParentTransformNode() is parent
        np.testing.assert_allclose(ex.ras(shown, SHAPE), ex.ras(source, SHAPE), rtol=0, atol=1e-4)
    assert (result.GetIndexName(), result.GetIndexUnit(), result.GetNthIndexValue(3)) == ("time", "s", "1.5")
    assert np.array_equal(slicer.util.arrayFromVolume(sequences.frame(node, 3).node), array[3])


def test_frames_that_are_done_stay_when_the_others_were_cancelled():
    node, browser, array = sequence()
    result = sequences.new_sequence(node, "part")
    for n in (0, 1):
        frame = sequences.frame(node, n)
        made = exchange.create(exchange.export("volume", frame).description, array[n], name="r", like=frame)
        sequences.add_frame(result, node, n, made)
    sequences.synchronise(result, node)
    assert sequences.frames(result) == 2 and result.GetNthIndexValue(1) == "0.5"


@pytest.mark.parametrize("browser", [True, False])
def test_a_whole_sequence_goes_and_comes_back(tmp_path, browser):
    node, _browser, array = sequence(browser=browser)
    back, item = ex.there_and_back(tmp_path, "sequence", node, node)
    assert item.array.dtype == array.dtype and np.array_equal(item.array, array)
    assert [a.name for a in item.axes] == ["frame", "k", "j", "i"] and item.axes[1].step == pytest.approx(2.5)
    again = exchange.export("sequence", back)
    assert np.array_equal(again.array, array)
    np.testing.assert_allclose(again.description["ijkToRAS"], item.geometry.ijk_to_ras, rtol=0, atol=1e-6)
    part = exchange.export("sequence", node, slab=(0, 1, 3))
    assert np.array_equal(part.array, array[:, 1:3])


def test_frames_on_different_grids_are_refused():
    node, _browser, array = sequence()
    node.GetNthDataNode(2).SetSpacing(1, 1, 1)
    with pytest.raises(ExchangeError, match="Frame 2 of the sequence 'cine' lies on another grid"):
        exchange.export("sequence", node)
    node.RemoveAllDataNodes()
    with pytest.raises(ExchangeError, match="'cine' has no frame"):
        exchange.export("sequence", node)


def test_segmentations_of_frames_become_a_sequence_too():
    node, browser, array = sequence()
    result = sequences.new_sequence(node, "labels")
    for n in range(4):
        frame = sequences.frame(node, n)
        description = exchange.export("volume", frame).description | {"labels": {"metal": 1}}
        sequences.add_frame(result, node, n, exchange.create(description, (array[n] > 0) * 1, name="m", like=frame))
    shown = sequences.synchronise(result, node)
    browser.SetSelectedItemNumber(3)
    update(browser)
    exported = exchange.export("segmentation", shown, reference=browser.GetProxyNode(node))
    assert np.array_equal(exported.array, array[3] > 0)

"""Segmentations: chosen segments on the grid of a volume, whatever their own; names, codes, colours, overlap."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer
import vtk

from diffusion_panel import exchange
from diffusion_panel.declarations import resource
from diffusion_panel.geometry import ExchangeError

from . import exchanging as ex

SHAPE = (6, 7, 8)
KIND = "Binary labelmap"


def oriented(labels, matrix):
    """A vtkOrientedImageData of labels (k, j, i)."""
    plain = ex.volume(labels.astype(np.uint8), name="plain")
    image = slicer.vtkOrientedImageData()
    image.ShallowCopy(plain.GetImageData())
    image.SetImageToWorldMatrix(ex.node_matrix(matrix))
    slicer.mrmlScene.RemoveNode(plain)
    return image


def segmentation(masks, matrix, name="structures", parent=None):
    """A segmentation node made by MRML's own functions; each mask gets a label map of its own."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    for structure, mask in masks.items():
        node.AddSegmentFromBinaryLabelmapRepresentation(oriented(mask, matrix), structure)
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def blobs(shape=SHAPE):
    """Two masks that don't touch the border and don't overlap."""
    one, two = np.zeros(shape, bool), np.zeros(shape, bool)
    one[1:3, 2:4, 1:5], two[3:5, 4:6, 2:7] = True, True
    return {"metal": one, "bone": two}


def expected_on(node, grid_node, shape):
    """Mask of each segment on the grid of a volume by MRML's own way: world point of each voxel, then the segment's."""
    to_segments = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        grid_node.GetParentTransformNode(), node.GetParentTransformNode(), to_segments
    )
    own = vtk.vtkMatrix4x4()
    grid_node.GetIJKToRASMatrix(own)
    masks = {}
    for segment_id in node.GetSegmentation().GetSegmentIDs():
        segment, mask = node.GetSegmentation().GetSegment(segment_id), np.zeros(shape, bool)
        image = segment.GetRepresentation(KIND)
        inverse = vtk.vtkMatrix4x4()
        image.GetWorldToImageMatrix(inverse)
        extent = image.GetExtent()
        for k, j, i in np.ndindex(shape):
            point = to_segments.TransformPoint(own.MultiplyPoint((i, j, k, 1))[:3])
            at = [round(v) for v in inverse.MultiplyPoint((*point, 1))[:3]]
            if all(extent[2 * a] <= at[a] <= extent[2 * a + 1] for a in range(3)):
                mask[k, j, i] = image.GetScalarComponentAsDouble(*at, 0) == segment.GetLabelValue()
        masks[segment.GetName()] = mask
    return masks


def check(tmp_path, node, reference, shape):
    item = ex.as_item(tmp_path, exchange.export("segmentation", node, reference=reference))
    expected = expected_on(node, reference, shape)
    assert item.array.shape == shape and list(item.labels) == list(expected)
    for name, mask in expected.items():
        assert np.array_equal(item.array == item.labels[name], mask), name
    np.testing.assert_allclose(ex.itk_ras(item.geometry, shape), ex.ras(reference, shape), rtol=0, atol=1e-4)
    return item


@pytest.mark.parametrize("oblique", [False, True])
def test_48_orientations_of_the_volume_s_own_grid(tmp_path, oblique):
    for directions in ex.orientations():
        matrix = ex.grid(directions, oblique=oblique)
        volume, masks = ex.volume(ex.values(SHAPE), matrix), blobs()
        item = ex.as_item(tmp_path, exchange.export("segmentation", segmentation(masks, matrix), reference=volume))
        assert all(np.array_equal(item.array == item.labels[name], mask) for name, mask in masks.items())
        slicer.mrmlScene.Clear(0)


def test_another_grid_is_sampled_where_the_volume_s_voxels_lie(tmp_path):
    """Flipped, coarser, shifted by a fraction, oblique: nearest neighbour at each voxel centre of the volume."""
    for n, directions in enumerate(list(ex.orientations())[::5]):
        volume = ex.volume(
            ex.values(SHAPE), ex.grid(directions, (1.1, 0.8, 1.7), (1.23, 2.34, 3.45), oblique=n % 2 == 1)
        )
        middle = ex.ras(volume, SHAPE).mean(axis=0)
        other = ex.grid(np.eye(3), (0.53, 0.61, 0.97), middle - (6.07, 7.03, 7.01), oblique=False)
        inner = np.zeros((16, 24, 24), bool)
        inner[4:13, 5:20, 3:19] = True
        halves = np.indices(inner.shape).sum(axis=0) % 7 < 4  # slanted bands, so that each axis and sign matters
        node = segmentation({"metal": inner & halves, "bone": inner & ~halves}, other)
        item = check(tmp_path, node, volume, SHAPE)
        assert all((item.array == label).sum() > 10 for label in item.labels.values())
        slicer.mrmlScene.Clear(0)


@pytest.mark.parametrize("degrees,moves", [(0.001, False), (7.0, True)])
def test_a_grid_that_is_turned_a_little_is_sampled_and_not_copied(tmp_path, degrees, moves):
    """Turned by 7 degrees the corners lie half a voxel off; by a thousandth they are the same voxels."""
    volume = ex.volume(ex.values(SHAPE), ex.grid(spacing=(1, 1, 1), origin=(0, 0, 0)))
    noise = ex.values(SHAPE) > 500
    item = check(tmp_path, segmentation({"metal": noise}, ex.rotation((degrees, (0, 0, 1)))), volume, SHAPE)
    assert ((item.array > 0) != noise).any() == moves


def test_transforms_of_the_segmentation_and_of_the_volume(tmp_path):
    outer = ex.transform(ex.grid(origin=(30, -20, 10), spacing=(1, 1, 1)))
    inner = ex.transform(ex.rotation((25, (1, 0.3, 0))), outer)
    matrix = ex.grid(oblique=True)
    volume = ex.volume(ex.values(SHAPE), matrix, parent=inner)
    together = check(tmp_path, segmentation(blobs(), matrix, parent=inner), volume, SHAPE)
    assert all(np.array_equal(together.array == together.labels[n], mask) for n, mask in blobs().items())
    check(tmp_path, segmentation(blobs(), matrix, parent=outer), volume, SHAPE)
    sheared = ex.transform(np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1.2, 0], [0, 0, 0, 1]]))
    check(tmp_path, segmentation(blobs(), matrix, parent=sheared), ex.volume(ex.values(SHAPE), matrix), SHAPE)
    with pytest.raises(ExchangeError, match="'structures' lies under the transform 'bent'"):
        exchange.export("segmentation", segmentation(blobs(), matrix, parent=ex.bent()), reference=volume)


def test_a_part_of_the_grid_and_a_segmentation_that_reaches_beyond_it(tmp_path):
    matrix = ex.grid()
    volume = ex.volume(ex.values((4, 5, 6)), matrix)
    larger = np.zeros((9, 9, 9), bool)
    larger[2:9, 2:9, 2:9] = True
    shift = matrix.copy()
    shift[:, 3] = matrix @ (-3, -2, -1, 1)
    item = check(tmp_path, segmentation({"metal": larger}, shift), volume, (4, 5, 6))
    assert 0 < item.array.sum() < item.array.size
    far = matrix.copy()
    far[:3, 3] += 500
    item = check(tmp_path, segmentation({"metal": larger}, far), volume, (4, 5, 6))
    assert not item.array.any()


def test_segments_that_share_a_label_map_and_chosen_ones(tmp_path):
    labels = np.zeros(SHAPE, np.int64)
    for n, mask in enumerate(blobs().values(), 1):
        labels[mask] = n + 4
    volume = ex.volume(ex.values(SHAPE), ex.grid(oblique=True))
    description = {
        "labels": {"metal": 5, "bone": 6},
        "ijkToRAS": exchange.export("volume", volume).description["ijkToRAS"],
    }
    node = exchange.create(description, labels, name="shared", like=volume)
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    ids = dict(zip(("metal", "bone"), node.GetSegmentation().GetSegmentIDs()))
    item = ex.as_item(tmp_path, exchange.export("structures", (node, {"PTV": ids["bone"]}), reference=volume))
    assert item.labels == {"PTV": 1} and np.array_equal(item.array == 1, blobs()["bone"])
    both = ex.as_item(tmp_path, exchange.export("segmentation", (node, None), reference=volume))
    assert all(np.array_equal(both.array == both.labels[n], mask) for n, mask in blobs().items())
    with pytest.raises(ExchangeError, match="'shared' has no segment 'gone' for 'PTV'"):
        exchange.export("structures", (node, {"PTV": "gone"}), reference=volume)


def test_overlapping_segments_are_refused_unless_one_is_chosen():
    masks = blobs()
    masks["bone"] |= masks["metal"] & (np.indices(SHAPE)[2] == 2)
    volume, node = ex.volume(ex.values(SHAPE)), segmentation(masks, ex.grid())
    count = int((masks["metal"] & masks["bone"]).sum())
    with pytest.raises(ExchangeError, match=f"'metal' and 'bone' overlap in {count} voxels.*Choose one"):
        exchange.export("segmentation", node, reference=volume)
    chosen = {"bone": node.GetSegmentation().GetSegmentIDs()[1]}
    exported = exchange.export("segmentation", (node, chosen), reference=volume)
    assert np.array_equal(exported.array == 1, masks["bone"])


def test_empty_and_equally_named_segments(tmp_path):
    node = segmentation({"metal": blobs()["metal"]}, ex.grid())
    node.GetSegmentation().AddEmptySegment("", "metal")
    item = ex.as_item(tmp_path, exchange.export("segmentation", node, reference=ex.volume(ex.values(SHAPE))))
    assert item.labels == {"metal": 1, "metal 2": 2} and set(np.unique(item.array)) == {0, 1}


def test_surfaces_are_filled_in_a_copy(tmp_path):
    """A segmentation that has closed surfaces alone, as structure sets have."""
    volume = ex.volume(ex.values((20, 20, 20)), ex.grid(spacing=(1, 1, 1), origin=(-10, -10, -10), oblique=True))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surfaces")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(5)
    sphere.SetThetaResolution(40)
    sphere.SetPhiResolution(40)
    sphere.SetCenter(*ex.ras(volume, (20, 20, 20)).mean(axis=0))
    sphere.Update()
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball")
    item = ex.as_item(tmp_path, exchange.export("segmentation", node, reference=volume))
    distance = np.linalg.norm(np.indices((20, 20, 20)) - 9.5, axis=0)
    assert (item.array == (distance < 5))[np.abs(distance - 5) > 0.1].all()  # the surface is a polyhedron
    assert not node.GetSegmentation().ContainsRepresentation(KIND)


def test_label_maps_serve_as_segmentations(tmp_path):
    labels = np.zeros(SHAPE, np.int16)
    labels[1:3, 1:3, 1:3], labels[4, 4, 4] = 3, 200
    volume = ex.volume(ex.values(SHAPE))
    node = ex.volume(labels, class_name="vtkMRMLLabelMapVolumeNode")
    item = ex.as_item(tmp_path, exchange.export("segmentation", node, reference=volume))
    assert item.labels == {"label 3": 3, "label 200": 200} and np.array_equal(item.array, labels)
    flipped = ex.volume(labels, ex.grid(np.diag([-1.0, 1, 1])), class_name="vtkMRMLLabelMapVolumeNode")
    volume.SetIJKToRASMatrix(ex.node_matrix(ex.grid(origin=(-30.25 - 7 * 0.7, 17.5, -1200.125))))
    item = ex.as_item(tmp_path, exchange.export("segmentation", flipped, reference=volume))
    assert np.array_equal(item.array, labels[:, :, ::-1])
    with pytest.raises(ExchangeError, match="values of type float32"):
        exchange.export("segmentation", ex.volume(labels.astype(np.float32), class_name="vtkMRMLLabelMapVolumeNode"))


@pytest.mark.parametrize("parent", [None, "inner"])
def test_a_result_comes_back_on_the_volume_s_grid_with_its_geometry(tmp_path, parent):
    for directions in list(ex.orientations())[::9]:
        outer = ex.transform(ex.rotation((40, (0, 1, 1)))) if parent else None
        volume = ex.volume(ex.values(SHAPE), ex.grid(directions, oblique=True), parent=outer)
        node = segmentation(blobs(), ex.grid(directions, oblique=True), parent=outer)
        back, item = ex.there_and_back(tmp_path, "segmentation", node, volume, reference=volume)
        again = ex.as_item(tmp_path, exchange.export("segmentation", back, reference=volume))
        assert np.array_equal(again.array, item.array) and again.labels == item.labels
        assert all(np.array_equal(mask, blobs()[n]) for n, mask in expected_on(back, volume, SHAPE).items())
        assert back.GetNodeReference("referenceImageGeometryRef") is volume
        alone = exchange.export("segmentation", back)  # no volume: the segmentation's own geometry
        assert np.array_equal(alone.array, item.array)
        slicer.mrmlScene.Clear(0)


def test_the_user_s_segmentation_is_not_changed():
    node, volume = segmentation(blobs(), ex.grid()), ex.volume(ex.values(SHAPE))
    times = node.GetSegmentation().GetMTime(), node.GetMTime()
    exported = exchange.export("segmentation", node, reference=volume)
    exported.array[...] = 7
    assert (node.GetSegmentation().GetMTime(), node.GetMTime()) == times
    assert np.array_equal(exchange.export("segmentation", node, reference=volume).array > 0, sum(blobs().values()))


SIDES = {"right": "SCT^24028007^Right", "left": "SCT^7771000^Left"}


def test_every_structure_has_an_entry_of_seven_parts_and_left_differs_from_right():
    table = json.loads(resource("Anatomy", "terminology.json").read_text(encoding="utf-8"))
    names = [row["names"][0] for row in table["structures"]]
    labels = {name: n for n, name in enumerate(names, 1)}
    node = exchange.create({"labels": labels}, np.arange(len(names) + 1).reshape(1, 1, -1), name="all")
    entries, colours = {}, {}
    for segment_id in node.GetSegmentation().GetSegmentIDs():
        segment = node.GetSegmentation().GetSegment(segment_id)
        entries[segment.GetName()] = segment.GetTerminology().split("~")
        colours[segment.GetName()] = segment.GetColor()
    assert list(entries) == names
    assert all(len(e) == 7 and all(t.count("^") == 2 for t in (*e[1:4], *e[5:])) for e in entries.values())
    assert len({tuple(e) for e in entries.values()}) == len(set(colours.values())) == len(names)
    for side, modifier in SIDES.items():
        assert all((e[3] == modifier) == n.startswith(side) for n, e in entries.items() if side in n)
    assert entries["spinal cord"][2] == "SCT^2748008^Spinal cord"


@pytest.mark.parametrize("name", ["LeftParotid", "parotid left", "Left_Parotid", "Parotid_L", "left parotid"])
def test_spellings_of_one_structure_get_one_code(name):
    node = exchange.create({"labels": {name: 1}}, np.ones((1, 1, 1), np.uint8), name="one")
    segment = node.GetSegmentation().GetNthSegment(0)
    assert segment.GetName() == name
    assert "Parotid gland~SCT^7771000^Left" in segment.GetTerminology()


def test_unknown_structures_keep_their_name_and_get_a_colour():
    node = exchange.create({"labels": {"thing": 1, "other": 2}}, np.ones((1, 1, 1), np.uint8), name="two")
    colours = [node.GetSegmentation().GetNthSegment(n).GetColor() for n in range(2)]
    assert colours[0] != colours[1]

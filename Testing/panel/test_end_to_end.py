"""Panel, terminal and files together: one job gives the same arrays everywhere; each reads what the other writes."""

from __future__ import annotations

import sys

import numpy as np
import slicer

from diffusion_backend.__main__ import main as terminal
from diffusion_backend.data import PatientGeometry, Segmentation
from diffusion_backend.io import images

from .panels import ct_with_metal, panel

TILTED = np.array([[-0.8, 0.6, 0, 20], [0.48, 0.64, -1.8, -7], [-0.36, -0.48, -2.4, 3], [0, 0, 0, 1.0]])


def test_panel_and_terminal_give_identical_arrays(tmp_path, capsys):
    """The same settings on the same CT, once by the panel's button, once by the command that the panel copies."""
    widget, ct = panel(), ct_with_metal()
    ct.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(TILTED))
    assert slicer.util.saveNode(ct, str(tmp_path / "ct.nrrd"))
    method = next(m["id"] for m in widget.chooser.methods if m["state"] == "works" and not m["models"]
                  and m["inputs"][0]["kind"] == "volume")  # fmt: skip
    widget.choose(method)
    nodes = widget.logic.run(**widget.request(inputs={"ct": ct}, threads=1))
    given = ["--input", str(tmp_path / "ct.nrrd"), "--output", str(tmp_path / "out"), "--threads", "1"]
    assert terminal(["run", method, *given]) == 0
    (tmp_path / "saved").mkdir()
    for name, node in nodes.items():
        if node.IsA("vtkMRMLScalarVolumeNode"):
            file = images.read_volume(tmp_path / "out" / f"{name}.nrrd")
            assert np.array_equal(slicer.util.arrayFromVolume(node), file.array), name
            assert slicer.util.saveNode(node, str(tmp_path / "saved" / f"{name}.nrrd"))
            saved = images.read_volume(tmp_path / "saved" / f"{name}.nrrd")
            assert np.allclose(saved.geometry.ijk_to_ras, file.geometry.ijk_to_ras, rtol=0, atol=1e-9)


def test_segmentations_of_the_engine_open_in_slicer_without_a_remark(tmp_path, capfd):
    array = np.zeros((4, 6, 5), np.uint8)
    array[1:3, 2:5, 1:4] = 1
    array[3, 0, 0] = 2
    placed = PatientGeometry.from_ijk_to_ras(TILTED)
    images.write_item(Segmentation(array, placed, {"metal": 1, "bone": 2}), tmp_path / "a.seg.nrrd")
    node = slicer.util.loadSegmentation(str(tmp_path / "a.seg.nrrd"))
    sys.stderr.flush()
    assert "Segment extent" not in capfd.readouterr().err
    names = {node.GetSegmentation().GetNthSegment(n).GetName(): n for n in range(2)}
    reference = slicer.util.addVolumeFromArray(array, ijkToRAS=TILTED)
    for name, value in (("metal", 1), ("bone", 2)):
        segment = node.GetSegmentation().GetNthSegmentID(names[name])
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, reference)
        assert np.array_equal(mask > 0, array == value), name

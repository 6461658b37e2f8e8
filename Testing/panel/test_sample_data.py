"""Sample data in the panel: one button makes, chooses and explains them; the Sample Data module lists them."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import slicer

from diffusion_panel import declarations, sample_data
from diffusion_panel.jobs import InputProblem

from .panels import panel, wait


def loaded(widget, method):
    """Press the button and wait for the nodes."""
    widget.choose(method)
    widget.ui.sampleButton.click()
    job = widget.logic.jobs[-1]
    wait(lambda: job.is_over, "the sample data")
    assert job.state == "done", job.message
    return job


def first_with_sample(kind):
    return next(m for m in declarations.of_module("reconstruction") if m["sample"] and m["inputs"][0]["kind"] == kind)


@pytest.mark.parametrize("kind", ["volume", "projections"])
def test_one_button_loads_chooses_and_tells_what_to_expect(kind):
    widget, method = panel(), first_with_sample(kind)
    widget.choose(method["id"])
    assert not widget.ui.sampleLabel.isVisibleTo(widget.panel)
    job = loaded(widget, method["id"])
    name = method["inputs"][0]["name"]
    assert widget.request()["inputs"] == {name: job.nodes[name]} and widget.read().reference is job.nodes["reference"]
    assert widget.problems() == []
    assert f"{method['sample']['after']:g} HU" in widget.ui.sampleLabel.text
    assert widget.ui.sampleLabel.isVisibleTo(widget.panel)
    assert np.ptp(slicer.util.arrayFromVolume(job.nodes["reference"])) > 500
    other = next(m["id"] for m in widget.chooser.methods if m["id"] != method["id"])
    widget.choose(other)
    assert not widget.ui.sampleLabel.isVisibleTo(widget.panel)


def test_another_method_chosen_meanwhile_keeps_its_inputs():
    widget, method = panel(), first_with_sample("volume")
    widget.choose(method["id"])
    widget.ui.sampleButton.click()
    other = first_with_sample("projections")["id"]
    widget.choose(other)
    job = widget.logic.jobs[-1]
    wait(lambda: job.is_over)
    assert widget.read().method == other and widget.request()["inputs"] == {}


def test_methods_without_sample_have_no_button():
    widget = panel("synthesis")
    assert not widget.ui.sampleButton.isVisibleTo(widget.panel)
    with pytest.raises(InputProblem, match="sample"):
        widget.logic.sample(widget.chooser.current()["id"])


def test_cancelled_sample_data_leave_nothing():
    widget, method = panel(), first_with_sample("volume")
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode")
    widget.choose(method["id"])
    widget.ui.sampleButton.click()
    job = widget.logic.jobs[-1]
    widget.jobs.cancel_all()
    wait(lambda: job.is_over)
    assert job.state == "cancelled" and slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == before


def test_the_sample_data_module_lists_and_makes_them(monkeypatch):
    """A stand-in for Slicer's module with its two registration functions; a reload registers nothing twice."""
    sources = {}

    class Source:
        def __init__(self, category, **fields):
            self.__dict__ |= fields
            sources.setdefault(category, []).append(self)

    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **f: Source(**f),
                                  registerCustomSampleDataCategory=lambda category, title: None)  # fmt: skip
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    monkeypatch.setattr(slicer.modules, "sampleDataSources", sources, raising=False)
    widget = panel()
    for _ in range(2):
        slicer.app.startupCompleted.emit()
    listed = sources[sample_data.CATEGORY]
    wanted = [m for m in declarations.of_module("reconstruction") if m["sample"]]
    assert [s.sampleName for s in listed] == [f"DiffusionModels {m['name']}" for m in wanted]
    made = listed[-1].customDownloader(listed[-1])
    assert set(made) == set(widget.logic.jobs[-1].nodes.values()) and len(made) == 2
    assert all(s.thumbnailFileName.endswith(".png") for s in listed)

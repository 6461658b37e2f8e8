"""The panel in use: choose, fill, apply, cancel, queue, errors, scenes, reload, search, planned methods."""

from __future__ import annotations

import html
import sys
from pathlib import Path

import headless
import numpy as np
import pytest
import slicer
from headless import errors

from diffusion_panel import declarations
from diffusion_panel.method_chooser import RUNNABLE
from diffusion_panel.module import PACKAGES, forget_packages
from diffusion_panel.recovery import Entry

from .panels import MODULES, ct_with_metal, panel, unload, wait

ALL = list(declarations.declarations().values())
FAST = next(m["id"] for m in ALL if m["state"] == "works" and not m["models"] and m["inputs"][0]["kind"] == "volume")
SLOW = next(m["id"] for m in ALL if m["state"] == "works" and m["models"])


@pytest.fixture(scope="module", autouse=True)
def unloaded():
    """No panel outlives this file."""
    yield
    unload()


@pytest.fixture
def reconstruction():
    shown = panel()
    shown.jobs.release()
    shown.ui.queueList.clear()
    yield shown
    shown.logic.cancel()
    wait(lambda: all(job.is_over for job in shown.logic.jobs), "the jobs to end")


def filled(shown, method=FAST, **size):
    """Choose a method and give it a CT; returns the CT."""
    ct = ct_with_metal(**size)
    shown.choose(method)
    shown.inputs.fields["ct"].set_node(ct)
    shown.check()
    return ct


def test_apply_makes_result_nodes_and_shows_them_in_the_list(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    ct = filled(shown)
    before = slicer.util.arrayFromVolume(ct).copy()
    assert ui.applyButton.enabled and ui.problemFrame.isHidden()
    ui.applyButton.click()
    job = shown.jobs.watched[0]
    assert ui.applyButton.text == "Cancel" and not ui.progressWidget.isHidden()
    wait(lambda: job.is_over)
    assert job.state == "done", job.message
    assert ui.applyButton.text == "Apply" and ui.progressWidget.isHidden()
    assert set(job.nodes) >= {"corrected", "difference"}
    assert (slicer.util.arrayFromVolume(ct) == before).all()
    assert ui.resultList.count == 1 and shown.results.current().method == FAST
    assert shown.results.current().inputs() == {"ct": ct}


def test_apply_says_what_is_missing(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    shown.choose(FAST)
    shown.inputs.clear()
    shown.check()
    assert not ui.applyButton.enabled and "ct" in ui.applyButton.toolTip
    assert "ct" in ui.problemLabel.text and not ui.problemFrame.isHidden()
    hot = slicer.util.addVolumeFromArray(np.full((2, 32, 32), 100, np.int16), name="no air")
    shown.inputs.fields["ct"].set_node(hot)
    wait(lambda: "HU" in ui.problemLabel.text, "the check of the range")
    assert not ui.applyButton.enabled


def test_cancel_ends_the_job_and_leaves_the_scene_as_it_was(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    filled(shown, SLOW, slices=8, size=96)
    shown.form.set_preset("published")
    shown.check()
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    ui.applyButton.click()
    job = shown.jobs.watched[0]
    wait(lambda: "left" in ui.progressLabel.text, "the remaining time")
    assert "of 8" in ui.progressLabel.text and "MB" in ui.progressLabel.text
    ui.applyButton.click()
    wait(lambda: job.is_over)
    assert job.state == "cancelled" and slicer.mrmlScene.GetNumberOfNodes() == nodes
    assert ui.applyButton.text == "Apply" and ui.applyButton.enabled


def test_a_second_run_waits_for_the_first(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    filled(shown)
    shown.apply()
    wait(lambda: not ui.queueButton.isHidden())
    ui.queueButton.click()
    second, first = shown.jobs.watched[:2]
    assert second.state == "queued" and ui.queueList.count == 2
    wait(lambda: second.is_over)
    assert first.state == second.state == "done" and first.ended <= second.started
    assert ui.resultList.count == 2


def test_cancel_all_ends_what_waits(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    filled(shown)
    jobs = [shown.apply() for _ in range(3)]
    ui.cancelAllButton.click()
    wait(lambda: all(job.is_over for job in jobs))
    assert {job.state for job in jobs} == {"cancelled"}


def test_an_error_of_the_engine_is_one_sentence_in_the_panel(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    ct = filled(shown)
    slicer.util.arrayFromVolume(ct)[:] = -1000  # air alone: facts don't tell, the pixels do
    slicer.util.arrayFromVolumeModified(ct)
    job = shown.logic.run(**shown.request(), wait=False)  # from the console
    assert shown.jobs.watched == [job] and ui.queueList.count == 1
    wait(lambda: job.is_over)
    assert job.state == "failed"
    assert ui.errorLabel.text.startswith(job.message) and not ui.errorFrame.isHidden()
    assert "Traceback" not in ui.errorLabel.text and ui.errorLabel.text.endswith(".")
    shown.jobs.error.say("")
    assert ui.errorFrame.isHidden()


def test_try_on_this_slice_computes_the_slice_of_the_red_view(reconstruction):
    shown = reconstruction
    filled(shown)
    slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed").JumpSliceByCentering(0, 0, -17)
    shown.ui.sliceButton.click()
    job = shown.jobs.watched[0]
    wait(lambda: job.is_over)
    assert job.state == "done", job.message
    made = job.nodes["corrected"]
    assert made.GetImageData().GetDimensions() == (48, 48, 1)
    assert made.GetOrigin()[2] == pytest.approx(-17)
    slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed").JumpSliceByCentering(0, 0, 500)
    shown.ui.sliceButton.click()
    assert "Red view" in shown.ui.errorLabel.text


def test_the_estimate_comes_by_itself(reconstruction):
    shown = reconstruction
    filled(shown)
    wait(lambda: "MB" in shown.ui.estimateLabel.text, "the estimate")
    shown.ui.samplesSpin.setValue(2)
    assert "MB" not in shown.ui.estimateLabel.text
    shown.ui.estimateButton.click()
    wait(lambda: "MB" in shown.ui.estimateLabel.text, "the second estimate")


def settings_of(shown):
    """Everything that a scene must bring back, with nodes by name."""
    settings = vars(shown.read()).copy()
    settings["inputs"] = {k: v and v.GetName() for k, v in settings["inputs"].items()}
    for name in ("roi", "reference"):
        settings[name] = settings[name] and settings[name].GetName()
    return settings


def test_a_saved_scene_brings_everything_back(reconstruction, tmp_path):
    shown = reconstruction
    ct = filled(shown)
    metal = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Metal")
    metal.SetReferenceImageGeometryParameterFromVolumeNode(ct)
    mask = (slicer.util.arrayFromVolume(ct) > 2500).astype(np.uint8)
    for name in ("left", "right"):
        segment = metal.GetSegmentation().AddEmptySegment(name, name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, metal, segment, ct)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    shown.inputs.fields["metal"].set_node(metal)
    shown.inputs.fields["metal"].set_extra({"left_out": ["right"]})
    numbers = {n: f.value() + 1 for n, f in shown.form.fields.items() if type(f.value()) is int and f.value() > 0}
    shown.form.set_values(numbers)
    shown.ui.roiSelector.setCurrentNode(roi)
    shown.ui.referenceSelector.setCurrentNode(ct)
    shown.ui.samplesSpin.setValue(3)
    shown.ui.seedSpin.setValue(42)
    shown.ui.threadsSpin.setValue(2)
    shown.ui.deviceCombo.setCurrentIndex(1)
    shown.on_changed()
    saved = settings_of(shown)
    bundle = str(tmp_path / "scene ü.mrb")
    assert slicer.util.saveScene(bundle)
    slicer.mrmlScene.Clear(0)
    assert shown.read().inputs == {"ct": None, "sinogram": None, "metal": None}
    assert shown.read().roi is None and shown.read().seed == 0
    shown.parent.exit()
    slicer.util.loadScene(bundle)
    shown.parent.enter()
    assert settings_of(shown) == saved


def test_a_closed_scene_ends_the_jobs_and_empties_the_panel(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    filled(shown)
    job = shown.apply()
    slicer.mrmlScene.Clear(0)
    wait(lambda: job.is_over)
    assert job.state == "cancelled"
    assert shown.inputs.values() == {} and not ui.applyButton.enabled or ui.applyButton.text == "Apply"
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    assert ui.resultList.count == 0


def test_a_run_is_repeated_from_its_result_node(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    filled(shown)
    name, field = next((n, f) for n, f in shown.form.fields.items() if type(f.value()) is float)
    shown.form.set_values({name: field.value() + 1 / 3})
    shown.ui.seedSpin.setValue(7)
    first = shown.apply()
    wait(lambda: first.is_over)
    assert first.state == "done", first.message
    wanted = settings_of(shown)
    shown.choose(next(m["id"] for m in ALL if m["module"] == "reconstruction" and m["id"] != FAST))
    shown.ui.seedSpin.setValue(0)
    ui.provenanceSelector.setCurrentNode(first.nodes["corrected"])
    assert ui.rerunButton.enabled
    ui.rerunButton.click()
    second = shown.jobs.watched[0]
    assert second is not first
    found = settings_of(shown)
    for used in (wanted, found):  # device and threads are now those that were used
        used.pop("device"), used.pop("threads")
    assert found == wanted
    wait(lambda: second.is_over)
    assert second.state == "done", second.message
    for output in ("corrected", "difference"):
        arrays = [slicer.util.arrayFromVolume(job.nodes[output]) for job in (first, second)]
        assert (arrays[0] == arrays[1]).all()


def test_texts_to_copy(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    filled(shown)
    ui.copyPythonButton.click()
    assert f"logic.run(\n    '{FAST}'" in slicer.app.clipboard().text()
    ui.copyCommandButton.click()
    assert f"run {FAST}" in slicer.app.clipboard().text()
    ui.bibtexButton.click()
    assert slicer.app.clipboard().text() == (shown.chooser.current()["citation"] or {}).get("bibtex")
    job = shown.apply()
    wait(lambda: job.is_over)
    ui.copyReportButton.click()
    assert f"method {FAST}" in slicer.app.clipboard().text()


@pytest.mark.parametrize("module", MODULES)
def test_every_method_can_be_chosen_and_planned_ones_have_no_apply(module):
    shown = panel(module)
    for method in declarations.of_module(module):
        shown.choose(method["id"])
        shown.check()
        runnable = method["state"] in RUNNABLE
        assert shown.ui.applyWidget.isHidden() is not runnable
        assert shown.ui.plannedLabel.isHidden() is runnable
        assert ("Planned" in shown.ui.stateLabel.text) is (method["state"] == "planned")
        assert method["summary"] in html.unescape(shown.ui.descriptionLabel.text)
        assert shown.form.values() == declarations.defaults(method["id"])
    assert shown.ui.methodList.count == len(declarations.of_module(module))


def test_search_keeps_the_methods_with_all_the_words(reconstruction):
    shown = reconstruction
    everything = [m["id"] for m in declarations.of_module("reconstruction")]
    shown.ui.searchLine.text = "LINEAR interpol"
    wanted = [m["id"] for m in declarations.of_module("reconstruction") if m["name"] == "Linear interpolation"]
    assert shown.chooser.shown() == wanted and len(wanted) == 1
    shown.ui.searchLine.text = "no such word"
    assert shown.chooser.shown() == []
    shown.ui.searchLine.text = ""
    assert shown.chooser.shown() == everything


def test_another_method_takes_inputs_of_the_same_name_along(reconstruction):
    shown = reconstruction
    ct = filled(shown)
    shown.choose(SLOW)
    assert shown.inputs.fields["ct"].node() is ct
    shown.choose(FAST)
    assert shown.inputs.fields["ct"].node() is ct


def test_a_removed_input_disables_apply(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    ct = filled(shown)
    assert ui.applyButton.enabled
    slicer.mrmlScene.RemoveNode(ct)
    wait(lambda: not ui.applyButton.enabled, "Apply to be disabled")


@pytest.fixture
def packages_kept():
    """Puts the packages that the tests have imported back, and the module on top of them."""
    kept = {n: m for n, m in sys.modules.items() if n.split(".")[0] in PACKAGES}
    yield
    forget_packages()
    sys.modules.update(kept)
    slicer.util.reloadScriptedModule("DiffusionReconstruction")


def test_a_reload_leaves_nothing_of_the_old_panel(reconstruction, packages_kept):
    shown = reconstruction
    filled(shown)
    job = shown.apply()
    wait(lambda: job.state == "running")
    old = sys.modules["diffusion_panel.widget"]
    shown.onReload()
    assert job.is_over and job.state == "cancelled"
    fresh = slicer.util.getModuleWidget("DiffusionReconstruction")
    assert fresh is not shown and sys.modules["diffusion_panel.widget"] is not old
    fresh.parent.enter()
    ct_with_metal()
    fresh.choose(FAST)
    fresh.check()


def test_cleanup_works_after_a_setup_that_failed(monkeypatch):
    shown = panel("segmentation")
    broken = type(shown)(slicer.qMRMLWidget())
    monkeypatch.setattr(slicer.util, "loadUI", lambda path: (_ for _ in ()).throw(RuntimeError("no file")))
    with pytest.raises(RuntimeError, match="no file"):
        broken.setup()
    broken.cleanup()


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("palette", ["light", "dark"])
def test_nothing_is_cut_off_at_400_pixels(module, palette, tmp_path):
    shown = panel(module)
    headless.palette(palette)
    try:
        for method in declarations.of_module(module):
            shown.choose(method["id"])
            shown.ui.advancedSection.collapsed = False
            assert shown.panel.sizeHint.width() > 0
            assert shown.panel.minimumSizeHint.width() <= 380, method["id"]
        picture = headless.grab(shown.parent, tmp_path / "panel.png", width=400)
        assert picture.stat().st_size > 10000
    finally:
        headless.palette("light")
        shown.ui.advancedSection.collapsed = True


def test_tab_goes_through_the_generated_widgets_where_they_are(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    for method in (SLOW, FAST):
        shown.choose(method)
        order, widget = [], ui.searchLine
        while widget is not ui.applyButton:
            order.append(widget)
            widget = widget.nextInFocusChain()
            assert len(order) < 1000
        wanted = [ui.searchLine, ui.methodList, *shown.models.combos.values()]
        wanted += [f.selector for f in shown.inputs.fields.values()] + [ui.presetCombo]
        wanted += [*shown.form.widgets("basic"), ui.advancedSection, *shown.form.widgets("advanced")]
        wanted += [ui.runSection, ui.deviceCombo, ui.threadsSpin, ui.seedSpin, ui.roiSelector]
        places = [order.index(w) for w in wanted]
        assert places == sorted(places)


def test_a_result_that_was_never_loaded_is_offered(reconstruction, monkeypatch):
    shown, ui = reconstruction, reconstruction.ui
    entries = [Entry(Path("a"), FAST, 1.8e9, ("corrected",)), Entry(Path("b"), "unknown", 1.7e9, ())]
    calls = []
    monkeypatch.setattr(shown.logic, "recoverable", lambda: list(entries))
    monkeypatch.setattr(shown.logic, "recover", lambda e: calls.append(("recover", entries.pop(0))))
    monkeypatch.setattr(shown.logic, "discard", lambda e: calls.append(("discard", entries.pop(0))))
    shown.recovery.refresh()
    name = declarations.method(FAST)["name"]
    assert not ui.recoverFrame.isHidden() and name in ui.recoverLabel.text and "1 more" in ui.recoverLabel.text
    ui.recoverButton.click()
    ui.discardButton.click()
    assert [what for what, _ in calls] == ["recover", "discard"] and ui.recoverFrame.isHidden()


def test_warnings_of_the_domain_are_shown_with_their_job(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    filled(shown)
    job = shown.apply()
    job.warnings.append("Outside what the model was trained on.")
    job.changed.emit(job)
    assert ui.domainLabel.text == "Outside what the model was trained on." and not ui.domainFrame.isHidden()
    wait(lambda: job.is_over)
    assert not ui.domainFrame.isHidden()
    shown.apply()
    assert ui.domainFrame.isHidden()


def test_metrics_are_shown_where_a_reference_was_given(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    ct = filled(shown)
    ui.referenceSelector.setCurrentNode(ct)
    job = shown.apply()
    wait(lambda: job.is_over)
    assert job.state == "done", job.message
    assert not ui.metricsTable.isHidden()
    assert ui.metricsTable.rowCount == job.nodes["metrics"].GetNumberOfRows() > 0
    ui.compareButton.click()
    assert not ui.layoutButton.isHidden()
    ui.layoutButton.click()
    assert ui.layoutButton.isHidden()
    ui.showButton.click()
    composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == job.nodes["corrected"].GetID()


def test_a_new_region_is_the_box_around_the_input_and_limits_the_run(reconstruction):
    shown, ui = reconstruction, reconstruction.ui
    ct = filled(shown, slices=4)
    roi = ui.roiSelector.addNode("vtkMRMLMarkupsROINode")
    assert ui.roiSelector.currentNode() is roi
    found, bounds = [0.0] * 6, [0.0] * 6
    roi.GetRASBounds(found)
    ct.GetRASBounds(bounds)
    assert found == pytest.approx(bounds)
    roi.SetSizeWorld([bounds[1] - bounds[0], bounds[3] - bounds[2], 6.0])
    job = shown.apply()
    wait(lambda: job.is_over)
    assert job.state == "done", job.message
    before, after = (slicer.util.arrayFromVolume(n) for n in (ct, job.nodes["corrected"]))
    assert before.shape == after.shape
    changed = [k for k in range(4) if (before[k] != after[k]).any()]
    assert changed == [1, 2]


def test_no_slot_has_failed():
    assert errors.take() == []


def test_apply_waits_for_the_engines_packages(reconstruction, monkeypatch):
    """A sentence says what is missing; when it is there, the process of the engine starts anew."""
    from diffusion_panel.installing import state

    reconstruction.choose(FAST)
    reconstruction.inputs.take({"ct": ct_with_metal()})
    missing = state.State(False, "The engine needs torch 2.3 or later, but there is none.")
    monkeypatch.setattr(state, "read", lambda: missing)
    reconstruction.enter()
    assert reconstruction.problems() == [missing.sentence] and not reconstruction.ui.applyButton.enabled
    assert not reconstruction.engine.section.collapsed
    monkeypatch.setattr(state, "read", lambda: state.State(True, "Engine ready."))
    ended = []
    monkeypatch.setattr(reconstruction.logic.queue.worker, "kill", lambda: ended.append(True))
    reconstruction.installation.finished.emit()
    assert reconstruction.problems() == [] and reconstruction.ui.applyButton.enabled and ended
    assert reconstruction.engine.section.collapsed
    monkeypatch.setattr(type(reconstruction.installation), "busy", True)
    assert reconstruction.problems() == ["The engine is being installed."]

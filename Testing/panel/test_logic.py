"""The logic on real MRML: with the dummy engine what may go wrong, with the real engine what has to come out."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slicer
import vtk
from slicer.util import addVolumeFromArray, arrayFromVolume

from diffusion_panel import declarations, process, provenance, report
from diffusion_panel.logic import DiffusionLogic, EngineFailure, InputProblem

from .engines import children, dummy_worker, folders_left, others, until  # noqa: F401  (fixture)

REPOSITORY = Path(__file__).resolve().parents[2]
RAS = np.array([[-0.8, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 2.5, -40], [0, 0, 0, 1.0]])
NAME = "Größe µ Doe^John"


class TestedLogic(DiffusionLogic):
    """The class name gives the module's name."""

    __test__ = False


@pytest.fixture
def logic(others):  # noqa: F811
    """A logic with the dummy engine."""
    one = TestedLogic()
    one.queue.worker = dummy_worker()
    yield one
    one.shutdown()
    assert folders_left(one.queue) == [] and not children()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A logic with the real engine, warm over the tests of this file."""
    one = TestedLogic()
    one.queue.folders.root = tmp_path_factory.mktemp("Lékař 測試 ü x") / "DiffusionModels"
    yield one
    one.shutdown()
    assert folders_left(one.queue) == []


def ct(slices=3, size=48, name=NAME):
    """A disc of water with a metal square."""
    array = np.full((slices, size, size), -1000, np.int16)
    array[:, size // 4 : -size // 4, size // 4 : -size // 4] = 40
    array[:, size // 2 - 1 : size // 2 + 2, size // 2 - 1 : size // 2 + 2] = 5000
    return addVolumeFromArray(array, ijkToRAS=RAS, name=name)


def scene_ids():
    """Ids of all nodes but the one subject hierarchy, which comes with the first node that needs it."""
    ids = (slicer.mrmlScene.GetNthNode(i).GetID() for i in range(slicer.mrmlScene.GetNumberOfNodes()))
    return sorted(i for i in ids if not i.startswith("vtkMRMLSubjectHierarchyNode"))


def ijk_to_ras(node):
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def running(job):
    return job.state == "running" and job.progress


# ---- results ----


def test_a_waited_run_gives_nodes_beside_the_input(logic):
    volume = ct()
    nodes = logic.run("a11", {"ct": volume})
    assert list(nodes) == ["corrected", "report"]
    result = nodes["corrected"]
    assert result.GetName() == f"{NAME} A11 corrected"
    assert np.array_equal(arrayFromVolume(result), arrayFromVolume(volume) + 1)
    assert nodes["report"].GetCellText(0, 1) == "1.5"
    assert np.array_equal(ijk_to_ras(result), ijk_to_ras(volume))


def test_a_job_tells_its_end_by_signal(logic):
    ends = []
    job = logic.run("a11", {"ct": ct()}, wait=False)
    job.finished.connect(ends.append)
    assert job.state == "queued" and logic.jobs == [job]
    until(lambda: ends)
    assert job.state == "done" and list(job.nodes) == ["corrected", "report"]


def test_a_second_run_queues_and_each_gets_the_node_of_its_start(logic):
    first, second = ct(name="first"), ct(name="second")
    jobs = [logic.run("a11", {"ct": v}, {"seconds": 0.2}, wait=False) for v in (first, second)]
    assert [j.state for j in jobs] == ["queued", "queued"]
    until(lambda: jobs[1].is_over)
    assert [j.nodes["corrected"].GetName() for j in jobs] == ["first A11 corrected", "second A11 corrected"]
    for job, volume in zip(jobs, (first, second)):
        assert job.nodes["corrected"].GetNodeReference("DiffusionModels.ct") is volume


def test_the_reason_of_the_domain_is_a_warning(logic):
    job = logic.run("a11", {"ct": ct()}, wait=False)
    until(lambda: job.is_over)
    assert job.warnings == ["'ct' has pixels of 9 mm; the model 'dummy-model' was trained on 0.5 to 2 mm"]
    said = job.nodes["corrected"].GetDescription()
    assert said == "Dummy, seed 0 | Not for clinical use. | dummy-model: CC0"


def test_the_input_isn_t_written_to(logic):
    volume = ct()
    before = arrayFromVolume(volume).copy()
    logic.run("a11", {"ct": volume})
    assert np.array_equal(arrayFromVolume(volume), before)


def test_a_finished_job_holds_no_node(logic):
    """Removing input and results frees their memory though the history of jobs goes on."""
    volume = ct()
    job = logic.run("a11", {"ct": volume}, wait=False)
    until(lambda: job.is_over)
    assert job.inputs == {"ct": volume}
    deleted = set()
    for name, node in (("input", volume), ("result", job.nodes["corrected"])):
        node.AddObserver(vtk.vtkCommand.DeleteEvent, lambda caller, event, name=name: deleted.add(name))
        slicer.mrmlScene.RemoveNode(node)
    del volume, node
    gc.collect()
    assert deleted == {"input", "result"} and job.inputs == {} and list(job.nodes) == ["report"]


def test_a_closed_scene_is_forgotten(logic):
    job = logic.run("a11", {"ct": ct()}, wait=False)
    until(lambda: job.is_over)
    slicer.mrmlScene.Clear(0)
    for _ in range(3):
        ct()
    assert job.nodes == {} and job.inputs == {} and logic.report(job)


# ---- failures leave the scene as it was ----


@pytest.mark.parametrize(
    ("act", "kind"),
    [({"act": "error", "code": 2}, "input"), ({"act": "killed"}, "memory"), ({"act": "half"}, "internal")],
)
def test_a_failure_is_an_exception_and_changes_nothing(logic, act, kind):
    volume = ct()
    before = scene_ids()
    with pytest.raises(EngineFailure) as caught:
        logic.run("a11", {"ct": volume}, act)
    assert caught.value.kind == kind and caught.value.message and caught.value.remedy
    assert isinstance(caught.value, RuntimeError) and str(caught.value).startswith(caught.value.message)
    assert scene_ids() == before


def test_cancel_changes_nothing(logic):
    volume = ct()
    before = scene_ids()
    job = logic.run("a11", {"ct": volume}, {"act": "hang"}, wait=False)
    until(lambda: running(job))
    logic.cancel()
    until(lambda: job.is_over)
    assert job.state == "cancelled" and scene_ids() == before and folders_left(logic.queue) == []


def test_cancel_while_nodes_are_made_removes_them(logic):
    volume = ct()
    before = scene_ids()
    job = logic.run("a11", {"ct": volume}, wait=False)
    until(lambda: len(scene_ids()) > len(before))
    logic.cancel(job)
    until(lambda: job.is_over)
    assert job.state == "cancelled" and scene_ids() == before


def test_closing_the_scene_cancels(logic):
    job = logic.run("a11", {"ct": ct()}, {"act": "hang"}, wait=False)
    waiting = logic.run("a11", {"ct": ct()}, wait=False)
    until(lambda: running(job))
    slicer.mrmlScene.Clear(0)
    before = scene_ids()
    until(lambda: job.is_over)
    assert [job.state, waiting.state] == ["cancelled", "cancelled"] and scene_ids() == before


def test_an_input_removed_while_running_doesn_t_lose_the_result(logic):
    volume = ct()
    values = arrayFromVolume(volume).copy()
    job = logic.run("a11", {"ct": volume}, {"seconds": 0.3}, wait=False)
    until(lambda: running(job))
    slicer.mrmlScene.RemoveNode(volume)
    until(lambda: job.is_over)
    assert job.state == "done", job.message
    result = job.nodes["corrected"]
    assert np.array_equal(arrayFromVolume(result), values + 1)
    assert np.allclose(ijk_to_ras(result), RAS)


def test_an_input_removed_before_its_turn_is_named(logic):
    first, second = ct(), ct()
    logic.run("a11", {"ct": first}, {"seconds": 0.3}, wait=False)
    job = logic.run("a11", {"ct": second}, wait=False)
    slicer.mrmlScene.RemoveNode(second)
    until(lambda: job.is_over)
    assert job.state == "failed" and job.message == "The input 'ct' was removed from the scene."


def test_reload_of_the_module(logic):
    """The old logic ends all that it has; a new one starts afresh."""
    job = logic.run("a11", {"ct": ct()}, {"act": "hang"}, wait=False)
    until(lambda: running(job))
    logic.shutdown()
    assert job.state == "cancelled" and not children() and folders_left(logic.queue) == []
    logic.shutdown()
    again = TestedLogic()
    again.queue.worker = dummy_worker()
    assert again.run("a11", {"ct": ct()})
    again.shutdown()


# ---- what is refused before the start ----


@pytest.mark.parametrize(
    ("method", "inputs", "arguments", "words"),
    [
        ("a99", {"ct": 1}, {}, "There is no method 'a99'"),
        ("a11", {}, {}, "needs the input 'ct' (volume). Choose one."),
        ("a11", {"ct": 1, "xray": 1}, {}, "has no input 'xray'. It has: ct, sinogram, metal."),
        ("a11", {"ct": 1}, {"preset": "best"}, "has no preset 'best'"),
        ("a11", {"ct": 1}, {"slices": (3, 1)}, "Slices 3 to 1"),
    ],
)
def test_refused_at_once(logic, method, inputs, arguments, words):
    inputs = {name: ct() for name in inputs}
    with pytest.raises(InputProblem) as caught:
        logic.run(method, inputs, **arguments)
    assert words in str(caught.value) and logic.jobs == []
    assert words in logic.problems(method, inputs, **arguments)[0]


def test_planned_methods_can_t_be_run(logic):
    planned = next(m["id"] for m in declarations.declarations().values() if m["state"] == "planned")
    with pytest.raises(InputProblem, match="planned"):
        logic.run(planned, {})


def test_problems_are_the_checks_of_the_declaration(logic):
    assert logic.problems("a11", {"ct": ct()}) == []
    colour = addVolumeFromArray(np.zeros((2, 9, 9, 3), np.uint8), nodeClassName="vtkMRMLVectorVolumeNode")
    assert any("3 values per voxel" in p for p in logic.problems("a11", {"ct": colour}))


def test_a_text_of_any_length_and_letters_arrives(logic, monkeypatch):
    """10,000 characters through job.json and provenance; a method with a text input is declared for it."""
    text = "Größe 測試 \"quotes\" \\ \n" * 476 + "xxxx"
    assert len(text) == 10_000
    known = dict(declarations.declarations())
    known["text"] = json.loads(json.dumps(known["a11"])) | {"id": "text"}
    known["text"]["inputs"].append({"name": "prompt", "kind": "text", "unit": "", "required": True, "help": ""})
    monkeypatch.setattr(declarations, "declarations", lambda: known)
    job = logic.run("text", {"ct": ct(), "prompt": text}, {"act": "hang"}, wait=False)
    until(lambda: running(job))
    (folder,) = logic.queue.folders.root.iterdir()
    assert json.loads((folder / "job.json").read_text())["inputs"]["prompt"]["text"] == text
    logic.cancel()
    until(lambda: job.is_over)
    nodes = logic.run("text", {"ct": ct(), "prompt": text})
    assert logic.settings_of(nodes["corrected"])["inputs"]["prompt"] == text


# ---- provenance, report, texts ----


def test_no_name_or_path_of_a_patient_is_written_anywhere(logic, tmp_path):
    secret = "Doe^John"
    volume = ct(name=f"Größe µ {secret}")
    volume.SetAttribute("DICOM.instanceUIDs", "1.2.840.113619.2.55.3")
    job = logic.run("a11", {"ct": volume}, {"act": "hang"}, wait=False)
    until(lambda: running(job))
    (folder,) = logic.queue.folders.root.iterdir()
    written = (folder / "job.json").read_text(encoding="utf-8") + " ".join(p.name for p in folder.iterdir())
    logic.cancel()
    until(lambda: job.is_over)
    job = logic.run("a11", {"ct": volume}, wait=False)
    until(lambda: job.is_over)
    job.log.append(f"reading '/home/{secret}/ct.nrrd' of {volume.GetName()} 1.2.840.113619.2.55.3")
    stored = job.nodes["corrected"].GetAttribute(provenance.PROVENANCE)
    for text in (written, stored, logic.report(job)):
        assert secret not in text and "Größe" not in text and "113619" not in text
        assert str(tmp_path) not in text and slicer.app.temporaryPath not in text


def test_scrub():
    line = r"""File "/home/jane doe/x/run.py", line 3; read /data/a.b of Ann Lee, ~/a C:\d\e 1.2.840.10008.1 3/4 1.5"""
    clean = "File <path>/run.py, line 3; read <path> of <name>, <path> <path> <uid> 3/4 1.5"
    assert report.scrub(line, ["Ann Lee"]) == clean


def test_report_names_versions_device_memory_parameters_and_the_log(logic):
    job = logic.run("a11", {"ct": ct()}, {"act": "garbage"}, wait=False)
    until(lambda: job.is_over)
    text = logic.report(job)
    for words in ("method a11, state done", "diffusion_backend = 0", "device = cpu", "memory_mb = 5", "act = garbage"):
        assert words in text, text
    failed = logic.run("a11", {"ct": ct()}, {"act": "die", "code": 3}, wait=False)
    until(lambda: failed.is_over)
    assert "the last line" in logic.report(failed) and "(model)" in logic.report(failed)


def test_python_text_does_what_the_panel_does(logic, monkeypatch):
    volume = ct()
    request = {"method": "a11", "inputs": {"ct": volume, "metal": None}, "params": {"steps": 7}, "seed": 3}
    request |= {"samples": 1, "preset": "standard", "slices": (0, 1)}
    text = logic.as_python(request)
    assert "seed=3" in text and "samples" not in text and "'steps': 7" in text
    monkeypatch.setattr(slicer.util, "getModuleLogic", lambda name: logic if name == "Tested" else None)
    names: dict = {}
    exec(text, names)
    assert names["nodes"]["corrected"].GetNodeReference("DiffusionModels.ct") is volume


def test_command_line_is_understood_by_the_engine(logic, tmp_path):
    path = str(tmp_path / "a b.nrrd")
    params = {"views": 180, "anchor": 1}
    text = logic.as_command_line({"method": "li", "inputs": {"ct": path}, "params": params, "seed": 3})
    assert "--set views=180" in text and "--seed 3" in text and "anchor" not in text
    done = subprocess.run(text, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "a b.nrrd" in done.stdout + done.stderr, done
    text = logic.as_command_line({"method": "li", "inputs": {"ct": ct()}})
    assert text.startswith("# Save 'ct' as ct.nrrd first.\n")


def test_provenance_survives_a_saved_scene(logic, tmp_path):
    volume = ct()
    nodes = logic.run("a11", {"ct": volume}, {"steps": 7}, seed=5)
    expected = logic.settings_of(nodes["corrected"])
    assert (expected["seed"], expected["batch"], expected["threads"], expected["device"]) == (5, 8, 1, "cpu")
    bundle = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(bundle)
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(bundle)
    result = slicer.util.getNode(f"{NAME} A11 corrected")
    found = logic.settings_of(result)
    assert found["inputs"]["ct"].GetName() == NAME
    assert {**found, "inputs": None} == {**expected, "inputs": None}


def test_settings_of_another_node(logic):
    with pytest.raises(InputProblem, match="no result"):
        logic.settings_of(ct())


# ---- parts of a volume ----


def test_slices_alone(logic):
    volume = ct(slices=5)
    result = logic.run("a11", {"ct": volume}, slices=(1, 2))["corrected"]
    assert np.array_equal(arrayFromVolume(result), arrayFromVolume(volume)[1:3] + 1)
    assert np.allclose(ijk_to_ras(result)[:, 3], RAS @ [0, 0, 1, 1])
    assert logic.settings_of(result)["slices"] == (1, 2)


def test_slices_beyond_the_end_are_refused_with_a_sentence(logic):
    job = logic.run("a11", {"ct": ct()}, slices=(1, 7), wait=False)
    until(lambda: job.is_over)
    assert job.kind == "input" and "Slices 1 to 7" in job.message


def test_outside_a_roi_the_result_is_the_input(logic):
    volume = ct(slices=6)
    box = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    centre, size = (RAS @ [20, 24, 2.5, 1])[:3], np.abs(np.diag(RAS)[:3]) * [11, 9, 2]
    box.SetCenter(*centre)
    box.SetSize(*size)
    result = logic.run("a11", {"ct": volume}, roi=box)["corrected"]
    before, after = arrayFromVolume(volume), arrayFromVolume(result)
    assert after.shape == before.shape
    changed = np.argwhere(after != before)
    assert changed.min(axis=0).tolist() == [2, 20, 15] and changed.max(axis=0).tolist() == [3, 28, 25]
    assert logic.settings_of(result)["roi"] is box


# ---- sequences ----


def sequence_of(count):
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "moving")
    for i in range(count):
        volume = ct(name="frame")
        arrayFromVolume(volume)[0, 0, 0] = i
        sequence.SetDataNodeAtValue(volume, str(i))
        slicer.mrmlScene.RemoveNode(volume)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    return sequence, browser


def test_all_frames_give_a_sequence_in_the_same_browser(logic):
    sequence, browser = sequence_of(3)
    count = len(slicer.util.getNodesByClass("vtkMRMLVolumeDisplayNode"))
    browser.SetSelectedItemNumber(1)
    result = logic.run("a11", {"ct": sequence}, frames="all")["corrected"]
    made = slicer.util.getNodesByClass("vtkMRMLVolumeNode")
    assert len(made) == 2 and len(slicer.util.getNodesByClass("vtkMRMLVolumeDisplayNode")) <= count + 2
    assert result.GetNumberOfDataNodes() == 3 and browser.GetSelectedItemNumber() == 1
    assert browser.IsSynchronizedSequenceNode(result, True)
    assert [arrayFromVolume(result.GetNthDataNode(i))[0, 0, 0] for i in range(3)] == [1, 2, 3]
    assert logic.settings_of(result)["frames"] == "all"


def test_cancel_keeps_the_frames_that_are_done(logic):
    sequence, browser = sequence_of(4)
    job = logic.run("a11", {"ct": browser}, {"seconds": 0.2}, frames="all", wait=False)
    until(lambda: job.progress.get("frame") == 3 and job.state == "running")
    assert job.progress["frames"] == 4
    logic.cancel(job)
    until(lambda: job.is_over)
    assert job.state == "cancelled" and job.nodes["corrected"].GetNumberOfDataNodes() == 2
    assert job.message == "The run was cancelled. The frames that were finished are kept."


def test_the_frame_that_is_shown(logic):
    sequence, browser = sequence_of(3)
    browser.SetSelectedItemNumber(2)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    for value in (sequence, browser, browser.GetProxyNode(sequence)):
        result = logic.run("a11", {"ct": value})["corrected"]
        assert arrayFromVolume(result)[0, 0, 0] == 3
        assert logic.settings_of(result)["frames"] == 2
    browser.SetSelectedItemNumber(0)
    again = logic.run(**logic.settings_of(result))["corrected"]
    assert arrayFromVolume(again)[0, 0, 0] == 3


def test_an_empty_sequence_is_refused_with_a_sentence(logic):
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "empty")
    for frames in ("all", None):
        with pytest.raises(InputProblem, match="0 frames"):
            logic.run("a11", {"ct": sequence}, frames=frames)


# ---- the real engine ----


def test_a_baseline_on_the_real_engine(real):
    volume = ct()
    nodes = real.run("li", {"ct": volume}, {"views": 180, "bins": 91})
    assert [o["name"] for o in declarations.method("li")["outputs"] if not o["when"]] == list(nodes)
    difference = arrayFromVolume(nodes["corrected"]) - arrayFromVolume(volume).astype(float)
    assert np.allclose(arrayFromVolume(nodes["difference"]), difference, atol=1e-3) and np.abs(difference).max() > 1
    assert nodes["metal"].GetSegmentation().GetNumberOfSegments() == 1 and nodes["report"].GetNumberOfRows() == 3


def test_the_same_settings_give_the_same_bits(real):
    volume = ct(slices=1)
    settings = {"views": 90, "bins": 91, "steps": 5, "image_size": 64}
    nodes = real.run("a11", {"ct": volume}, settings, seed=11, samples=2, threads=1)
    again = real.run(**real.settings_of(nodes["corrected"]))
    for name in ("corrected", "std"):
        assert arrayFromVolume(nodes[name]).tobytes() == arrayFromVolume(again[name]).tobytes()
    assert arrayFromVolume(nodes["std"]).max() > 0
    other = real.run(**{**real.settings_of(nodes["corrected"]), "seed": 12})
    assert arrayFromVolume(nodes["corrected"]).tobytes() != arrayFromVolume(other["corrected"]).tobytes()


def test_a_plan_of_the_real_engine(real):
    job = real.estimate("a11", {"ct": ct()})
    real.queue.wait(job)
    assert job.plan["memory_mb"] > 0 and job.plan["stages"][0]["seconds"] > 0 and job.nodes == {}


def test_a_reference_gives_metrics(real):
    volume = ct()
    nodes = real.run("li", {"ct": volume}, {"views": 180, "bins": 91}, reference=volume)
    assert nodes["metrics"].IsA("vtkMRMLTableNode")
    assert real.settings_of(nodes["metrics"])["reference"] is volume


def test_the_engine_s_sentences_reach_the_caller(real):
    with pytest.raises(InputProblem, match="There is no parameter 'colour'"):
        real.run("li", {"ct": ct()}, {"colour": 1})
    flat = addVolumeFromArray(np.zeros((2, 20, 20), np.int16))
    with pytest.raises(InputProblem) as caught:
        real.run("li", {"ct": flat})
    assert caught.value.message in real.problems("li", {"ct": flat}) or "no metal" in caught.value.message


def test_cancel_of_the_real_engine_at_work_and_at_its_start(real):
    """By process id, the launcher included; the next run starts a fresh engine."""
    real.queue.worker.kill()
    _cancel_when(real, lambda job: job.state == "running")
    _cancel_when(real, running)


def _cancel_when(logic, moment):
    job = logic.run("a11", {"ct": ct(slices=1)}, {"views": 90, "bins": 91, "steps": 1000}, wait=False)
    until(lambda: moment(job), 60)
    assert children()
    start = time.monotonic()
    logic.cancel(job)
    until(lambda: job.is_over)
    print(f"cancel of the real engine: {time.monotonic() - start:.2f} s")
    assert job.state == "cancelled" and not children() and folders_left(logic.queue) == []


def test_an_engine_without_torch_names_it(tmp_path):
    """The Python of the engine has no torch: nothing is computed, the sentence names the package."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    inside = process.environment()
    inside["PYTHONPATH"] = os.pathsep.join([str(tmp_path), inside["PYTHONPATH"]])
    logic = TestedLogic()
    logic.queue.worker = process.Worker(environment=inside)
    with pytest.raises(EngineFailure) as caught:
        logic.run("li", {"ct": ct()})
    logic.shutdown()
    assert caught.value.kind == "installation" and "torch" in caught.value.message and caught.value.remedy


def test_the_end_of_the_application_ends_the_engine(logic):
    job = logic.run("a11", {"ct": ct()}, {"act": "hang"}, wait=False)
    until(lambda: running(job))
    slicer.app.aboutToQuit.emit()
    assert job.state == "cancelled" and not children()


def test_a_batch_script_without_main_window(tmp_path):
    """As `--no-main-window --python-script` does it: no layout, a blocking run; torch and the engine stay outside."""
    script = (
        "import sys, os\n"
        f"sys.path[:0] = [{str(REPOSITORY / 'Testing')!r}, {str(REPOSITORY / 'DiffusionBackend')!r}]\n"
        "import headless; headless.start(main_window=False)\n"
        "import slicer\n"
        "assert slicer.app.layoutManager() is None\n"
        "from panel.engines import dummy_worker\n"
        "import numpy as np\n"
        "from diffusion_panel.logic import DiffusionLogic\n"
        "class BatchLogic(DiffusionLogic): pass\n"
        "logic = BatchLogic(); logic.queue.worker = dummy_worker()\n"
        "volume = slicer.util.addVolumeFromArray(np.zeros((2, 3, 4), np.int16))\n"
        "print(sorted(logic.run('a11', {'ct': volume})))\n"
        "print(sorted(m for m in sys.modules if m.startswith('diffusion_backend')), 'torch' in sys.modules)\n"
        "logic.shutdown(); headless.leave(0)\n"
    )
    inside = os.environ | {"LANG": "C"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=inside)
    engine = "['diffusion_backend', 'diffusion_backend.predicates'] False"
    assert done.stdout.splitlines()[-2:] == ["['corrected', 'report']", engine], done.stderr

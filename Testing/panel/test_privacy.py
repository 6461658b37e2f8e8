"""What the panel must never do: reach for the network, write who the patient is, trust what it reads, let others read
job folders."""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import headless
import numpy as np
import pytest
import slicer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_panel import process, recovery, running
from diffusion_panel.logic import DiffusionLogic, EngineFailure
from diffusion_panel.recovery import RESULT, Folders

from .conftest import REPOSITORY
from .engines import add, dummy_worker, make_queue, until
from .panels import MODULES, ct_with_metal, panel, unload, wait

SCRIPT = REPOSITORY / "Resources" / "Batch" / "DiffusionBatch.py"
APPLICATION = REPOSITORY / "Testing" / "headless" / "Slicer"
EXAMPLES = int(os.environ.get("DIFFUSIONMODELS_FUZZ") or 0)
SECRETS = ("Roe^Jane", "Roe", "MRN-77341", "19551231", "1.2.826.0.1.3680043.8.498.77341.12")


def fuzz(examples):
    return settings(max_examples=EXAMPLES or examples, derandomize=not EXAMPLES, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))  # fmt: skip


@pytest.fixture
def no_network(monkeypatch):
    """Every way to reach another computer raises, and is noted."""
    tried = []

    def refuse(*arguments, **more):
        tried.append(arguments)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "bind", "listen", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse, raising=True)
    for name in ("getaddrinfo", "gethostbyname", "create_connection", "create_server"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


def hidden(method_inputs=("volume",)):
    """The id of a method that computes without models, from volumes."""
    widget = slicer.util.getModuleWidget("DiffusionReconstruction")
    return next(m["id"] for m in widget.chooser.methods if m["state"] == "works" and not m["models"]
                and m["inputs"][0]["kind"] in method_inputs)  # fmt: skip


def test_no_module_reaches_for_the_network(no_network, tmp_path):
    """All three opened, a method estimated and run on the real engine, whose Python notes and refuses every socket."""
    for name in MODULES:
        panel(name)
    widget, ct = panel(), ct_with_metal()
    method = hidden()
    widget.choose(method)
    (tmp_path / "sitecustomize.py").write_text(NO_SOCKETS.format(log=str(tmp_path / "tried")))
    around = process.environment()
    around["PYTHONPATH"] = os.pathsep.join([str(tmp_path), around["PYTHONPATH"]])
    widget.logic.queue.worker = process.Worker(environment=around)
    job = widget.logic.run(**widget.request(inputs={"ct": ct}), wait=False)
    wait(lambda: job.is_over, "the run")
    widget.logic.shutdown()
    unload()
    assert job.state == "done", job.message
    assert no_network == []
    assert (tmp_path / "tried").read_text() == "hooked\n"


def test_no_batch_in_the_application_reaches_for_the_network(tmp_path):
    """The application, the batch's child and its workers: all note and refuse sockets."""
    ct = ct_with_metal()
    assert slicer.util.saveNode(ct, str(tmp_path / "ct.nrrd"))
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "sitecustomize.py").write_text(NO_SOCKETS.format(log=str(tmp_path / "tried")))
    words = [APPLICATION, "--no-main-window", "--python-script", SCRIPT, tmp_path / "ct.nrrd", "--method", "li",
             "--output", tmp_path / "out", "--set", "views=120", "--set", "bins=121"]  # fmt: skip
    around = {"HEADLESS_PYTHON": sys.executable, "PYTHONPATH": str(tmp_path / "hooks"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(w) for w in words], env=os.environ | around, capture_output=True, text=True, timeout=180,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    noted = (tmp_path / "tried").read_text().split()
    assert set(noted) == {"hooked"} and len(noted) >= 3


def test_a_folder_whose_name_is_no_text_reaches_the_engine(tmp_path):
    """As POSIX allows: bytes that aren't UTF-8."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    folder.mkdir()
    worker = process.Worker()
    worker.start()
    worker.send(folder)
    ends = []
    until(lambda: ends.extend(e for e in worker.events() if e["event"] == "end") or ends, 60)
    worker.kill()
    assert ends[0]["exit_code"] == 2 and ends[0]["job"] == str(folder)


NO_SOCKETS = """
import sys
log = {log!r}
with open(log, "a") as stream:
    stream.write("hooked\\n")
def hook(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        with open(log, "a") as stream:
            stream.write(event + "\\n")
        raise OSError("no network in this test")
sys.addaudithook(hook)
"""


def identified_ct():
    """A CT whose name, attributes and file say who the patient is, as the DICOM module leaves them."""
    node = ct_with_metal(name="Roe^Jane MRN-77341")
    node.SetAttribute("DICOM.instanceUIDs", f"{SECRETS[-1]}.1 {SECRETS[-1]}.2")
    node.SetAttribute("DICOM.PatientBirthDate", "19551231")
    node.SetDescription("Roe^Jane")
    return node


def test_nothing_tells_who_the_patient_is(tmp_path, monkeypatch):
    """After runs that end well and badly: job folder, events, log, report, provenance, attributes of results."""
    place = tmp_path / "Roe^Jane MRN-77341 19551231"
    place.mkdir()
    monkeypatch.setattr(slicer.app, "temporaryPath", str(place))
    logic = DiffusionLogic()
    logic.queue.worker = dummy_worker()
    node = identified_ct()
    assert slicer.util.saveNode(node, str(place / "Roe^Jane.nrrd"))
    told = []
    for parameters in ({}, {"act": "error", "code": 2}, {"act": "garbage"}, {"act": "die", "code": 1}):
        job = logic.run("a11", {"ct": node}, parameters, wait=False)
        seen: set[str] = set()
        while not job.is_over:
            slicer.app.processEvents()
            logic.queue.advance()
            for file in logic.queue.folders.root.rglob("*.json") if logic.queue.folders.root.exists() else ():
                seen.add(file.read_text(errors="replace"))
        assert seen, "the job was never seen on disk"
        job.log.append(f"can't open '{place}/Roe^Jane.nrrd' of {node.GetName()}, series {SECRETS[-1]}.1")
        told += [*seen, logic.report(job)]
        for result in job.nodes.values():
            told += [f"{a}={result.GetAttribute(a)}" for a in result.GetAttributeNames() if a.startswith("Diffusion")]
            told.append(result.GetDescription())
    logic.shutdown()
    for text in told:
        assert not [s for s in SECRETS if s in text], text


# ---- who may read ----


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_job_folders_are_closed_to_others_whatever_the_umask(tmp_path, open_umask):
    queue = make_queue(tmp_path)
    job = add(queue, act="hang")
    until(lambda: job.state == "running")
    (folder,) = queue.folders.root.iterdir()
    for closed in (queue.folders.root, folder):
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700, closed
    queue.shutdown()


def test_a_folder_that_was_open_is_closed_before_use(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs").chmod(0o777)
    folders = Folders(tmp_path / "jobs")
    folders.remove(folders.create("a"))
    assert stat.S_IMODE((tmp_path / "jobs").stat().st_mode) == 0o700


def test_links_at_the_places_of_folders_are_not_followed(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "jobs").symlink_to(tmp_path / "theirs")
    with pytest.raises(PermissionError):
        Folders(tmp_path / "jobs").create("a")
    own = Folders(tmp_path / "own")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a").symlink_to(tmp_path / "theirs")
    with pytest.raises(FileExistsError):
        own.create("a")
    assert list((tmp_path / "theirs").iterdir()) == []
    if os.getuid() == 0:
        os.chown(tmp_path / "own", 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError):
        own.create("b")


# ---- what is read ----

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6),
                    st.sampled_from([10**400, 1e308, -1, "../job.json", "/etc/hostname", "corrected.npy"]))  # fmt: skip
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3)
                        | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6)  # fmt: skip


def places(tree, path=()):
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return ([path] if path else []) + [deep for key, value in pairs for deep in places(value, (*path, key))]


@st.composite
def mutated(draw, tree):
    """A JSON tree with one to three values changed or removed."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        options = places(tree)
        if not options:
            break
        inner, path = tree, draw(st.sampled_from(options))
        for key in path[:-1]:
            inner = inner[key]
        if draw(st.booleans()):
            del inner[path[-1]]
        else:
            inner[path[-1]] = draw(anything)
    return tree


def finished(tmp_path):
    """A job folder with the result of the dummy engine, and what its result.json holds."""
    from . import dummy_engine

    folder = tmp_path / "DiffusionModels" / "job"
    folder.mkdir(parents=True)
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.save(folder / "ct.npy", array)
    described = {"file": "ct.npy", "kind": "volume", "ijkToRAS": np.diag([-1.0, -1, 2, 1]).tolist()}
    job = {"schema": 1, "method": "a11", "parameters": {}, "preset": "standard", "seed": 0, "samples": 1,
           "threads": None, "batch": None, "models": {}, "inputs": {"ct": described}, "plan_only": False,
           "panel": {"inputs": ["ct"], "texts": {}, "segments": {}, "preset": "standard", "slices": None,
                     "frames": None}}  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    dummy_engine.write_result(folder, job)
    return folder, json.loads((folder / "result" / RESULT).read_text())


def recovers(logic, folder, kept):
    """Recover what lies there: nodes, or one sentence and an unchanged scene. The folder is put back."""
    before = slicer.mrmlScene.GetNumberOfNodes()
    for entry in logic.recoverable():
        try:
            logic.recover(entry)
        except EngineFailure as failure:
            assert failure.message and "Traceback" not in failure.message
            assert slicer.mrmlScene.GetNumberOfNodes() == before
        headless.clear()
    if not folder.exists():
        shutil.copytree(kept, folder)


def test_any_result_is_recovered_or_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path))
    folder, record = finished(tmp_path)
    shutil.copytree(folder, tmp_path / "kept")
    logic = DiffusionLogic()
    odd = [b"[" * 100_000, b"\xff\xfe", b"", b"{}", b"[]"]

    @fuzz(60)
    @given(st.one_of(st.sampled_from(odd), mutated(record).map(lambda r: json.dumps(r).encode())))
    def check(content):
        (folder / "result" / RESULT).write_bytes(content)
        headless.errors.take()
        recovers(logic, folder, tmp_path / "kept")
        assert headless.errors.take() == []

    check()
    logic.shutdown()


def test_an_array_of_a_result_that_lies_takes_no_memory(tmp_path):
    folder, _ = finished(tmp_path)
    path = folder / "result" / "corrected.npy"
    for shape in ((10**6, 10**6), (-1, 4), (2**62, 2), (2, 3, 10**9)):
        with path.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with pytest.raises(ValueError, match="can't be read"):
            recovery.read_result(folder)
    np.save(path, np.array([1, None], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="can't be read"):
        recovery.read_result(folder)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="missing"):
        recovery.read_result(folder)


def test_any_event_of_a_child(tmp_path):
    """What the child prints never raises, and what is shown has its types."""
    from diffusion_panel.estimate_view import plan_text
    from diffusion_panel.job_view import progress_text

    queue = make_queue(tmp_path)
    job = add(queue, act="hang")
    names = ["progress", "plan", "warning", "preview", "result", "error", "end", "ready", "x"]
    known = [*running.NUMBERS, "stage", "device", "exit_code", "file", "message", "kind"]
    fields = st.dictionaries(st.sampled_from(known), anything, max_size=6)

    @fuzz(300)
    @given(st.one_of(st.sampled_from(names), anything), fields)
    def check(name, more):
        line = json.dumps({"event": name, **more})
        events, _rest = process.parse(line)
        watch = running.Watch(job, tmp_path, 0)
        job.state, job.progress, job.plan, job.started = "running", {}, None, 0.0
        for event in events:
            watch.hear(event)
        progress_text(job)
        if job.plan:
            plan_text(job.plan)
        assert isinstance(watch.code, int)

    check()
    queue.shutdown()


ends = st.sampled_from([": 1}", ":", ": [[", ': "x"}', "}" * 9, ": " + "[" * 5000])


@fuzz(300)
@given(st.text(max_size=40), st.builds(lambda a, b, c: f'{a}{{"event"{b}{c}', st.text(max_size=9), ends, st.text()))
def test_any_line_of_a_child(plain, like):
    for line in (plain, like):
        events, rest = process.parse(line)
        assert all("event" in event for event in events) and isinstance(rest, str)

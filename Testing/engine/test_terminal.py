"""What the terminal shows and writes: bar, plan, exit codes, formats, text, DICOM names, a really full disk."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys

import head
import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_backend import events, terminal
from diffusion_backend.data import Table, Text
from diffusion_backend.errors import Cancelled, DiskError, InputError, MemoryExhausted, ModelError
from diffusion_backend.method import Input

QUICK = ("--set", "views=120", "--set", "bins=121", "--threads", "1")


def engine(*arguments, progress="json", **more):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "diffusion_backend", *map(str, arguments), "--progress", progress]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **more)


@pytest.mark.parametrize(
    "error,code,kind",
    [
        (InputError("a", "b"), 2, "input"), (ModelError("a"), 3, "model"), (MemoryExhausted("a"), 4, "memory"),
        (MemoryError(), 4, "memory"), (Cancelled(), 5, "cancelled"), (KeyboardInterrupt(), 5, "cancelled"),
        (DiskError("a"), 2, "disk"), (FileNotFoundError(2, "No such file", "x"), 2, "input"),
        (ZeroDivisionError("division"), 1, "internal"),
    ],
)  # fmt: skip
def test_every_error_is_one_event_and_an_exit_code(error, code, kind):
    told = []

    def work():
        raise error

    assert events.guarded(work, told.append) == code
    assert [e["event"] for e in told] == ["error"] and told[0]["kind"] == kind
    assert "Traceback" not in told[0]["message"]
    assert events.guarded(lambda: None, told.append) == 0


def test_events_are_ascii_lines_whatever_the_names():
    out = io.StringIO()
    events.JsonLines(out, job="jöb")({"event": "warning", "message": "größer\nals"})
    assert out.getvalue().isascii() and out.getvalue().count("\n") == 1
    assert json.loads(out.getvalue()) == {"event": "warning", "message": "größer\nals", "job": "jöb"}


def test_the_bar_tells_stage_item_step_sample_and_remaining_time():
    out = io.StringIO()
    bar = events.Bar(out)
    progress = {"event": "progress", "stage": "sampling", "step": 12, "steps": 50, "item": 3, "items": 64, "eta_s": 200}
    bar(progress | {"fraction": 0.5, "sample": 2, "samples": 4, "memory_mb": 1})
    bar({"event": "warning", "message": "Odd."})
    text = out.getvalue()
    assert "sampling" in text and "3/64" in text and "step 12/50" in text and "sample 2/4" in text
    assert "3 min 20 s left" in text and text.count("#") == events.BAR // 2
    assert text.endswith("\nWarning: Odd.\n")
    assert [events.duration(s) for s in (0.4, 59.6, 3600, 7500)] == ["0 s", "1 min 0 s", "1 h 0 min", "2 h 5 min"]


def test_a_person_sees_a_bar_and_formats_and_one_path_work(tmp_path):
    source = head.write(tmp_path / "h.nrrd", head.hu())
    given = ("--input", source, "--output", tmp_path / "o", "--format", "nii.gz")
    done = engine("run", "li", *given, *QUICK, progress="bar")
    assert done.returncode == 0, done.stdout
    assert "Plan: correction" in done.stdout and "[####" in done.stdout and "Done in" in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith("{")]
    image = sitk.ReadImage(str(tmp_path / "o" / "corrected.nii.gz"))
    assert np.allclose(image.GetSpacing(), (2, 2, 3))
    record = json.loads((tmp_path / "o" / "result.json").read_text())
    assert record["outputs"]["corrected"]["file"] == "corrected.nii.gz"
    for name in record["outputs"].values():
        assert (tmp_path / "o" / name["file"]).exists()
    assert set(record["timings"]) == {"network", "physics", "io", "other", "total"}


def test_the_plan_alone_writes_nothing(tmp_path):
    source = head.write(tmp_path / "h.nrrd", head.hu())
    done = engine("run", "li", "--input", source, "--output", tmp_path / "o", "--plan", *QUICK)
    assert done.returncode == 0
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["plan"]
    assert [f.name for f in tmp_path.iterdir()] == ["h.nrrd"]


def test_results_join_an_existing_folder_and_leave_its_other_files(tmp_path):
    source = head.write(tmp_path / "o" / "h.nrrd", head.hu())
    before = source.read_bytes()
    (tmp_path / "o" / "notes.txt").write_text("mine")
    for _ in range(2):
        assert engine("run", "li", "--input", source, "--output", tmp_path / "o", *QUICK).returncode == 0
    assert source.read_bytes() == before and (tmp_path / "o" / "notes.txt").read_text() == "mine"
    assert [f.name for f in tmp_path.iterdir()] == ["o"]


def test_names_in_dicom_headers_are_never_seen_again(tmp_path):
    from test_files import write_dicom

    (tmp_path / "Secret Name").mkdir()
    folder = write_dicom(tmp_path / "Secret Name" / "dicom", (0.0, 2.0))
    done = engine("run", "li", "--input", folder, "--output", tmp_path / "o", *QUICK)
    assert done.returncode == 2 and r"4 \u00d7 5" in done.stdout  # too small, refused
    done = engine("run", "li", "--input", big_dicom(folder), "--output", tmp_path / "o", *QUICK)
    assert done.returncode == 0, done.stdout
    told = done.stdout + done.stderr + (tmp_path / "o" / "result.json").read_text()
    assert "secret" not in told.lower()
    for file in (tmp_path / "o").iterdir():
        assert b"SECRET-ID" not in file.read_bytes() and b"Secret^Name" not in file.read_bytes()


def big_dicom(folder):
    """The same series with the slices of `head` in it."""
    import pydicom

    for k, file in enumerate(sorted(folder.iterdir())):
        ds = pydicom.dcmread(file)
        ds.Rows, ds.Columns, ds.PixelSpacing = 64, 64, [2.0, 2.0]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [0, 0, 2.0 * k]
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.PixelData = (head.hu()[k] + 1024).astype(np.uint16).tobytes()
        ds.save_as(file)
    return folder


def test_text_inputs_are_the_string_or_a_text_file(tmp_path):
    declared = Input("prompt", kind="text")
    (tmp_path / "p.txt").write_text("Erguß links", encoding="utf-8")
    assert terminal.read_item(declared, str(tmp_path / "p.txt")) == Text("Erguß links")
    assert terminal.read_item(declared, "large effusion") == Text("large effusion")
    read = terminal.read_inputs((declared,), ["prompt=a=b"])
    assert read == {"prompt": Text("a=b")}


def test_several_inputs_need_names_and_each_only_once(tmp_path):
    declared = (Input("ct", help="CT."), Input("metal", kind="segmentation", help="M."))
    with pytest.raises(InputError, match="has no name. Names: ct, metal"):
        terminal.read_inputs(declared, ["a.nrrd", "metal=b.nrrd"])
    with pytest.raises(InputError, match="given twice"):
        terminal.read_inputs(declared, ["ct=a.nrrd", "ct=b.nrrd"])


def test_tables_and_texts_are_written_as_files(tmp_path):
    entry = terminal.write_output("report", Table(("slice", "hu"), [(1, 2.5)]), tmp_path, "nrrd")
    assert (tmp_path / entry["file"]).read_text() == "slice,hu\n1,2.5\n"
    entry = terminal.write_output("words", Text("größer"), tmp_path, "nrrd")
    assert (tmp_path / entry["file"]).read_text(encoding="utf-8") == "größer"


@pytest.fixture(params=[100, 250, 600], ids=lambda kb: f"{kb} kB")
def tiny_disk(tmp_path, request):
    """A folder too small for the job, its result, the files of the result, and arguments for the process that writes
    there: a file system of that size, or, where this user may not mount one, a limit on the size of a file."""
    place = tmp_path / "tiny disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(place)]
    if shutil.which("mount") and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        yield place, {}
        subprocess.run(["umount", place], check=True)
        return
    import resource  # POSIX alone, as the limit is

    most = (min(request.param, 150) * 1024,) * 2  # no file of this run is larger than 200 kB
    yield place, {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, most)}


def test_a_full_disk_is_said_and_left_as_it_was(tmp_path, tiny_disk):
    source = head.write(tmp_path / "h.nrrd", head.hu(slices=12))
    place, limits = tiny_disk
    done = engine("run", "li", "--input", source, "--output", place / "o", *QUICK, **limits)
    assert done.returncode == 2, done.stdout
    error = [json.loads(line) for line in done.stdout.splitlines()][-1]
    assert error["kind"] == "disk" and ("full" in error["message"] or limits)
    assert list(place.iterdir()) == []


def test_without_matplotlib_a_run_gives_everything_but_the_preview(tmp_path, monkeypatch):
    """Slicer's Python has no matplotlib; a run must not need it."""
    from diffusion_backend.__main__ import main

    head.write(tmp_path / "ct.nrrd", head.hu())
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    given = ["--input", str(tmp_path / "ct.nrrd"), "--output", str(tmp_path / "out"), "--threads", "1"]
    assert main(["run", "li", *given, "--set", "views=90", "--set", "bins=91"]) == 0
    written = {f.name for f in (tmp_path / "out").iterdir()}
    assert {"corrected.nrrd", "result.json"} <= written and "preview.png" not in written

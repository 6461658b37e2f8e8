"""The batch script inside the application: the terminal's arguments, results and exit code; scenes; its end."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import slicer

from diffusion_backend.__main__ import main as terminal
from diffusion_backend.io import images
from diffusion_panel import provenance

from .conftest import REPOSITORY
from .engines import exists, until
from .panels import ct_with_metal

SCRIPT = REPOSITORY / "Resources" / "Batch" / "DiffusionBatch.py"
QUICK = ("--method", "li", "--set", "views=120", "--set", "bins=121", "--threads", "1")


def command(*arguments: object) -> list[str]:
    application = REPOSITORY / "Testing" / "headless" / "Slicer"
    return [str(a) for a in (application, "--no-main-window", "--python-script", SCRIPT, *arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"HEADLESS_PYTHON": sys.executable, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), env=environment(), cwd=cwd, capture_output=True, text=True, timeout=120,
                          check=False)  # fmt: skip


def volumes(folder: Path) -> Path:
    folder.mkdir()
    ct = ct_with_metal()
    assert slicer.util.saveNode(ct, str(folder / "Größe µ.nrrd"))
    slicer.util.arrayFromVolume(ct)[slicer.util.arrayFromVolume(ct) > 2000] = -200
    assert slicer.util.saveNode(ct, str(folder / "no metal.nrrd"))
    return folder


def test_the_list_runs_in_the_application_as_in_the_terminal(tmp_path):
    """The same arrays, rows and exit code; a scene for each study that is done, named and coloured as in the panel."""
    volumes(tmp_path / "in")
    ended = run("in", "--output", "out", *QUICK, "--scene", cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert "1/2 Größe µ: done. About " in ended.stdout and "2/2 no metal: failed." in ended.stdout
    assert terminal(["batch", str(tmp_path / "in"), "--output", str(tmp_path / "plain"), *QUICK]) == 2
    for name in ("corrected", "shadow", "metal"):
        here, there = (images.read_volume(tmp_path / out / "Größe µ" / f"{name}.nrrd") for out in ("out", "plain"))
        assert np.array_equal(here.array, there.array) and here.geometry == there.geometry
    assert rows(tmp_path / "out") == rows(tmp_path / "plain") and len(rows(tmp_path / "out")) == 2
    assert [f.parent.name for f in tmp_path.rglob("scene.mrb")] == ["Größe µ"]
    check_scene(tmp_path / "out" / "Größe µ")


def rows(out: Path) -> list[tuple[str, ...]]:
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        return [(r["id"], r["status"], r["exit_code"], r["message"]) for r in csv.DictReader(file)]


def check_scene(folder: Path) -> None:
    slicer.util.loadScene(str(folder / "scene.mrb"))
    nodes = {n: slicer.util.getNode(f"Größe µ LI {n}") for n in ("corrected", "shadow", "metal", "report")}
    ct = slicer.util.getNode("Größe µ")
    file = images.read_volume(folder / "corrected.nrrd")
    assert np.array_equal(slicer.util.arrayFromVolume(nodes["corrected"]), file.array)
    shown, window = nodes["corrected"].GetDisplayNode(), ct.GetDisplayNode()
    assert (shown.GetWindow(), shown.GetLevel()) == (window.GetWindow(), window.GetLevel())
    segment = nodes["metal"].GetSegmentation().GetNthSegment(0)
    lines = (folder / "report.csv").read_text().splitlines()
    assert segment.GetName() == "metal" and nodes["report"].GetNumberOfRows() == len(lines) - 1
    settings = provenance.settings_of(nodes["corrected"])
    assert settings["method"] == "li" and settings["params"]["views"] == 120 and settings["inputs"] == {"ct": ct}


def test_a_second_start_goes_on_and_keeps_the_scene(tmp_path):
    volumes(tmp_path / "in")
    (tmp_path / "in" / "no metal.nrrd").unlink()
    arguments = ("in", "--output", tmp_path / "out", *QUICK, "--scene")
    assert run(*arguments, cwd=tmp_path).returncode == 0
    scene = tmp_path / "out" / "Größe µ" / "scene.mrb"
    before = scene.stat().st_mtime_ns
    ended = run(*arguments, "--progress", "json", cwd=tmp_path)
    events = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert ended.returncode == 0 and [e["event"] for e in events] == ["study", "result"] and events[0]["already"]
    assert scene.stat().st_mtime_ns == before


def test_wrong_arguments_end_with_their_sentence(tmp_path):
    ended = run("none", "--output", "out", *QUICK, cwd=tmp_path)
    assert ended.returncode == 2 and "There is no list, folder or file 'none'" in ended.stdout, ended.stderr
    assert not list(tmp_path.iterdir())


def test_the_end_of_the_application_ends_the_batch(tmp_path):
    """Killed, so that it can do nothing itself: batch and engine end, nothing half-made stays."""
    volumes(tmp_path / "in")
    words = command("in", "--output", "out", "--method", "a11", "--set", "steps=1000", "--progress", "json")
    options = {"env": environment(), "cwd": tmp_path, "stdout": subprocess.PIPE, "start_new_session": True}
    application = subprocess.Popen(words, **options)
    for line in application.stdout:
        if b'"event": "progress"' in line:
            break
    below = [process.pid for process in psutil.Process(application.pid).children(recursive=True)]
    assert len(below) >= 3
    os.killpg(application.pid, signal.SIGKILL)
    application.wait()
    until(lambda: not any(exists(p) for p in below), 60)
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["summary.csv"]


"""Results that outlive a crash: listed, loaded, discarded; what nobody will ask for is removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slicer
from slicer.util import addVolumeFromArray, arrayFromVolume

from diffusion_panel import recovery, transfer
from diffusion_panel.logic import DiffusionLogic, EngineFailure
from diffusion_panel.recovery import DAY, RESULT, Folders

from .engines import dummy_worker, exists, until

REPOSITORY = Path(__file__).resolve().parents[2]
CRASH = """
import sys, os
sys.path[:0] = [{testing!r}, {packages!r}]
import headless; headless.start()
import numpy as np, slicer
slicer.app.temporaryPath = {temporary!r}
from panel.engines import dummy_worker, until
from diffusion_panel.logic import DiffusionLogic
class CrashingLogic(DiffusionLogic): pass
logic = CrashingLogic(); logic.queue.worker = dummy_worker()
volume = slicer.util.addVolumeFromArray(np.full((2, 3, 4), 7, np.int16), ijkToRAS=np.diag([-1., -1, 2, 1]))
job = logic.run("a11", {{"ct": volume}}, {parameters!r}, seed=5, wait=False)
{moment}
print(logic.queue.worker.pid, flush=True)
os._exit(1)
"""
AT_IMPORT = "job.changed.connect(lambda j: j.state == 'importing' and (print(logic.queue.worker.pid, flush=True), os._exit(1)))\nuntil(lambda: False)"  # noqa: E501
WHILE_RUNNING = "until(lambda: job.state == 'running' and job.progress)"


class RecoveringLogic(DiffusionLogic):
    """A logic of the next start."""


def crash(temporary: Path, moment: str, **parameters) -> int:
    """An application that ends without a word; returns the process id of its worker."""
    code = CRASH.format(testing=str(REPOSITORY / "Testing"), packages=str(REPOSITORY / "DiffusionBackend"),
                        temporary=str(temporary), moment=moment, parameters=parameters)  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout.strip().isdecimal(), done.stderr
    return int(done.stdout)


def next_start(monkeypatch, temporary: Path) -> RecoveringLogic:
    monkeypatch.setattr(slicer.app, "temporaryPath", str(temporary))
    logic = RecoveringLogic()
    logic.queue.worker = dummy_worker()
    return logic


def left(temporary: Path) -> list[Path]:
    root = temporary / "DiffusionModels"
    return sorted(root.iterdir()) if root.exists() else []


def test_a_result_that_was_never_loaded_is_recovered(tmp_path, monkeypatch):
    worker = crash(tmp_path, AT_IMPORT)
    until(lambda: not exists(worker))
    logic = next_start(monkeypatch, tmp_path)
    (entry,) = logic.recoverable()
    assert entry.method == "a11" and entry.outputs == ("corrected", "report")
    assert abs(entry.finished - time.time()) < 600
    nodes = logic.recover(entry)
    assert (arrayFromVolume(nodes["corrected"]) == 8).all()
    assert nodes["corrected"].GetName() == "Recovered A11 corrected"
    assert nodes["corrected"].GetSpacing() == (1, 1, 2)
    assert logic.settings_of(nodes["corrected"])["seed"] == 5
    assert logic.recoverable() == [] and left(tmp_path) == []
    logic.shutdown()


def test_discard(tmp_path, monkeypatch):
    crash(tmp_path, AT_IMPORT)
    logic = next_start(monkeypatch, tmp_path)
    logic.discard(logic.recoverable()[0])
    assert logic.recoverable() == [] and left(tmp_path) == []
    logic.shutdown()


def test_a_crash_while_running_leaves_no_process_and_no_images(tmp_path, monkeypatch):
    worker = crash(tmp_path, WHILE_RUNNING, act="slow")
    monkeypatch.setattr(recovery, "FRESH_SECONDS", 0.0)
    until(lambda: not exists(worker))
    logic = next_start(monkeypatch, tmp_path)
    assert logic.recoverable() == [] and left(tmp_path) == []
    logic.shutdown()


def test_a_damaged_result_is_a_sentence_and_changes_nothing(tmp_path, monkeypatch):
    crash(tmp_path, AT_IMPORT)
    logic = next_start(monkeypatch, tmp_path)
    (entry,) = logic.recoverable()
    (entry.folder / "result" / "corrected.npy").write_bytes(b"\x93NUMPY damaged")
    before = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(EngineFailure, match="can't be read"):
        logic.recover(entry)
    assert slicer.mrmlScene.GetNumberOfNodes() == before and entry.folder.exists()
    logic.shutdown()


def complete(root: Path, name: str, days: float) -> Path:
    """A complete result folder of an application that is gone."""
    folder = root / name / "result"
    folder.mkdir(parents=True)
    (folder / RESULT).write_text(json.dumps({"method": {"id": "a11"}, "outputs": {}}))
    os.utime(folder / RESULT, times=(time.time() - days * DAY,) * 2)
    return folder.parent


def test_what_is_older_than_14_days_is_removed(tmp_path):
    old, young = complete(tmp_path, "old", 14.1), complete(tmp_path, "young", 13.9)
    folders = Folders(tmp_path)
    folders.clean()
    assert not old.exists() and young.exists()
    assert [e.folder for e in folders.recoverable()] == [young]


def test_the_newest_comes_first(tmp_path):
    first, second = complete(tmp_path, "a", 2), complete(tmp_path, "b", 1)
    assert [e.folder for e in Folders(tmp_path).recoverable()] == [second, first]


def test_folders_of_living_applications_are_left_alone(tmp_path):
    """Of another logic in this application, and of another application."""
    folders = Folders(tmp_path)
    folder = folders.create("mine")
    complete(tmp_path, "mine/x", 0)
    (folder / "x" / "result").rename(folder / "result")
    os.utime(folder / "result" / RESULT, times=(0, 0))
    Folders(tmp_path).clean()
    assert folder.exists() and Folders(tmp_path).recoverable() == []
    code = (
        f"import sys; sys.path[:0] = {[str(REPOSITORY / p) for p in ('DiffusionBackend', 'Testing/headless/site')]}\n"
        "from pathlib import Path\n"
        f"from diffusion_panel.recovery import Folders\nFolders(Path({str(tmp_path)!r})).clean()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert folder.exists()
    folders.release(folder)
    Folders(tmp_path).clean()
    assert not folder.exists()


def test_a_result_that_can_t_be_loaded_stays_recoverable(tmp_path, monkeypatch):
    """An error of the application while nodes are made doesn't lose hours of computing."""
    logic = next_start(monkeypatch, tmp_path)
    volume = addVolumeFromArray(np.zeros((2, 3, 4), np.int16))
    with monkeypatch.context() as broken:
        broken.setattr(transfer.exchange, "create", lambda *a, **k: 1 / 0)
        with pytest.raises(EngineFailure, match="Internal error"):
            logic.run("a11", {"ct": volume})
    (entry,) = logic.recoverable()
    assert "corrected" in logic.recover(entry)
    logic.shutdown()


def test_a_folder_with_something_else_in_it_does_no_harm(tmp_path):
    (tmp_path / "file").write_text("x")
    odd = tmp_path / "odd" / "result"
    odd.mkdir(parents=True)
    (odd / RESULT).write_text("[]")
    assert Folders(tmp_path).recoverable() == []
    Folders(tmp_path / "missing").clean()

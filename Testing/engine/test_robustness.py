"""Bad input gets one sentence and an exit code, changes nothing and leaves nothing behind; through the command line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import head
import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_backend import models, paths
from diffusion_backend.__main__ import main
from diffusion_backend.io import arrays, images
from diffusion_backend.io.folders import temporary
from diffusion_backend.io.projections import write_projections

SCANNER = ("--set", "views=120", "--set", "bins=121")
QUICK = {"a11": (*SCANNER, "--set", "steps=5"), "li": SCANNER}


@pytest.fixture(autouse=True)
def signals():
    """Put the signal handlers back that a run sets."""
    kept = [(n, signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in kept:
        signal.signal(number, handler)


def run(capsys, method, *inputs, output, more=()):
    """Exit code and events of `run`."""
    given = [part for i in inputs for part in ("--input", str(i))]
    options = ("--threads", "1", "--progress", "json", *QUICK.get(method, ()), *more)
    code = main(["run", method, *given, "--output", str(output), *options])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def refused(capsys, folder, method, *inputs, code=2, words=(), more=()):
    """Assert one error sentence with `words`, the exit code, unchanged inputs, and an untouched folder."""
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    found, events = run(capsys, method, *inputs, output=folder / "out", more=more)
    errors = [e for e in events if e["event"] == "error"]
    assert found == code, events
    assert len(errors) == 1
    sentence = " ".join([errors[0]["message"], errors[0]["remedy"]])
    assert all(w in sentence for w in words), sentence
    assert "\n" not in sentence and "Traceback" not in sentence
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    return sentence


def test_a_run_writes_everything_and_keeps_an_oblique_anisotropic_geometry(capsys, tmp_path):
    folder = tmp_path / "Ünï cöde with blanks"
    source = head.write(folder / "kopf ä.nrrd", head.hu(), (2.0, 1.5, 3.0), direction=head.rotation())
    clean = head.write(folder / "clean.nrrd", head.hu(metal=False), (2.0, 1.5, 3.0), direction=head.rotation())
    code, events = run(capsys, "a11", f"ct={source}", output=folder / "aus gabe", more=("--reference", str(clean)))
    assert code == 0, events
    names = {p.name for p in (folder / "aus gabe").iterdir()}
    assert {"corrected.nrrd", "difference.nrrd", "metal.nrrd", "result.json", "preview.png", "metrics.csv"} <= names
    before, after = sitk.ReadImage(str(source)), sitk.ReadImage(str(folder / "aus gabe" / "corrected.nrrd"))
    assert (before.GetSpacing(), before.GetOrigin(), before.GetDirection()) == (
        after.GetSpacing(), after.GetOrigin(), after.GetDirection())  # fmt: skip
    one, two = sitk.GetArrayFromImage(before), sitk.GetArrayFromImage(after)
    assert np.array_equal(one[0], two[0]), "the slice without metal is copied bit for bit"
    assert np.abs(one[1] - two[1]).max() > 1
    assert np.array_equal(one[one > 2500], two[one > 2500]), "the metal is put back exactly"
    record = json.loads((folder / "aus gabe" / "result.json").read_text())
    assert record["seed"] == 0 and record["evaluations"] == 5 and record["models"]["prior"]["sha256"]
    assert record["parameters"]["steps"] == 5 and "not for clinical use" in record["notice"].lower()
    assert "kopf" not in json.dumps(record)
    kinds = [e["event"] for e in events]
    assert kinds[0] == "plan" and kinds[-1] == "result" and "progress" in kinds
    assert {p.name for p in folder.iterdir()} == {"kopf ä.nrrd", "clean.nrrd", "aus gabe"}


def test_seeds_samples_and_batches(capsys, tmp_path):
    source = head.write(tmp_path / "h.nrrd", head.hu(slices=1))

    def corrected(name, *more):
        assert run(capsys, "a11", source, output=tmp_path / name, more=more)[0] == 0
        return sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name / "corrected.nrrd")))

    first, again = corrected("a"), corrected("b", "--seed", "0")
    other = corrected("c", "--seed", "7")
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0
    corrected("d", "--samples", "2")
    std = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "d" / "std.nrrd")))
    assert std.shape == first.shape and std.max() > 0


@pytest.mark.parametrize(
    "name,change,words",
    [
        ("nan", lambda a: np.where(a > 5000, np.nan, a), ("'ct'", "NaN")),
        ("infinite", lambda a: np.where(a > 5000, np.inf, a), ("'ct'", "infinite")),
        ("not HU", lambda a: a + 1000, ("'ct'", "HU", "smallest value")),
        ("no metal", lambda a: np.minimum(a, 1000), ("'ct'", "no metal", "2500")),
        ("all metal", lambda a: np.where(a > -500, 3000, a), ("'ct'", "20 %")),
        ("rgb", lambda a: np.repeat(a[..., None], 3, -1).astype(np.uint8), ("3 values per voxel",)),
    ],
)
def test_bad_volumes_are_refused(capsys, tmp_path, name, change, words):
    source = head.write(tmp_path / "v.nrrd", change(head.hu()))
    refused(capsys, tmp_path, "a11", source, words=words)


def test_empty_missing_and_foreign_files_are_refused(capsys, tmp_path):
    refused(capsys, tmp_path, "a11", tmp_path / "nowhere.nrrd", words=("no file",))
    (tmp_path / "text.nrrd").write_text("no image")
    refused(capsys, tmp_path, "a11", tmp_path / "text.nrrd", words=("text.nrrd", "can't be read"))
    (tmp_path / "folder").mkdir()
    refused(capsys, tmp_path, "a11", tmp_path / "folder", words=("no DICOM",))
    small = head.write(tmp_path / "small.nrrd", head.hu(size=64)[:, :4, :4])
    refused(capsys, tmp_path, "a11", small, words=("4 × 4",))


def test_an_empty_volume_is_refused_in_a_job(tmp_path):
    from diffusion_backend.errors import InputError
    from diffusion_backend.execute import Request, Surroundings, execute
    from diffusion_backend.methods import load

    grid = images.read_volume(head.write(tmp_path / "h.nrrd", head.hu()))
    empty = type(grid)(grid.array[:0], grid.axes, "HU", grid.geometry)
    with pytest.raises(InputError, match="empty"):
        execute(load("li"), Request("li"), {"ct": empty}, Surroundings())


@pytest.mark.parametrize(
    "setting,words",
    [
        ("stepz=5", ("no parameter 'stepz'", "steps")),
        ("steps=2", ("'steps'", "5", "1000")),
        ("steps=inf", ("'steps'", "whole number")),
        ("steps=nan", ("'steps'", "whole number")),
        ("a=1.5", ("'a'", "0 to 1")),
        ("metal_threshold=high", ("'metal_threshold'", "number")),
        ("reinsert=maybe", ("'reinsert'", "original, fixed, no")),
        ("steps", ("NAME=VALUE",)),
    ],
)
def test_unknown_or_out_of_range_parameters_are_refused(capsys, tmp_path, setting, words):
    source = head.write(tmp_path / "h.nrrd", head.hu())
    refused(capsys, tmp_path, "a11", source, words=words, more=("--set", setting))


def test_unknown_methods_inputs_and_model_slots_are_refused(capsys, tmp_path):
    source = head.write(tmp_path / "h.nrrd", head.hu())
    refused(capsys, tmp_path, "a111", source, words=("no method 'a111'", "a11"))
    refused(capsys, tmp_path, "a11", f"ct={source}", f"mr={source}", words=("no input 'mr'",))
    refused(capsys, tmp_path, "a11", source, words=("no model slot 'priour'",), more=("--model", "priour=x"))


def test_a_sinogram_that_does_not_fit_its_geometry_is_refused(capsys, tmp_path):
    from diffusion_backend.data import projections

    acquisition = {"type": "parallel", "angles_deg": list(range(30)), "bins": 40, "bin_mm": 2.0}
    write_projections(projections(np.ones((30, 39), np.float32), acquisition), tmp_path / "p.npz")
    refused(capsys, tmp_path, "fbp", tmp_path / "p.npz", words=("30 views × 39 bins", "30 views × 40 bins"))
    write_projections(projections(np.ones((30, 40), np.float32), acquisition | {"type": "spiral"}), tmp_path / "p.npz")
    refused(capsys, tmp_path, "fbp", tmp_path / "p.npz", words=("spiral", "fan-arc"))


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    """A copy of ct-image as the user's model `mine`."""
    store = tmp_path / "store"
    shutil.copytree(paths.resources() / "Models" / "ct-image", store / "mine")
    card = json.loads((store / "mine" / "card.json").read_text())
    (store / "mine" / "card.json").write_text(json.dumps(card | {"id": "mine"}))
    monkeypatch.setenv("DIFFUSIONMODELS_MODELS", str(store))
    return store / "mine"


def test_missing_and_damaged_weights_have_their_own_exit_code(capsys, tmp_path, own_models):
    source = head.write(tmp_path / "h.nrrd", head.hu())
    mine = ("--model", "prior=mine")
    refused(capsys, tmp_path, "a11", source, code=3, words=("'nobody'",), more=("--model", "prior=nobody"))
    weights = own_models / models.WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    refused(capsys, tmp_path, "a11", source, code=3, words=("mine",), more=mine)
    weights.unlink()
    refused(capsys, tmp_path, "a11", source, code=3, words=("mine",), more=mine)
    (own_models / models.CARD).write_text("{")
    refused(capsys, tmp_path, "a11", source, code=3, words=("mine",), more=mine)


def test_nmar_prior_needs_no_weights(capsys, tmp_path):
    source = head.write(tmp_path / "h.nrrd", head.hu())
    more = ("--set", "prior=nmar", "--model", "prior=nobody")
    code, events = run(capsys, "a11", source, output=tmp_path / "out", more=more)
    assert code == 0, events
    assert json.loads((tmp_path / "out" / "result.json").read_text())["evaluations"] == 0


def test_full_disk_is_said_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    source = head.write(tmp_path / "h.nrrd", head.hu())

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(arrays.np, "save", full)
    sentence = refused(capsys, tmp_path, "li", source, words=("full",))
    assert "full" in sentence


def test_output_that_is_a_file_is_refused_and_kept(capsys, tmp_path):
    source = head.write(tmp_path / "h.nrrd", head.hu())
    (tmp_path / "out").write_text("mine")
    refused(capsys, tmp_path, "li", source, words=("is a file",))
    assert (tmp_path / "out").read_text() == "mine"


def engine(*arguments, **more):
    """The engine as a child process with its own process group."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "diffusion_backend", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes, **more)


def long_run(folder, **more):
    """A run that would take minutes, waited for until it samples."""
    source = head.write(folder / "h.nrrd", head.hu(slices=1, size=128))
    options = ("--set", "steps=1000", "--progress", "json", "--threads", "1", *more.pop("options", ()))
    child = engine("run", "a11", "--input", source, "--output", folder / "out", *options, **more)
    for line in child.stdout:
        if json.loads(line)["event"] == "progress" and json.loads(line)["step"] > 0:
            return child
    raise AssertionError("the run ended before it sampled")


def test_a_signal_cancels_with_its_exit_code_and_leaves_nothing(tmp_path):
    child = long_run(tmp_path)
    start = time.monotonic()
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=15) == 5
    assert time.monotonic() - start < 15
    assert [p.name for p in tmp_path.iterdir()] == ["h.nrrd"]


def test_the_end_of_the_parent_cancels(tmp_path):
    child = long_run(tmp_path, stdin=subprocess.PIPE, options=("--parent-pipe",))
    child.stdin.close()
    assert child.wait(timeout=15) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["h.nrrd"]


def test_a_killed_child_leaves_no_result_under_the_final_name(tmp_path):
    child = long_run(tmp_path)
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait(timeout=15) == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    left = [p for p in tmp_path.iterdir() if p.name != "h.nrrd"]
    assert len(left) == 1, "a killed process can't tidy up ..."
    with temporary(tmp_path, ".diffusion-"):
        assert not left[0].exists(), "... the next one does"


def test_a_reference_of_another_size_is_refused_before_the_run(capsys, tmp_path):
    source = head.write(tmp_path / "h.nrrd", head.hu())
    other = head.write(tmp_path / "r.nrrd", head.hu(size=48))
    refused(capsys, tmp_path, "li", source, words=("2 × 48 × 48", "2 × 64 × 64"), more=("--reference", str(other)))

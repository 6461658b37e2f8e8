"""Many studies: several at once, metrics in the summary, wrong lists, changed settings, stop and go on."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time

import head
import pytest

from diffusion_backend.__main__ import main

QUICK = ("--set", "views=120", "--set", "bins=121", "--threads", "1")


@pytest.fixture(autouse=True)
def signals():
    kept = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGINT, kept[0])
    signal.signal(signal.SIGTERM, kept[1])


def write_list(folder, *rows):
    with open(folder / "list.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return ["batch", str(folder / "list.csv"), "--method", "li", "--output", str(folder / "out"), *QUICK]


def summary(folder):
    with open(folder / "out" / "summary.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_two_at_once_with_references_and_a_change_of_settings_runs_again(tmp_path):
    head.write(tmp_path / "ü 1.nrrd", head.hu())
    head.write(tmp_path / "true.nrrd", head.hu(metal=False))
    arguments = write_list(tmp_path, ("id", "ct", "reference"), ("b", "ü 1.nrrd", "true.nrrd"), ("a ä", "ü 1.nrrd", ""))
    assert main([*arguments, "--jobs", "2"]) == 0
    rows = summary(tmp_path)
    assert [(r["id"], r["status"]) for r in rows] == [("b", "done"), ("a ä", "done")]
    assert 0 < float(rows[0]["rmse"]) < 200 and rows[1]["rmse"] == "" and rows[0]["domain"] == "ok"
    assert main([*arguments, "--jobs", "2"]) == 0
    assert [r["status"] for r in summary(tmp_path)] == ["done"] * 2
    assert float(summary(tmp_path)[0]["rmse"]) == float(rows[0]["rmse"])
    assert main([*arguments, "--set", "trace_dilation=2"]) == 0
    assert [r["status"] for r in summary(tmp_path)] == ["done"] * 2


@pytest.mark.parametrize(
    "rows,words",
    [
        ([("ct",), ("h.nrrd",)], "needed are id and inputs of li: ct, sinogram, metal"),
        ([("id", "mr"), ("a", "h.nrrd")], "id, mr"),
        ([("id", "ct"), ("a", "h.nrrd"), ("a", "h.nrrd")], "The id 'a'"),
        ([("id", "ct"), ("../a", "h.nrrd")], "The id '../a'"),
        ([("id", "ct")], "needed are"),
    ],
)
def test_wrong_lists_are_refused_before_anything_runs(tmp_path, capsys, rows, words):
    assert main(write_list(tmp_path, *rows)) == 2
    assert words in capsys.readouterr().out
    assert [f.name for f in tmp_path.iterdir()] == ["list.csv"]


def test_a_stopped_batch_keeps_what_is_done_and_goes_on(tmp_path):
    """SIGTERM while the second study, a long one, runs."""
    head.write(tmp_path / "h.nrrd", head.hu(slices=1, size=128))
    arguments = write_list(tmp_path, ("id", "ct"), ("one", "h.nrrd"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    arguments[arguments.index("li")] = "a11"
    command = [sys.executable, "-m", "diffusion_backend", *arguments, "--set", "steps=1000"]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    out = tmp_path / "out"
    for _ in range(300):
        if out.exists() and list(out.glob(".diffusion-*")):
            break
        time.sleep(0.1)
    time.sleep(2)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=20) == 5
    assert "goes on from there" in child.stdout.read()
    assert [f.name for f in out.iterdir() if f.name != "summary.csv"] == []

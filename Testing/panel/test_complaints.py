"""The acceptance list: every complaint that Testing/README.md maps has its test; a few tests that fit nowhere else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import qt
import slicer

from .panels import ct_with_metal, panel, wait

TESTING = Path(__file__).resolve().parents[1]
ROW = re.compile(r"^\| ([\d, ]+) \|.*\|(.*)\|$", re.MULTILINE)
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
COMPLAINTS = set(range(1, 53))
NOT_YET = {48}  # no method gives dose


def rows() -> list[tuple[set[int], list[tuple[str, str]]]]:
    """The numbers and the tests of each row of the table."""
    text = (TESTING / "README.md").read_text(encoding="utf-8")
    return [({int(n) for n in numbers.split(",")}, TEST.findall(tests)) for numbers, tests in ROW.findall(text)]


def test_every_complaint_has_a_test_that_exists():
    told = set().union(*(numbers for numbers, _ in rows()))
    assert told == COMPLAINTS, sorted(told ^ COMPLAINTS)
    for numbers, tests in rows():
        assert tests or numbers <= NOT_YET, f"no test for {numbers}"
        for file, name in tests:
            tree = ast.parse((TESTING / file).read_text(encoding="utf-8"))
            assert name in {f.name for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)}, f"{file}::{name}"


def test_every_goal_that_is_met_names_a_test_that_exists():
    text = (TESTING / "README.md").read_text(encoding="utf-8")
    section = text.split("## What users expect")[1].split("\n## ")[0]
    goals = [line.split(" | ") for line in section.split("|---|---|---|---|\n")[1].splitlines() if line]
    assert len(goals) == 44
    for what, _must, ours, tests in goals:
        assert ours.startswith(("yes", "partly", "no")), what
        assert TEST.findall(tests) or "`" in tests or ours.startswith("no"), what
        for file, name in TEST.findall(tests):
            tree = ast.parse((TESTING / file).read_text(encoding="utf-8"))
            assert name in {f.name for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)}, f"{file}::{name}"


def fast_run(widget, ct, **changes):
    """Start the first method that needs a volume and no network, without waiting for it."""
    method = next(m for m in widget.chooser.methods if m["state"] == "works" and not m["models"]
                  and m["inputs"][0]["kind"] == "volume")  # fmt: skip
    widget.choose(method["id"])
    return widget.apply(inputs={method["inputs"][0]["name"]: ct}, **changes)


def test_the_application_stays_usable_while_a_job_runs():
    """Timers fire, data can be loaded and other modules' nodes changed between start and end of a job."""
    widget, ct, ticks = panel(), ct_with_metal(size=96), []
    timer = qt.QTimer()
    timer.setInterval(1)
    timer.connect("timeout()", lambda: ticks.append(job.state))
    job = fast_run(widget, ct)
    timer.start()
    wait(lambda: job.state == "running" and "running" in ticks, "the job to run")
    other = slicer.util.addVolumeFromArray(np.ones((2, 3, 4), np.int16), name="loaded meanwhile")
    slicer.util.arrayFromVolume(ct)[:] = 0  # the job has its own copy
    wait(lambda: job.is_over, "the end of the job")
    timer.stop()
    assert job.state == "done", job.message
    assert other.GetScene() is slicer.mrmlScene and ticks.count("running") > 3
    result = next(n for n in job.nodes.values() if n.IsA("vtkMRMLScalarVolumeNode"))
    assert slicer.util.arrayFromVolume(result).max() > 1000, "the result is that of the data at the start"


def test_results_and_segmentations_of_before_are_left_alone():
    """A second run makes nodes of its own; what the first one made and what the user drew stay as they are."""
    widget, ct = panel(), ct_with_metal()
    drawn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn by hand")
    drawn.GetSegmentation().AddEmptySegment("mine", "mine")
    first = fast_run(widget, ct)
    wait(lambda: first.is_over)
    arrays = {n: slicer.util.arrayFromVolume(v).copy() for n, v in first.nodes.items() if v.IsA("vtkMRMLVolumeNode")}
    second = fast_run(widget, ct, seed=5)
    wait(lambda: second.is_over)
    assert first.state == second.state == "done"
    assert {n.GetID() for n in first.nodes.values()}.isdisjoint(n.GetID() for n in second.nodes.values())
    assert all(np.array_equal(slicer.util.arrayFromVolume(first.nodes[n]), a) for n, a in arrays.items()) and arrays
    assert [drawn.GetSegmentation().GetNthSegmentID(n) for n in range(drawn.GetSegmentation().GetNumberOfSegments())
            ] == ["mine"]  # fmt: skip
    names = [n.GetName() for j in (first, second) for n in j.nodes.values()]
    assert len({name.lower() for name in names}) == len(names), "a bundle keeps names that differ in more than case"

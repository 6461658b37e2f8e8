"""Sample data: every method that works has some, and a run on them gives what its declaration tells."""

from __future__ import annotations

import csv
import json

import pytest

from diffusion_backend import methods, sample_data
from diffusion_backend.__main__ import main as terminal
from diffusion_backend.errors import InputError
from diffusion_backend.job import read_result, run_job
from diffusion_backend.method import Sample

WITH_SAMPLE = [m for m in methods.MODULES if methods.load(m).METHOD.sample]


def test_every_method_that_works_has_sample_data():
    assert [m for m in methods.MODULES if methods.load(m).METHOD.state == "works"] == WITH_SAMPLE


@pytest.mark.parametrize("method", WITH_SAMPLE)
def test_a_run_gives_what_is_expected(method, tmp_path, capsys):
    """Files of the command `sample`, then `run` with the defaults: the RMSE in the body within 2 % (1 HU) of the
    declared one; other builds of torch differ by less."""
    assert terminal(["sample", method, "--output", str(tmp_path)]) == 0
    declared = methods.load(method).METHOD
    inputs = [i for i in declared.inputs if i.required]
    given = [a for i in inputs for a in ("--input", f"{i.name}={next(tmp_path.glob(i.name + '.n*'))}")]
    reference = ["--reference", str(tmp_path / "reference.nrrd"), "--threads", "1"]
    assert terminal(["run", method, *given, *reference, "--output", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "metrics.csv").open(newline="") as stream:
        rmse = {r["image"]: float(r["rmse"]) for r in csv.DictReader(stream) if r["slice"] == "all"}
    sample: Sample = declared.sample
    assert rmse[declared.outputs[0].name] == pytest.approx(sample.after, rel=0.02, abs=0.1)
    if sample.before is not None:
        assert rmse[inputs[0].name] == pytest.approx(sample.before, rel=0.02, abs=0.1)
        assert sample.after < sample.before
    assert f"{sample.after:g} HU" in capsys.readouterr().out


def test_a_job_makes_the_same_data_as_the_command(tmp_path):
    (tmp_path / "job.json").write_text(json.dumps({"schema": 1, "method": "li", "sample": True}))
    events = []
    folder = run_job(tmp_path, events.append)
    record, items = read_result(folder)
    made = sample_data.make("li")
    assert set(items) == {"ct", "reference"} and record["sample"] is True
    assert (items["ct"].array == made["ct.nrrd"].array).all() and items["ct"].unit == "HU"
    assert items["reference"].geometry.ijk_to_ras == items["ct"].geometry.ijk_to_ras
    assert [e["event"] for e in events] == ["progress", "result"]


def test_a_planned_method_has_none():
    with pytest.raises(InputError, match="planned"):
        sample_data.make("a20")

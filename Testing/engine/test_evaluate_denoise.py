"""`evaluate denoise`: table, cases, resuming; and the bundled prior on held-out patients against its own card."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from diffusion_backend import models, paths
from diffusion_backend.errors import InputError
from diffusion_backend.evaluate import denoise
from diffusion_backend.evaluate.tables import Cases, renew_tables


@pytest.fixture
def two_patients(tmp_path):
    """A folder like the real one with two squares of noise-free 'tissue' as held-out patients."""
    y, x = np.abs(np.mgrid[:128, :128] - 63.5)
    hu = np.stack([np.where(np.maximum(x, y) < r, 40, -1000) for r in (40, 50)]).astype(np.int16)
    (tmp_path / "ct-tcia-slices").mkdir()
    np.savez(tmp_path / "ct-tcia-slices" / "test-native512.npz", hu=hu, patient=np.array(["pA", "pB"]))
    return tmp_path


def test_table_has_every_method_and_sigma_and_a_broken_run_goes_on(two_patients, tmp_path, monkeypatch, capsys):
    perfect = lambda x, sigma, cond: torch.where(x > -480, 40.0, -1000.0)  # noqa: E731
    monkeypatch.setattr(denoise, "SIGMAS_HU", (20.0, 50.0))
    monkeypatch.setattr(denoise, "TUNED", {k: v[:2] for k, v in denoise.TUNED.items()})
    monkeypatch.setattr(models, "load_denoiser", lambda model, device: perfect)
    output = tmp_path / "out" / "table.csv"
    denoise.evaluate(two_patients, output, model="oracle")
    with open(output, newline="") as file:
        rows = {(r["method"], float(r["sigma_hu"])): float(r["rmse_hu"]) for r in csv.DictReader(file)}
    assert len(rows) == 5 * 2
    assert rows["oracle", 50.0] == 0
    assert rows["noisy", 20.0] == pytest.approx(20, rel=0.05)
    assert rows["tv", 20.0] < 0.8 * rows["noisy", 20.0]
    cases = output.with_suffix(".cases.csv").read_text().splitlines()
    output.with_suffix(".cases.csv").write_text("\n".join(cases[:4]) + "\n")
    monkeypatch.setattr(denoise, "rmse_hu", lambda *a: 7.0)
    denoise.evaluate(two_patients, output, model="oracle")
    again = output.with_suffix(".cases.csv").read_text().splitlines()
    assert again[:4] == cases[:4] and len(again) == len(cases)
    assert all(line.endswith(",7") for line in again[4:])
    assert "2 held-out patients" in capsys.readouterr().out


def test_missing_folder_is_said_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="test-native512"):
        denoise.evaluate(tmp_path, tmp_path / "t.csv", model="ct-image")


def test_cases_are_grouped_by_their_keys(tmp_path):
    cases = Cases(tmp_path / "c.csv", ("method", "case"), ("a", "b"))
    for case, value in (("1", 1.0), ("2", 3.0)):
        cases.compute({"method": "m", "case": case}, lambda v=value: {"a": v, "b": 2 * v})
    assert cases.means(("method",)) == [{"method": "m", "a": 2.0, "b": 4.0, "cases": 2}]
    assert Cases(tmp_path / "c.csv", ("method", "case"), ("a", "b")).rows == cases.rows


def test_tables_of_a_page_are_those_of_the_stored_files(tmp_path):
    (tmp_path / "t.csv").write_text("method,rmse\na11,1.5\n")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table t.csv -->\nold\n<!-- end of table -->\nafter\n")
    for _ in range(2):
        renew_tables(page)
    table = "| method | rmse |\n| --- | --- |\n| a11 | 1.5 |\n"
    assert page.read_text() == f"before\n<!-- table t.csv -->\n{table}<!-- end of table -->\nafter\n"


@pytest.mark.real
def test_ct_image_reproduces_the_figures_of_its_card_and_beats_tv(real_data):
    card = json.loads((paths.resources() / "Models" / "ct-image" / "card.json").read_text())
    stored = card["metrics"]["cases_at_100_hu"]
    assert len(stored) == 3
    prior, tv = models.load_denoiser("ct-image"), denoise.classical_denoisers()["tv"]
    images = dict(denoise.held_out_slices(real_data))
    assert not set(card["training"]["patients"]["train"]) & {case.split("/")[0] for case in images}
    for case, value in stored.items():
        measured = denoise.rmse_hu(prior, case, images[case], 100.0)
        assert measured == pytest.approx(value, rel=0.01)
        assert measured < 0.9 * denoise.rmse_hu(tv, case, images[case], 100.0)

"""`evaluate mar` on small generated patients: regions of the figures, honesty of the rows, table."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from diffusion_backend import models, paths
from diffusion_backend.anatomy.phantoms import phantom
from diffusion_backend.errors import InputError
from diffusion_backend.evaluate import mar, mar_cases
from diffusion_backend.evaluate.tables import Cases


@pytest.fixture
def patients(tmp_path):
    """A folder like the real one: two phantoms of 128 pixels as held-out patients."""
    slices = [phantom(region, seed=0, size=128).hu for region in ("pelvis", "abdomen")]
    hu = np.concatenate(slices).round().astype(np.int16)
    folder = tmp_path / "data" / "ct-tcia-slices"
    folder.mkdir(parents=True)
    named = {"patient": np.array(["pA", "pB"]), "pixel_mm": np.full(2, 3.0, np.float32), "slice_mm": np.full(2, 3.0)}
    np.savez(folder / "test-native512.npz", hu=hu, **named)
    return tmp_path / "data"


@pytest.fixture
def case(patients):
    name, clean = next(mar.held_out(patients, 1, 1))
    return mar.make_case(name, clean, patients, 3, seed=0)


def test_figures_see_the_body_outside_the_metal_and_its_ring(case):
    metal = np.asarray(case.mask.array)[0] > 0
    assert metal.any()
    assert mar.figures(case.reference, case)["rmse_hu"] == 0
    changed = case.reference + 50.0 * metal
    assert mar.figures(changed, case)["rmse_hu"] == 0
    shifted = mar.figures(case.reference + 50.0, case)
    assert shifted["rmse_hu"] == pytest.approx(50) and shifted["bone_bias_hu"] == pytest.approx(50)
    assert mar.figures(np.asarray(case.ct.array)[0], case)["ring_rmse_hu"] > 30


def test_methods_never_get_the_reference_and_the_oracle_alone_knows_it(case, monkeypatch):
    seen = []

    def load(model, device):
        seen.append(model)
        return lambda x, sigma, cond=None: 0 * x

    monkeypatch.setattr(models, "load_denoiser", load)
    quick = {"steps": 5}
    blind = mar.correct("a11", case, "image", "cpu", quick)[0]
    assert seen == ["ct-image"]
    oracle = mar.correct("oracle", case, "image", "cpu", quick)[0]
    assert seen == ["ct-image"]
    error = [mar.figures(i, case)["rmse_hu"] for i in (oracle, blind)]
    assert error[0] < error[1]


def test_table_has_all_rows_and_resumes(patients, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mar, "METALS", mar_cases.METALS[2:3])
    monkeypatch.setattr(mar_cases, "METALS", mar_cases.METALS[2:3])
    monkeypatch.setattr(mar_cases, "GENERATED", mar_cases.GENERATED[2:3])
    output = tmp_path / "out" / "mar.csv"
    options = {"patients": 2, "slices": 1, "rows": ("uncorrected", "li", "nmar"), "mode": "projections"}
    mar.evaluate(patients, output, **options)
    with open(output, newline="") as file:
        rows = {r["method"]: float(r["rmse_hu"]) for r in csv.DictReader(file)}
    assert set(rows) == {"uncorrected", "li", "nmar"}
    assert all(0 < r < 200 for r in rows.values()) and len(set(rows.values())) == 3
    assert len(list(output.parent.glob("*.png"))) == 2
    monkeypatch.setattr(mar, "make_case", lambda *a: pytest.fail("a known case was computed again"))
    mar.evaluate(patients, output, **options)
    assert "No case has all of LI, NMAR and A11" in capsys.readouterr().out


def test_comparison_names_the_cases_in_which_a11_is_worse_than_li(tmp_path):
    cases = Cases(tmp_path / "c.csv", ("convention", "mode", "case", "metal", "method"), mar.FIGURES)
    for metal, *rmse in (("small", 40, 50, 43), ("large", 60, 50, 40)):
        for method, value in zip(("li", "nmar", "a11"), rmse, strict=True):
            key = ("scanner", "image", "p1", metal, method)
            cases.rows[key] = dict.fromkeys(mar.FIGURES, float(value))
    told = mar.comparison(cases, "scanner", "image")
    assert "0.83 times" in told and "1 of 2 cases (p1 small: 43.0 against 40.0 HU)" in told


def test_error_in_the_shadow_is_that_of_the_line_integrals(case):
    """Completed data that are the projections of the reference have none; a constant error in them is found."""
    image, completed = mar.correct("li", case, "projections", "cpu", {})
    error = mar.trace_rmse(completed, case)
    assert 0 < error < 1 and image.shape == case.reference.shape
    worse = completed.like(completed.array + 5.0)
    assert mar.trace_rmse(worse, case) == pytest.approx(5.0, abs=2 * error)
    geometry = mar.Geometry.from_dict(completed.acquisition)
    scanner = mar.projector(geometry, mar.ImageGrid(*case.reference.shape, case.ct.spacing[0]))
    truth = scanner.forward(mar.hu_to_mu(torch.from_numpy(case.reference)[None])).numpy()
    assert mar.trace_rmse(completed.like(truth), case) < 1e-6


def test_variants_change_the_prior_or_the_seed_alone(case, monkeypatch):
    monkeypatch.setattr(models, "load_denoiser", lambda model, device: lambda x, sigma, cond=None: 0.5 * x)
    few = {"steps": 5, "temperature": 1.0}
    for name in ("a10", "a11"):
        plain, again, seed, tv = (mar.correct(m, case, "image", "cpu", few)[0]
                                  for m in (name, name, f"{name}-seed1", f"{name}-tv"))  # fmt: skip
        assert np.array_equal(plain, again)
        assert not np.array_equal(plain, seed) and not np.array_equal(plain, tv)


def test_unknown_mode_and_missing_data_are_sentences(tmp_path):
    with pytest.raises(InputError, match="image or projections"):
        mar.evaluate(tmp_path, tmp_path / "t.csv", mode="both")
    with pytest.raises(InputError, match="test-native512"):
        mar.evaluate(tmp_path, tmp_path / "t.csv")


@pytest.mark.real
def test_ct_sinogram_reproduces_the_cases_of_its_card_and_beats_li_in_the_shadow(real_data):
    card = json.loads((paths.resources() / "Models" / "ct-sinogram" / "card.json").read_text())
    stored = card["metrics"]["cases"]
    assert len(stored) == 3
    patient, clean = next(mar.held_out(real_data, 6, 2))
    assert patient.split("/")[0] not in card["training"]["patients"]["train"]
    errors = []
    for number, (name, value) in enumerate(stored.items()):
        case = mar.make_case(patient, clean, real_data, number, seed=0)
        assert name == f"{case.name}, {case.metal}"
        a10, li = (mar.trace_rmse(mar.correct(m, case, "projections", "cpu", {})[1], case) for m in ("a10", "li"))
        assert a10 == pytest.approx(value, rel=0.01)
        errors.append((a10, li))
    assert sum(a for a, _ in errors) < sum(b for _, b in errors)

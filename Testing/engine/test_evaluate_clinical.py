"""`evaluate clinical`: figures without truth on closed forms, refusals, resuming, montage."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from head import hu as head
from scipy import ndimage

from diffusion_backend import models
from diffusion_backend.data import PatientGeometry, Segmentation, Table, volume
from diffusion_backend.errors import InputError
from diffusion_backend.evaluate import clinical

PLACED = PatientGeometry.from_itk((1.0, 1.0, 1.0), (0, 0, 0), np.eye(3).ravel())


@pytest.fixture
def folder(tmp_path):
    """A folder like the real one: a head with metal, and one without, which every method refuses."""
    hu = np.stack([head(1, 96)[0], head(1, 96, metal=False)[0]]).astype(np.int16)
    (tmp_path / "data" / "ct-metal-clinical").mkdir(parents=True)
    np.savez(tmp_path / "data" / "ct-metal-clinical" / "metal-native512.npz", hu=hu,
             pixel_mm=np.full(2, 2.0, np.float32), patient=np.array(["pA", "pB"]))  # fmt: skip
    return tmp_path / "data"


def test_streaks_are_the_local_spread_in_soft_tissue_of_both_images():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:200, :200]
    smooth = 40 + 0.3 * x                                       # a slow change of tissue is no streak
    streaks = 30.0 * (-1.0) ** x
    ring = np.ones((200, 200), bool)
    ring[:50] = False
    before, after = clinical.streaks(smooth + streaks, smooth, ring)
    assert before == pytest.approx(30 * 20 / 21, rel=0.02)      # 21 samples in a row keep one of them as their mean
    assert after < 1.5
    assert clinical.streaks(smooth, smooth + streaks, ring) == pytest.approx((after, before))
    bone = smooth.copy()
    bone[100:, :] += rng.normal(1000, 300, (100, 200))          # outside the range of soft tissue
    assert clinical.streaks(bone + streaks, bone, ring)[0] == pytest.approx(before, rel=0.03)
    assert np.isnan(clinical.streaks(bone, bone, ring & False)).all()


def test_figures_count_metal_and_the_change_far_from_it():
    hu = np.full((300, 300), -1000.0)
    hu[20:280, 20:280] = 40
    metal = np.zeros((1, 300, 300), np.uint8)
    metal[0, 40:44, 40:45] = 1
    shadow = np.where(np.arange(300) < 60, 0.0, 0.5) * np.ones((1, 300, 1))
    far = ndimage.distance_transform_edt(metal[0] == 0) > 100
    changed = hu + np.where(far | (shadow[0] < 0.02), 3.0, 100.0)
    outputs = {"corrected": volume(changed[None], PLACED), "shadow": volume(shadow, PLACED),
               "metal": Segmentation(metal, PLACED),
               "report": Table(("slice", "metal voxels", "trace %"), [(0, 20, 7.5)])}
    found = clinical.figures(hu, outputs)
    assert (found["metal_voxels"], found["trace_percent"]) == (20, 7.5)
    assert found["far_bias_hu"] == pytest.approx(3) and found["far_rmse_hu"] == pytest.approx(3)
    assert found["streaks_before_hu"] == pytest.approx(0, abs=1e-9) and found["streaks_after_hu"] > 1
    outputs["corrected"] = volume((hu + 50.0 * ~far)[None], PLACED)
    assert clinical.figures(hu, outputs)["far_rmse_hu"] > 10    # changed where the shadow is empty


def test_table_has_figures_or_the_refusal_and_a_broken_run_goes_on(folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out" / "clinical.csv"
    monkeypatch.setattr(models, "load_denoiser", lambda model, device: lambda x, sigma, cond=None: 0 * x)
    quick = {"steps": 5, "views": 180, "bins": 181}
    clinical.evaluate(folder, output, parameters=quick)
    with open(output, newline="") as file:
        rows = {(r["slice"], r["method"]): r for r in csv.DictReader(file)}
    assert len(rows) == 2 * len(clinical.METHODS)
    for method in clinical.METHODS:
        assert float(rows["0", method]["metal_voxels"]) > 3 and not rows["0", method]["refused"]
        assert float(rows["0", method]["seconds"]) > 0
        assert "2500" in rows["1", method]["refused"] and rows["1", method]["metal_voxels"] == "nan"
    assert not output.with_suffix(".png").exists()
    again = clinical.evaluate(folder, output, slices="0", rows=("li", "nmar"), parameters=quick)
    known = {(r["slice"], r["method"]): r["seconds"] for r in again if r["slice"] == "0"}
    assert all(float(rows[key]["seconds"]) == pytest.approx(s, rel=1e-3) for key, s in known.items())
    assert output.with_suffix(".png").stat().st_size > 1000
    assert "refused" in capsys.readouterr().out


def test_model_of_a_method_can_be_replaced_and_parameters_go_where_they_are_known(folder, monkeypatch):
    seen = []

    def load(model, device):
        seen.append(model)
        return lambda x, sigma, cond=None: 0 * x

    monkeypatch.setattr(models, "load_denoiser", load)
    monkeypatch.setattr(models, "find", lambda model: model)
    monkeypatch.setattr(models, "read_card", lambda model: {"id": model})
    _, _, ct = next(clinical.clinical_slices(folder))
    quick = {"steps": 5, "views": 180, "bins": 181, "nonsense": 1}
    clinical.correct("a11", ct, {"a11": "other", "a10": "third"}, "cpu", quick)
    clinical.correct("li", ct, {"a11": "other"}, "cpu", quick)
    assert seen == ["other"]


@pytest.mark.parametrize("given", [1, "1", [1], (1,), "1,1"])
def test_slices_come_as_number_text_or_list(given):
    assert clinical._indices(given) == {1}


def test_what_is_missing_is_said_in_a_sentence(folder, tmp_path):
    with pytest.raises(InputError, match="metal-native512"):
        clinical.evaluate(tmp_path, tmp_path / "t.csv")
    with pytest.raises(InputError, match="indices such as"):
        clinical.evaluate(folder, tmp_path / "t.csv", slices="a")
    assert clinical._indices(()) == set()


@pytest.mark.real
def test_every_clinical_slice_holds_metal_that_is_found(real_data):
    from diffusion_backend.physics.metal_mask import segment_metal

    slices = list(clinical.clinical_slices(real_data))
    assert len(slices) == 16
    assert all(segment_metal(np.asarray(ct.array)).sum() >= 4 for _, _, ct in slices)

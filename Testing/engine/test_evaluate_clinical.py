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
QUICK = {"steps": 5, "jump": 2, "repeats": 1, "views": 180, "bins": 181}


@pytest.fixture
def without_weights(monkeypatch):
    """Priors that say nothing, whatever models are installed; the list holds those that were asked for."""
    seen = []

    def load(model, device):
        seen.append(model)
        return lambda x, sigma, cond=None: 0 * x

    monkeypatch.setattr(models, "load_denoiser", load)
    monkeypatch.setattr(models, "find", lambda model: model)
    monkeypatch.setattr(models, "read_card", lambda model: {"id": model})
    return seen


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


def test_table_has_figures_or_the_refusal_and_a_broken_run_goes_on(folder, tmp_path, without_weights, capsys):
    output = tmp_path / "out" / "clinical.csv"
    clinical.evaluate(folder, output, parameters=QUICK)
    assert without_weights == ["ct-sinogram", "ct-image"]
    with open(output, newline="") as file:
        rows = {(r["slice"], r["method"]): r for r in csv.DictReader(file)}
    assert len(rows) == 2 * len(clinical.METHODS)
    for method in clinical.METHODS:
        assert float(rows["0", method]["metal_voxels"]) > 3 and not rows["0", method]["refused"]
        assert float(rows["0", method]["seconds"]) > 0
        assert "2500" in rows["1", method]["refused"] and rows["1", method]["metal_voxels"] == "nan"
    assert not output.with_suffix(".png").exists()
    again = clinical.evaluate(folder, output, slices="0", rows=("li", "nmar"), parameters=QUICK)
    known = {(r["slice"], r["method"]): r["seconds"] for r in again if r["slice"] == "0"}
    assert all(float(rows[key]["seconds"]) == pytest.approx(s, rel=1e-3) for key, s in known.items())
    assert output.with_suffix(".png").stat().st_size > 1000
    assert "refused" in capsys.readouterr().out


def test_model_of_a_method_can_be_replaced_and_parameters_go_where_they_are_known(folder, without_weights):
    _, _, ct = next(clinical.clinical_slices(folder))
    quick = QUICK | {"nonsense": 1}
    clinical.correct("a11", ct, {"a11": "other", "a10": "third"}, "cpu", quick)
    clinical.correct("li", ct, {"a11": "other"}, "cpu", quick)
    assert without_weights == ["other"]


def test_montage_has_a_column_per_method_in_the_order_asked_for(folder, tmp_path, monkeypatch):
    """The picture is asked of a stand-in: input, methods but LI, last change; empty where a method refuses."""
    drawn = []
    monkeypatch.setattr(clinical, "montage", lambda *given, **more: drawn.append((*given, more)))

    def outputs(method, ct, *rest):
        hu = np.asarray(ct.array)
        metal = Segmentation((hu > 2500).astype(np.uint8), ct.geometry)
        if method == "a10" or not metal.array.any():
            raise InputError("No.")
        return {"corrected": ct.like(hu + 7), "shadow": ct.like(0 * hu), "metal": metal,
                "report": Table(("slice", "metal voxels", "trace %"), [(0, 20, 7.5)])}  # fmt: skip

    monkeypatch.setattr(clinical, "correct", outputs)
    clinical.evaluate(folder, tmp_path / "t.csv", slices="1,0")
    path, rows, windows, more = drawn[0]
    assert path == tmp_path / "t.png" and len(rows) == 1        # nothing to show of the slice that all refuse
    row = rows[0]
    assert list(row) == ["input", "NMAR", "A10", "A11", "A11 minus input"]
    hu = np.load(folder / "ct-metal-clinical" / "metal-native512.npz")["hu"][0]
    hu = hu[clinical.square(hu > 2500, hu > -500, 80)]          # 160 mm of 2 mm
    assert hu.shape == (80, 80) and (hu > 2500).any()
    assert np.array_equal(row["input"], hu) and np.array_equal(row["NMAR"], hu + 7)
    assert np.isnan(row["A10"]).all() and (row["A11 minus input"] == 7).all()
    assert windows == {"": (-160, 240), "A11 minus input": (-200, 200)}
    assert np.array_equal(more["outlines"][0], hu > 2500)


@pytest.mark.parametrize(("metal", "rows", "columns"), [((60, 70), (35, 85), (45, 95)),    # in the middle
                                                        ((15, 22), (10, 60), (10, 60)),    # at the edge of the body
                                                        ((2, 95), (10, 60), (60, 110))])   # beyond it, and at its end
def test_square_around_the_metal_stays_with_the_body(metal, rows, columns):
    body, mask = np.zeros((140, 150), bool), np.zeros((140, 150), bool)
    body[10:120, 10:110] = True
    mask[metal] = True
    assert clinical.square(mask, body, 50) == (slice(*rows), slice(*columns))
    small = np.zeros_like(body)
    small[100:130, 60:80] = True                                # smaller than the square: wholly inside
    mask[:] = False
    mask[101, 61] = True
    assert clinical.square(mask, small, 50) == (slice(80, 130), slice(36, 86))
    assert clinical.square(mask, small, 145) == (slice(0, 145), slice(0, 145))


def test_stored_montage_is_small_and_outlines_the_metal(tmp_path):
    """Noise as in CT, four rows of five images: no more than 300 kB."""
    from matplotlib import image as reader

    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(40, 70, (4, 5, 228, 228)), (0, 0, 1, 1))
    rows = [{str(c): image for c, image in enumerate(row)} for row in noise]
    metal = np.zeros((228, 228), bool)
    metal[100:120, 100:120] = True
    clinical.montage(tmp_path / "m.png", rows, (-160, 240), outlines=[metal] * 4, inches=clinical.MONTAGE_INCHES,
                     greys=clinical.MONTAGE_GREYS)  # fmt: skip
    assert (tmp_path / "m.png").stat().st_size <= 300_000
    picture = reader.imread(tmp_path / "m.png")
    assert 900 <= picture.shape[1] <= 1100
    coloured = picture[..., 0] - picture[..., 2] > 0.2
    assert 20 * 20 < np.count_nonzero(coloured) < 20 * 120


@pytest.mark.parametrize("given", [1, "1", [1], (1,), "1,1"])
def test_slices_come_as_number_text_or_list(given):
    assert clinical._indices(given) == (1,)
    assert clinical._indices("3,1,3") == (3, 1)


def test_what_is_missing_is_said_in_a_sentence(folder, tmp_path):
    with pytest.raises(InputError, match="metal-native512"):
        clinical.evaluate(tmp_path, tmp_path / "t.csv")
    with pytest.raises(InputError, match="indices such as"):
        clinical.evaluate(folder, tmp_path / "t.csv", slices="a")
    assert clinical._indices(()) == ()


@pytest.mark.real
def test_every_clinical_slice_holds_metal_that_is_found(real_data):
    from diffusion_backend.physics.metal_mask import segment_metal

    slices = list(clinical.clinical_slices(real_data))
    assert len(slices) == 16
    assert all(segment_metal(np.asarray(ct.array)).sum() >= 4 for _, _, ct in slices)

"""Metal masks, traces, LI, NMAR, trace check: closed forms, and the SynDeepLesion sample (metal note, A11 note)."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from diffusion_backend.errors import InputError
from diffusion_backend.io import syndeeplesion
from diffusion_backend.physics import metal, metal_mask
from diffusion_backend.physics.ct import MU_WATER, Geometry, ImageGrid, hu_to_mu, mu_to_hu, projector
from diffusion_backend.physics.fbp import fbp

GRID = ImageGrid(416, 416, 0.369231)
SMALL = ImageGrid(96, 96, 1.0)
# A11 note, section 4: RMSE in HU in the body (uncorrected, LI stored, LI, NMAR, image-only LI) for metals 0-4.
TABLE = {0: (123.1, 42.0, 40.3, 36.9, 51.6), 1: (263.2, 79.6, 79.9, 66.7, 84.1), 2: (190.3, 61.2, 60.6, 53.7, 67.2),
         3: (82.8, 26.9, 24.0, 23.0, 41.2), 4: (89.9, 30.4, 28.0, 24.2, 40.4)}


@lru_cache(maxsize=8)
def stored(folder: Path, k: int) -> dict:
    """The sample with metal k: truth, measured sinogram, images, trace, masks, body."""
    sample = syndeeplesion.read(folder / "syndeeplesion-sample", k)
    hu = sample.reference.array[0]
    parts, count = ndimage.label(ndimage.binary_opening(hu > -500, iterations=3))
    body = ndimage.binary_fill_holes(parts == 1 + np.argmax(ndimage.sum(parts > 0, parts, range(1, count + 1))))
    return {"hu": hu, "body": body, "y": torch.from_numpy(sample.sinogram.array[0]),
            "trace": torch.from_numpy(sample.trace), "ma": sample.ct.array[0], "mask": sample.metal.array[0] > 0,
            "li": np.load(folder / "syndeeplesion-sample" / f"metal{k}.npz")["LI_CT_hu"]}


def rmse(case: dict, image_hu: np.ndarray) -> float:
    """RMSE in HU in the body without metal."""
    inside = case["body"] & ~case["mask"]
    return float(np.sqrt(((image_hu - case["hu"])[inside] ** 2).mean()))


def published() -> Geometry:
    return metal.virtual_geometry(GRID)


def reconstruct(sinogram: torch.Tensor) -> torch.Tensor:
    return fbp(sinogram, published(), GRID)


def disc(grid: ImageGrid, radius: float, value: float, cx: float = 0.0, cy: float = 0.0) -> torch.Tensor:
    x, y = (v.reshape(grid.rows, grid.columns) for v in grid.coordinates_mm())
    return ((x - cx) ** 2 + (y - cy) ** 2 <= radius ** 2).float() * value


def test_virtual_geometry_is_the_published_one():
    g = published()
    assert (g.views, g.bins) == (640, 641)
    assert g.bin_mm / GRID.pixel_mm == pytest.approx(1.835619, abs=2e-5)
    assert g.source_axis_mm / GRID.pixel_mm == pytest.approx(1075) and g.source_detector_mm == 2 * g.source_axis_mm
    assert g.angles_deg[0] == pytest.approx(0.28125 - 90)
    assert metal.field_scale(GRID) == pytest.approx(1, abs=1e-5)
    assert metal.field_scale(ImageGrid(400, 400, 1.0)) == pytest.approx(0.384)


@pytest.mark.parametrize("row,column,degrees,bin_", [(207, 308, 0.0, 429.45), (100, 250, math.degrees(1.0), 441.06)])
def test_a_bright_pixel_falls_on_the_computed_bin(row, column, degrees, bin_):
    image = torch.zeros(416, 416)
    image[row, column] = 1
    line = projector(replace(published(), angles_deg=(degrees,)), GRID).forward(image)[0]
    assert float((line * torch.arange(641)).sum() / line.sum()) == pytest.approx(bin_, abs=0.3)


@pytest.mark.parametrize("k", TABLE)
def test_corrections_reach_the_published_errors(real_data, k):
    case = stored(real_data, k)
    raw, li_stored, li, normalised, image_li = TABLE[k]
    assert rmse(case, case["li"].astype(float)) == pytest.approx(li_stored, abs=0.1)
    assert rmse(case, mu_to_hu(reconstruct(case["y"])).numpy()) == pytest.approx(raw, rel=0.01)
    filled = metal.interpolate_linear(case["y"], case["trace"])
    assert rmse(case, mu_to_hu(reconstruct(filled)).numpy()) == pytest.approx(li, abs=1)
    mask, p = torch.from_numpy(case["mask"]), projector(published(), GRID)
    corrected = metal.nmar(case["y"], case["trace"], mask, p, reconstruct)
    assert rmse(case, mu_to_hu(reconstruct(corrected)).numpy()) == pytest.approx(normalised, abs=3)
    virtual = p.forward(hu_to_mu(torch.from_numpy(case["ma"])))
    filled = metal.interpolate_linear(virtual, metal.metal_trace(mask, p))
    assert rmse(case, mu_to_hu(reconstruct(filled)).numpy()) < image_li + 2


@pytest.mark.parametrize("k", TABLE)
def test_trace_check_on_measured_and_virtual_sinograms(real_data, k):
    case, p = stored(real_data, k), projector(published(), GRID)
    virtual = p.forward(hu_to_mu(torch.from_numpy(case["ma"])))
    own = metal.metal_trace(torch.from_numpy(case["mask"]), p)
    for y, trace in ((case["y"], case["trace"]), (virtual, own)):
        grown = torch.stack([metal.widen(trace, n) for n in (0, 1, 2)])
        assert not metal.trace_too_small(y.expand_as(grown), grown).any()
        shrunk = torch.stack([metal.widen(trace, n) for n in (-2, -3)])
        assert metal.trace_too_small(y.expand_as(shrunk), shrunk).all()


@pytest.mark.parametrize("k", TABLE)
def test_own_trace_equals_the_stored_one(real_data, k):
    case = stored(real_data, k)
    own = metal.metal_trace(torch.from_numpy(case["mask"]), projector(published(), GRID), margin=0)
    assert not (case["trace"] & ~own).any()
    assert (own & ~case["trace"]).sum() < 10                    # rays that graze a corner, of 10 000 - 45 000


@pytest.mark.parametrize("k,dice", [(0, 0.944), (1, 0.886), (2, 0.896), (3, 0.938), (4, 0.937)])
def test_threshold_segmentation_reaches_the_published_overlap(real_data, k, dice):
    case = stored(real_data, k)
    found = metal_mask.segment_metal(case["ma"])
    assert 2 * (found & case["mask"]).sum() / (found.sum() + case["mask"].sum()) == pytest.approx(dice, abs=0.02)


def test_metal_is_found_in_clinical_slices(real_data):
    hu = np.load(real_data / "ct-metal-clinical" / "metal-native512.npz")["hu"]
    strong = [2, 3, 4, 5, 6, 9, 10, 12, 15]                     # clear metal or contrast, all saturated
    for k in strong:
        assert metal_mask.saturation_level(hu[k]) in (2976, 3044, 3045, 3071, 3072), k
        assert metal_mask.segment_metal(hu[k]).any()
    assert metal_mask.segment_metal(hu[1]).sum() == 4           # a filling at the edge of the slice, at most 2719 HU


def test_li_equals_numpy_interp_and_keeps_the_rest():
    g = torch.Generator().manual_seed(1)
    y, trace = torch.rand(2, 9, 50, generator=g), torch.rand(2, 9, 50, generator=g) > 0.6
    trace[0, 0, :4] = trace[0, 1, -5:] = True                   # touches both ends: nearest value held
    got = metal.interpolate_linear(y, trace)
    for s in range(2):
        for v in range(9):
            free = np.flatnonzero(~trace[s, v].numpy())
            assert np.allclose(got[s, v], np.interp(np.arange(50), free, y[s, v, free]), atol=2e-7)
    assert torch.equal(got[~trace], y[~trace])


def test_li_with_averaged_anchors():
    y, trace = torch.arange(20.0)[None], torch.zeros(1, 20, dtype=torch.bool)
    trace[0, 8:12] = True
    got = metal.interpolate_linear(y, trace, anchor=5)
    low, high = (3 + 7) / 2, (12 + 16) / 2
    assert torch.allclose(got[0, 8:12], low + (high - low) * torch.arange(1.0, 5.0) / 5)
    trace[0, 3] = True                                          # known bins only are averaged
    assert float(metal.interpolate_linear(y, trace, anchor=5)[0, 8]) == pytest.approx(5.5 + (14 - 5.5) / 5)


def test_empty_trace_returns_the_input_bit_for_bit():
    y = torch.rand(3, 7, 11)
    empty = torch.zeros_like(y, dtype=torch.bool)
    assert torch.equal(metal.interpolate_linear(y, empty), y)
    assert torch.equal(metal.interpolate_normalised(y, empty, torch.rand_like(y)), y)


@pytest.fixture(scope="module")
def water_and_metal():
    """A disc of metal in a disc of water, both centred: image, mask, projector, clean line integrals."""
    p = projector(metal.virtual_geometry(SMALL, 90, 141), SMALL)
    water, mask = disc(SMALL, 40, MU_WATER), disc(SMALL, 4, 1.0) > 0
    return water, mask, p, p.forward(water)


def test_li_of_a_centred_disc_errs_by_its_curvature_only(water_and_metal):
    water, mask, p, clean = water_and_metal
    trace = metal.metal_trace(mask, p)
    got = metal.interpolate_linear(clean + p.forward(mask.float()) * 0.2, trace)
    assert ((got - clean).abs() / clean.clamp(min=0.1))[trace].max() < 0.05
    assert torch.equal(got[~trace], clean[~trace])


def test_nmar_with_the_true_prior_restores_the_trace(water_and_metal):
    water, mask, p, clean = water_and_metal
    trace = metal.metal_trace(mask, p)
    got = metal.interpolate_normalised(clean + p.forward(mask.float()) * 0.2, trace, p.forward(water))
    assert ((got - clean).abs() / clean.clamp(min=0.1)).max() < 0.01


def test_corrections_do_not_depend_on_the_pixel_size():
    for pixel in (0.5, 1.0):
        grid = ImageGrid(64, 64, pixel)
        p = projector(metal.virtual_geometry(grid, 40, 81), grid)
        line = p.forward(disc(grid, 20 * pixel, MU_WATER)).max()
        assert float(line) == pytest.approx(40 * pixel * MU_WATER, rel=0.03)    # line integrals in ratio 1 : 2


def test_full_or_inverted_trace_is_refused():
    y, trace = torch.ones(4, 20), torch.zeros(4, 20, dtype=torch.bool)
    trace[2] = True
    with pytest.raises(InputError, match="view 2"):
        metal.interpolate_linear(y, trace)
    with pytest.raises(InputError, match="95%"):
        metal.interpolate_linear(y, torch.ones(4, 20).index_fill(1, torch.tensor([3]), 0) > 0)


def test_widen_and_shrink():
    trace = torch.zeros(1, 12, dtype=torch.bool)
    trace[0, 5:8] = True
    assert torch.nonzero(metal.widen(trace, 2)[0]).ravel().tolist() == list(range(3, 10))
    assert torch.nonzero(metal.widen(trace, -1)[0]).ravel().tolist() == [6]
    assert torch.equal(metal.widen(trace, 0), trace)


def test_three_means_equals_plain_lloyd():
    g = np.random.default_rng(3)
    x = np.concatenate((g.normal(0, 0.1, 500), g.normal(1, 0.2, 300), g.normal(2.5, 0.3, 100)))
    centres = np.array([0.0, 1.0, 2.0])
    for _ in range(200):
        label = np.abs(x[:, None] - centres).argmin(1)
        centres = np.array([x[label == n].mean() for n in range(3)])
    got = metal.three_means(torch.from_numpy(np.stack((x, x[::-1].copy()))), start=(0.0, 1.0, 2.0))
    assert np.allclose(got, np.stack((centres, centres)), atol=1e-9)


def test_blur_equals_scipy():
    image = np.random.default_rng(0).random((2, 33, 40)).astype(np.float32)
    want = ndimage.gaussian_filter(image, (0, 1.3, 1.3), mode="nearest")
    assert np.allclose(metal.blur(torch.from_numpy(image), 1.3), want, atol=1e-5)


def test_prior_of_nmar_is_air_water_and_bone(water_and_metal):
    water, mask, p, _ = water_and_metal
    image = water + disc(SMALL, 6, 0.5 * MU_WATER, 20, 0) + disc(SMALL, 8, 0.3 * MU_WATER, -20, 0)
    image = torch.where(disc(SMALL, 8, 1.0, 0, 20) > 0, 0.25 * MU_WATER, image)        # lung
    prior = metal.nmar_prior(image, mask)
    kept = metal.nmar_prior(image, mask, keep_lung=True)
    at = {"bone": (47, 67), "tissue": (67, 47), "metal": (47, 47), "lung": (27, 47)}
    assert prior[at["metal"]] == prior[at["tissue"]] == pytest.approx(MU_WATER) and prior[0, 0] == 0
    assert prior[at["bone"]] == pytest.approx(1.5 * MU_WATER, rel=0.01)
    assert prior[at["lung"]] == 0 and kept[at["lung"]] == pytest.approx(0.25 * MU_WATER, rel=0.01)


def test_prior_of_nmar_keeps_dense_soft_tissue_out_of_bone(water_and_metal):
    water, mask, _, _ = water_and_metal
    # Much thin bone (1.3 water) pulls the third class down: the midpoint of the upper classes falls to 1.16 water.
    parts = ((8, 0.3, -20, 0), (3, 0.52, 20, 20), (4, 0.17, 20, 0))
    image = water + sum(disc(SMALL, r, more * MU_WATER, x, y) for r, more, x, y in parts)
    centres = metal.three_means(image.flatten(), (0.0, MU_WATER, 2 * MU_WATER)) / MU_WATER
    assert (centres[1] + centres[2]) / 2 < 1.165
    prior = metal.nmar_prior(image, mask) / MU_WATER
    assert prior[47, 67] == pytest.approx(1) and prior[47, 27] == pytest.approx(1.3, abs=0.01)


def test_reinserted_metal_equals_the_input():
    g = torch.Generator().manual_seed(0)
    original, corrected = torch.randn(5, 8, 8, generator=g) * 1000, torch.zeros(5, 8, 8)
    mask = torch.rand(5, 8, 8, generator=g) > 0.8
    got = metal.reinsert(corrected, original, mask)
    assert torch.equal(got[mask], original[mask]) and torch.equal(got[~mask], corrected[~mask])
    assert (metal.reinsert(corrected, original, mask, value_hu=3000.0)[mask] == 3000).all()


def test_shadow_map_is_a_share(water_and_metal):
    _, mask, p, _ = water_and_metal
    shadow = metal.shadow_map(metal.metal_trace(mask, p), p)
    assert shadow.min() >= 0 and shadow.max() <= 1
    assert shadow[48, 48] > 0.99 and 0.05 < shadow[48, 75] < 0.4
    assert metal.shadow_map(torch.zeros(90, 141, dtype=torch.bool), p).max() == 0


def volume_with_metal() -> np.ndarray:
    v = np.full((5, 40, 40), 40, np.int16)
    v[1:4, 10:16, 10:16] = 6000
    v[2, 12:14, 12:14] = 900            # starved centre
    v[2, 30, 30] = 9000                 # a single voxel
    v[2, 20:24, 30:34] = 2700           # a streak in bone: above the threshold, no core
    v[2, 5, 5:15] = 1200                # contrast medium
    return v


def test_segmentation_rules():
    v = volume_with_metal()
    found = metal_mask.segment_metal(v)
    assert found[1:4, 10:16, 10:16].all() and found.sum() == 3 * 36
    assert metal_mask.segment_metal(v, min_voxels=1)[2, 30, 30]
    assert metal_mask.segment_metal(v, core=100)[2, 20:24, 30:34].all()
    assert not metal_mask.segment_metal(v, fill_holes=False)[2, 12, 12]
    grown = metal_mask.segment_metal(v, dilate=1)
    assert grown.sum() == 3 * (36 + 24) and not grown[0].any()
    assert np.array_equal(metal_mask.segment_metal(v[2]), found[2])
    assert not metal_mask.segment_metal(np.zeros((2, 8, 8))).any()


def test_saturated_data_need_no_higher_core():
    v = np.minimum(volume_with_metal(), 3071)
    assert metal_mask.saturation_level(v) == 3071
    assert metal_mask.segment_metal(v, threshold=3000)[1:4, 10:16, 10:16].all()
    assert metal_mask.saturation_level(volume_with_metal()) is None


def test_metal_without_a_core_is_its_brightest_compact_piece_never_a_thin_streak():
    v = np.full((3, 40, 40), 1200, np.int16)                    # dense bone
    v[1, 8, 5:30] = 2850                                        # a streak in it, one voxel thin
    v[1, np.arange(20, 30), np.arange(20, 30)] = 2850           # and an oblique one
    assert not metal_mask.segment_metal(v).any()
    v[1, 30:33, 5:8] = 2700                                     # a small filling
    v[1, 15:18, 30:35] = 2580                                   # a broad, weak streak
    found = metal_mask.segment_metal(v)
    assert found[1, 30:33, 5:8].all() and found.sum() == 9
    assert metal_mask.segment_metal(v, threshold=2550)[1, 15:18, 30:35].sum() == 0
    assert not metal_mask.segment_metal(v, threshold=2701).any()
    v[0, 2:5, 2:5] = 3200                                       # real metal elsewhere: the rest is streaks
    found = metal_mask.segment_metal(v)
    assert found[0, 2:5, 2:5].all() and found.sum() == 9


def test_compact_pieces_are_judged_in_the_type_of_the_volume(monkeypatch):
    """Neither memory for a copy in double precision nor a block that reaches over the border of a slice."""
    v = np.full((2, 30, 30), 40, np.int16)
    v[0, 0, 3:20] = 2850                                        # a streak along the border, one voxel thin
    v[1, 28:30, 28:30] = 2700                                   # a filling in the corner
    seen, keep = [], metal_mask._keep_components

    def watched(candidates, volume, *rest):
        seen.append(volume.dtype)
        return keep(candidates, volume, *rest)

    monkeypatch.setattr(metal_mask, "_keep_components", watched)
    found = metal_mask.segment_metal(v)
    assert found[1, 28:, 28:].all() and found.sum() == 4
    assert seen == [np.int16, np.int16]


def test_vendor_corrections_are_recognised():
    assert metal_mask.vendor_correction(["Hip 2.0", "O-MAR"]) == "O-MAR"
    assert metal_mask.vendor_correction(["THORAX_iMAR_Hip"]) == "iMAR"
    assert metal_mask.vendor_correction(["Smart MAR 1.25"]) == "Smart MAR"
    assert metal_mask.vendor_correction(["SUMMARY", "MARROW", "B30f"]) is None


@pytest.mark.parametrize("date", ["12 MAR 2020", "MAR 2020", "2020-MAR-12", "12-Mar-20", "Mar 12, 2020", "2020_MAR_12",
                                  "12MAR2020", "12.MAR.2020", "2020 MAR 12"])
def test_dates_in_march_are_no_vendor_correction(date):
    assert metal_mask.vendor_correction([f"THORAX {date}", "B30f"]) is None
    assert metal_mask.vendor_correction([date, "Hip MAR"]) == "metal artefact reduction"


@pytest.mark.parametrize("text", ["MAR", "THORAX 5 MAR", "Hip 1.25 MAR 0.6", "MAR 512", "Hip_MAR_2.0", "2.0-MAR"])
def test_numbers_beside_a_vendor_correction_are_no_date(text):
    assert metal_mask.vendor_correction([text, "2020"]) == "metal artefact reduction"

"""Predicates on projections, masks, text, tables and colour; equal verdicts from the facts alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffusion_backend import checks
from diffusion_backend.checks import Check
from diffusion_backend.data import Axis, Grid, PatientGeometry, Segmentation, Table, Text, projections, volume
from diffusion_backend.errors import InputError

PLACED = PatientGeometry.from_itk((1.0, 1.0, 2.0), (0, 0, 0), np.eye(3).ravel())


def grid(*shape, dtype=np.float32):
    return volume(np.arange(np.prod(shape)).reshape(shape).astype(dtype), PLACED)


def sinogram(views=12, bins=9, angles=12, declared=9, slices=0, top=1.0):
    shape = (slices, views, bins) if slices else (views, bins)
    acquisition = {"type": "parallel", "angles_deg": list(range(angles)), "bins": declared, "bin_mm": 1.0}
    return projections(np.full(shape, top, np.float32), acquisition)


def mask(*shape, value=1, labels=None):
    return Segmentation(np.full(shape, value, np.uint8), PLACED, labels or {"metal": 1})


CASES = [
    (Check("colour", "x"), grid(1, 2, 2, 3, dtype=np.uint8), grid(1, 2, 2), "three uint8"),
    (Check("complex", "x"), grid(1, 2, 2, dtype=np.complex64), grid(1, 2, 2), "complex values are needed"),
    (Check("scalar", "x"), grid(1, 2, 2), grid(1, 2, 2, dtype=np.complex64), "Take its magnitude"),
    (Check("in_patient", "x"), grid(1, 2, 2), Grid(np.ones((1, 2, 2)), (Axis("k"), Axis("j"), Axis("i"))), "position"),
    (Check("sinogram_fits", "x"), sinogram(), sinogram(angles=11), "12 views × 9 bins.*11 views × 9 bins"),
    (Check("sinogram_fits", "x"), sinogram(slices=2), sinogram(declared=8), "12 views × 8 bins"),
    (Check("min_views", "x", low=12), sinogram(slices=3), sinogram(views=5, angles=5), "5 views.*at least 12"),
    (Check("line_integrals", "x", high=15), sinogram(top=14.9), sinogram(top=15.1), "15.1 on average.*0 to 15.*-log"),
    (Check("line_integrals", "x", high=15), sinogram(), sinogram(top=-2.5), "-2.5 on average.*0 to 15"),
    (Check("labelled", "x"), mask(1, 2, 2), mask(1, 2, 2, value=0), "no labelled voxel"),
    (Check("has_label", "x", label="metal"), mask(1, 2, 2), mask(1, 2, 2, labels={"bone": 1}), "'metal'.*bone"),
    (Check("text_length", "x", low=1, high=5), Text("four"), Text("longer"), "6 characters.*1 to 5"),
    (Check("text_length", "x", low=1, high=5), Text(" a "), Text("   "), "0 characters"),
    (Check("columns", "x", columns=("a", "b")), Table(("b", "a"), []), Table(("a",), []), "lacks the column b"),
]


@pytest.mark.parametrize("check,good,bad,words", CASES, ids=lambda c: getattr(c, "name", ""))
def test_predicates_pass_and_fail_with_a_sentence(check, good, bad, words):
    checks.enforce((check,), {"x": good}, None)
    with pytest.raises(InputError, match=words) as error:
        checks.enforce((check,), {"x": bad}, None)
    assert str(error.value).startswith("The input 'x'")


@pytest.mark.parametrize("check,good,bad,words", CASES, ids=lambda c: getattr(c, "name", ""))
def test_a_panel_that_has_only_the_facts_comes_to_the_same_verdict(check, good, bad, words):
    """Facts travel as JSON; the array itself isn't needed."""
    for item in (good, bad):
        known = {"x": json.loads(json.dumps(checks.facts(item)))}
        assert checks.verdict(check, known, None, {}) == checks.verdict(check, {"x": checks.facts(item)}, None, {})


@pytest.mark.parametrize(
    "name,one,two,words",
    [
        ("same_grid", mask(2, 3, 4), grid(2, 3, 5), "2 × 3 × 4 voxels, but 'y' has 2 × 3 × 5"),
        ("same_slices", sinogram(slices=3), grid(2, 8, 8), "3 slices, but 'y' has 2"),
    ],
)
def test_predicates_on_two_inputs(name, one, two, words):
    check = Check(name, "x", other="y")
    with pytest.raises(InputError, match=words):
        checks.enforce((check,), {"x": one, "y": two}, None)
    checks.enforce((check,), {"x": one}, None)  # the other isn't given


@pytest.mark.parametrize("shift,refused", [(0.09, False), (0.11, True)])
def test_grids_of_one_size_must_lie_at_one_place(shift, refused):
    """A tenth of the smallest voxel side is the limit, at the corner that is farthest off."""
    moved = PatientGeometry.from_itk((1.0, 1.0, 2.0), (0, shift, 0), np.eye(3).ravel())
    one, two = Segmentation(np.ones((2, 3, 4), np.uint8), moved), grid(2, 3, 4)
    check = Check("same_grid", "x", other="y")
    sentence = checks.verdict(check, {"x": checks.facts(one), "y": checks.facts(two)}, None, {})
    assert ("lies up to 0.11 mm off the voxels of 'y'" in sentence) == refused and bool(sentence) == refused
    wider = PatientGeometry.from_itk((1.0, 1.0, 2.2), (0, 0, 0), np.eye(3).ravel())
    far = checks.facts(Segmentation(np.ones((2, 3, 4), np.uint8), wider))
    assert "0.2 mm off" in checks.verdict(check, {"x": far, "y": checks.facts(two)}, None, {})
    unplaced = checks.facts(Segmentation(np.ones((2, 3, 4), np.uint8)))
    assert checks.verdict(check, {"x": unplaced, "y": checks.facts(two)}, None, {}) == ""


def test_facts_of_slices_follow_the_patients_long_axis_however_a_volume_is_stored():
    """Tops per axial slice, for a volume stored with sagittal slices first; projections keep their own order."""
    array = np.zeros((4, 5, 6), np.float32)  # k -> x, j -> y, i -> z
    array[:, :, 2] = 7.0
    placed = PatientGeometry.from_itk((1.0, 1.0, 1.0), (0, 0, 0), np.eye(3)[::-1].ravel())
    known = checks.facts(volume(array, placed))
    assert known["axial_axis"] == 2 and known["tops"] == [0.0, 0.0, 7.0, 0.0, 0.0, 0.0]
    assert checks.facts(Segmentation((array > 0).astype(np.uint8), placed))["tops"] == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    acquisition = {"type": "parallel", "angles_deg": [0] * 5, "bins": 6, "bin_mm": 1.0}
    known = checks.facts(projections(array, acquisition, placed))
    assert known["axial_axis"] == 0 and known["tops"] == [7.0] * 4 and known["mean"] == pytest.approx(7 / 6)


def test_a_single_sinogram_goes_with_a_single_slice():
    checks.enforce((Check("same_slices", "x", other="y"),), {"x": sinogram(), "y": grid(1, 8, 8)}, None)


def test_every_predicate_is_tested_here_or_with_the_declarations():
    from test_declarations import test_predicates_pass_and_fail_with_a_sentence as elsewhere

    seen = {c.name for c, *_ in CASES} | {"same_grid", "same_slices"}
    seen |= {c.name for c, *_ in elsewhere.pytestmark[0].args[1]}
    assert seen == set(checks.PREDICATES)


def test_unknown_names_of_checks_are_programming_errors():
    with pytest.raises(ValueError, match="no check named 'has_metal'"):
        Check("has_metal", "x")
    with pytest.raises(ValueError, match="no pixel check"):
        Check("finite", "x", pixels=True)


def test_values_are_read_slice_by_slice_and_bad_ones_are_left_out():
    array = np.array([[[1.0, np.nan]], [[-3.0, 2.0]], [[np.inf, np.nan]]])
    assert checks.value_ranges(array) == (-3.0, [1.0, 2.0, 0.0], False)
    assert checks.value_ranges(np.array([[-5, 7]], np.int16)) == (-5.0, [7.0], True)
    assert checks.value_ranges(np.array([[3 + 4j]]))[1] == [5.0]


@pytest.mark.parametrize("share,refused", [(0.19, False), (0.21, True)])
def test_the_metal_fraction_is_that_of_the_worst_slice(share, refused):
    array = np.full((2, 20, 10), -1000.0, np.float32)  # the lower half of each slice is air
    array[:, :10] = 40
    array[1].ravel()[: round(100 * share)] = 4000
    check = Check("metal_fraction", "ct", pixels=True, threshold=2500, high=0.2)
    if refused:
        with pytest.raises(InputError, match="21 % of the body of slice 1"):
            checks.enforce((check,), {"ct": volume(array, PLACED)}, None)
    else:
        checks.enforce((check,), {"ct": volume(array, PLACED)}, None)

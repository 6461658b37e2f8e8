"""Cases of `evaluate mar`: which slices are taken, the two conventions, the SynDeepLesion sample."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion_backend import methods
from diffusion_backend.anatomy.phantoms import phantom
from diffusion_backend.errors import InputError
from diffusion_backend.evaluate import mar_cases
from diffusion_backend.execute import Request, Surroundings, execute
from diffusion_backend.metrics import image as metrics


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder like the real one. pA: soft tissue only, one with metal, one good; pB: one good; pC: three good."""
    good = phantom("pelvis", seed=0, size=128).hu[0].round().astype(np.int16)
    soft, metal = np.minimum(good, 60), good.copy()
    metal[60:64, 60:64] = 3000
    hu = np.stack([soft, metal, good, good, good, good, good])
    folder = tmp_path_factory.mktemp("data") / "ct-tcia-slices"
    folder.mkdir()
    np.savez(folder / "test-native512.npz", hu=hu, patient=np.array(["pA"] * 3 + ["pB"] + ["pC"] * 3),
             pixel_mm=np.full(7, 3.0, np.float32), slice_mm=np.full(7, 5.0, np.float32))  # fmt: skip
    return folder.parent


@pytest.mark.parametrize("patients,slices,names", [
    (1, 1, ["pA/2"]), (2, 1, ["pA/2", "pB/3"]), (2, 2, ["pA/2", "pB/3", "pC/4", "pC/6"]), (1, 2, ["pA/2", "pB/3"]),
    (9, 9, ["pA/2", "pB/3", "pC/4", "pC/5", "pC/6"])])  # fmt: skip
def test_slices_without_metal_and_with_bone_are_taken_and_missing_ones_made_up_by_others(data, patients, slices, names):
    found = dict(mar_cases.held_out(data, patients, slices))
    assert list(found) == names
    ct = found[names[0]]
    assert ct.array.shape == (1, 64, 64) and ct.spacing == (6.0, 6.0, 5.0)
    with np.load(data / "ct-tcia-slices" / "test-native512.npz") as stored:
        assert ct.array[0, 3, 5] == stored["hu"][2, 6:8, 10:12].mean()


def test_convention_says_which_scanner_measures_the_metal(data):
    name, clean = next(mar_cases.held_out(data, 1, 1))
    scanner, field = (mar_cases.make_case(name, clean, data, 2, 0, c) for c in ("scanner", "field"))
    assert scanner.mask.array.any() and field.mask.array.any()
    assert scanner.sinogram.acquisition["type"] == "fan-arc" and field.sinogram.acquisition["type"] == "fan-flat"
    for case in (scanner, field):
        away = metrics.body_mask(case.reference) & (case.mask.array[0] == 0)
        assert np.abs(case.ct.array[0] - case.reference)[away].mean() > 5
        assert np.array_equal(case.reference, clean.array[0]) and case.parameters == {}
    with pytest.raises(InputError, match="convention"):
        mar_cases.make_case(name, clean, data, 2, 0, "other")


@pytest.mark.real
def test_twelve_real_slices_of_eight_patients(real_data):
    names = [name for name, _ in mar_cases.held_out(real_data, 6, 2)]
    assert len(names) == 12 and len({name.split("/")[0] for name in names}) == 8


@pytest.mark.real
def test_sample_of_syndeeplesion_gives_the_known_errors(real_data):
    """RMSE in the body without metal, HU: 24.0 and 23.0 for LI and NMAR of metal 3 (A11 note, section 4)."""
    cases = list(mar_cases.syndeeplesion(real_data))
    assert [c.metal for c in cases] == [f"titanium {n} px" for n in (254, 890, 451, 53, 112)]
    case = cases[3]
    body = metrics.body_mask(case.reference) & (case.mask.array[0] == 0)
    inputs = {"ct": case.ct, "sinogram": case.sinogram, "metal": case.mask}
    for method, wanted in (("li", 24.0), ("nmar", 23.0)):
        request = Request(method, case.parameters, device="cpu")
        made = execute(methods.load(method), request, inputs, Surroundings()).outputs["corrected"].array[0]
        assert metrics.compare(made, case.reference, body)["rmse"] == pytest.approx(wanted, abs=0.6)

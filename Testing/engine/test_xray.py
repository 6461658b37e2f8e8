"""Attenuation and spectrum tables, polychromatic forward model, water correction, counting noise."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch
import xraydb

from diffusion_backend.paths import resources
from diffusion_backend.physics import xray

# Mass attenuation in cm2/g at 20, 30, 40, 50, 60, 70, 80, 100, 120, 140 keV (metal note, section 4).
ENERGIES = (20, 30, 40, 50, 60, 70, 80, 100, 120, 140)
NOTE = {
    "water": (0.8098, 0.3756, 0.2683, 0.2269, 0.2059, 0.1929, 0.1837, 0.1707, 0.1614, 0.1538),
    "cortical_bone": (4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2570, 0.2229, 0.1855, 0.1656, 0.1529),
    "aluminium": (3.442, 1.128, 0.5684, 0.3682, 0.2778, 0.2301, 0.2018, 0.1704, 0.1533, 0.1422),
    "titanium": (15.85, 4.972, 2.213, 1.213, 0.7660, 0.5361, 0.4053, 0.2721, 0.2102, 0.1764),
    "ti6al4v": (15.18, 4.765, 2.124, 1.168, 0.7399, 0.5197, 0.3943, 0.2666, 0.2071, 0.1745),
    "iron": (25.68, 8.177, 3.629, 1.957, 1.205, 0.8164, 0.5952, 0.3717, 0.2693, 0.2146),
    "steel316l": (24.97, 8.551, 3.808, 2.057, 1.266, 0.8562, 0.6228, 0.3865, 0.2782, 0.2204),
    "cocrmo": (24.84, 9.356, 4.182, 2.261, 1.387, 0.9343, 0.6758, 0.4137, 0.2935, 0.2296),
    "copper": (33.80, 10.91, 4.861, 2.613, 1.593, 1.064, 0.7630, 0.4585, 0.3195, 0.2460),
    "silver": (18.36, 36.68, 17.19, 9.446, 5.766, 3.798, 2.651, 1.469, 0.9240, 0.6364),
    "amalgam": (51.16, 31.64, 14.88, 8.240, 5.086, 3.389, 2.395, 3.342, 2.109, 1.439),
    "gold": (78.81, 27.52, 12.98, 7.258, 4.529, 3.054, 2.185, 5.158, 3.252, 2.209),
}


@pytest.mark.parametrize("name", NOTE)
def test_attenuation_agrees_with_published_values_to_four_digits(name):
    ours = xray.material(name).mass_attenuation(np.array(ENERGIES, dtype=float))
    assert np.allclose(ours, NOTE[name], rtol=5.5e-4)          # half a unit of the fourth digit


def test_attenuation_agrees_with_xraydb():
    for name, element in (("titanium", "Ti"), ("gold", "Au"), ("iodine", "I"), ("tungsten", "W")):
        energy = np.arange(10.0, 151.0)
        want = xraydb.mu_elam(element, energy * 1e3, kind="total")
        assert np.allclose(xray.material(name).mass_attenuation(energy), want, rtol=1e-5)


def test_tables_are_what_the_script_makes(tmp_path):
    folder = resources() / "Physics"
    spec = importlib.util.spec_from_file_location("make_tables", folder / "make_tables.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.HERE = tmp_path
    script.main()
    for name in ("attenuation.csv", "spectra.csv"):
        ours, made = (np.loadtxt(f / name, delimiter=",", skiprows=1) for f in (folder, tmp_path))
        assert np.allclose(ours, made, rtol=1e-4, atol=1e-9)


def test_gold_rises_across_its_k_edge():
    gold = xray.material("gold")
    assert gold.attenuation(100.0) > 2 * gold.attenuation(80.0)


def test_units_are_per_millimetre():
    assert xray.material("water").attenuation(70.0) == pytest.approx(0.01929, abs=1e-5)
    steel = xray.material("steel316l").attenuation(70.0) * 10   # 1 cm of steel
    assert steel == pytest.approx(6.85, abs=0.01)
    assert 1000 * (xray.material("titanium").attenuation(70.0) / 0.01929 - 1) == pytest.approx(11535, abs=15)


@pytest.mark.parametrize("name,mean", [("kvp80", 49.6), ("kvp100", 56.2), ("kvp120", 61.7), ("kvp140", 66.5),
                                       ("field120", 55.1)])
def test_spectra_have_the_stated_mean_energy(name, mean):
    tube = xray.spectrum(name)
    assert tube.mean_kev == pytest.approx(mean, abs=0.1)
    assert sum(tube.photons) == pytest.approx(1, abs=1e-4) and min(tube.photons) >= 0


def test_field_spectrum_reproduces_the_published_water_correction():
    tube = xray.spectrum("field120")
    assert xray.water_correction(tube) == pytest.approx((0.80370, 0.023014, -0.00084440), rel=0.012)
    water = xray.material("water").relative(np.array(tube.energies_kev)) * 0.1929
    assert np.dot(tube.photons, water) == pytest.approx(0.2499, abs=0.001)


@pytest.mark.parametrize("detector", xray.DETECTORS)
@pytest.mark.parametrize("name", ["kvp80", "kvp120", "field120"])
def test_corrected_water_is_linear(name, detector):
    tube = xray.spectrum(name)
    linear = torch.arange(0, 500.5, 10, dtype=torch.float64) * float(xray.material("water").attenuation(70.0))
    measured = xray.polychromatic({"water": linear}, tube, detector=detector)
    corrected = xray.correct_water(measured, xray.water_correction(tube, detector=detector))
    assert (corrected - linear).abs().max() < 0.013
    assert (measured - linear).abs().max() > 5 * (corrected - linear).abs().max()


def test_one_line_has_no_beam_hardening():
    p = torch.linspace(0, 12, 50, dtype=torch.float64)
    lines = {"water": p, "titanium": p / 3}
    assert torch.allclose(xray.polychromatic(lines, xray.monochromatic(70.0)), p * 4 / 3, rtol=0, atol=1e-12)


def test_polychromatic_equals_direct_sum():
    tube, p = xray.spectrum("kvp140"), 1.7
    energies, weights = np.array(tube.energies_kev), tube.weights("energy")
    exponent = p * xray.material("iron").relative(energies) + 2.0 * xray.material("water").relative(energies)
    want = -math.log(np.sum(weights * np.exp(-exponent)))
    lines = {"iron": torch.tensor([p], dtype=torch.float64), "water": torch.tensor([2.0], dtype=torch.float64)}
    assert float(xray.polychromatic(lines, tube, detector="energy")) == pytest.approx(want, rel=1e-12)


def test_input_tensors_are_left_alone():
    p = torch.ones(4)
    xray.polychromatic({"water": p, "iron": p}, xray.spectrum("kvp120"))
    assert torch.equal(p, torch.ones(4))


def test_photon_noise_has_the_variance_of_counting():
    g = torch.Generator().manual_seed(0)
    noisy = xray.detect(torch.full((200_000,), 2.5), 2e7, g)
    assert noisy.double().var().item() == pytest.approx(math.exp(2.5) / 2e7, rel=0.02)     # 6.1e-7
    assert abs(noisy.double().mean().item() - 2.5) < 1e-5


def test_starved_rays_end_at_one_photon_or_at_the_background():
    g = torch.Generator().manual_seed(0)
    starved = torch.full((1000,), 40.0)
    assert torch.allclose(xray.detect(starved, 1e6, g), torch.tensor(math.log(1e6)))
    assert xray.detect(starved, 1e6, g, background=400.0).mean() == pytest.approx(math.log(1e6 / 400), abs=0.01)


def test_electronic_noise_adds_its_variance():
    g = torch.Generator().manual_seed(0)
    noisy = xray.detect(torch.full((100_000,), 2.0), 1e5, g, electronic=100.0).double()
    n = 1e5 * math.exp(-2)
    assert noisy.var().item() == pytest.approx((n + 100.0 ** 2) / n ** 2, rel=0.03)


def test_unknown_names_list_what_exists():
    with pytest.raises(ValueError, match="titanium"):
        xray.material("mithril")
    with pytest.raises(ValueError, match="kvp120"):
        xray.spectrum("kvp999")
    with pytest.raises(ValueError, match="keV"):
        xray.material("water").attenuation(500.0)

"""`simulate ct` and the method `fbp` through the command line: geometry, noise, reference, metrics."""

from __future__ import annotations

import csv
import json
import signal

import head
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from diffusion_backend.__main__ import main
from diffusion_backend.io.projections import read_projections
from diffusion_backend.params import validate
from diffusion_backend.physics import ct as physics
from diffusion_backend.simulate import ct as simulation


@pytest.fixture(autouse=True)
def signals():
    kept = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGINT, kept[0])
    signal.signal(signal.SIGTERM, kept[1])


def simulate(folder, *settings, size=128, seed=0):
    source = head.write(folder / "ct.nrrd", head.hu(slices=2, size=size, metal=False), (1.4, 1.4, 2.5),
                        direction=head.rotation())  # fmt: skip
    options = [part for s in settings for part in ("--set", s)]
    given = ["--input", str(source), "--output", str(folder / "sim"), "--seed", str(seed)]
    return main(["simulate", "ct", *given, *options]), source


def test_from_a_volume_to_projections_to_a_reconstruction_on_the_reference(tmp_path, capsys):
    code, _ = simulate(tmp_path, "views=360", "photons=0")
    assert code == 0
    measured = read_projections(tmp_path / "sim" / "projections.npz")
    assert measured.array.shape == (2, 360, 512) and measured.array.dtype == np.float32
    assert json.loads((tmp_path / "sim" / "simulation.json").read_text())["parameters"]["views"] == 360
    out, truth = tmp_path / "out", tmp_path / "sim" / "reference.nrrd"
    code = main(["run", "fbp", "--input", str(tmp_path / "sim" / "projections.npz"), "--output", str(out),
                 "--reference", str(truth), "--progress", "json"])  # fmt: skip
    assert code == 0
    one, two = sitk.ReadImage(str(truth)), sitk.ReadImage(str(out / "volume.nrrd"))
    assert one.GetSize() == two.GetSize() == (64, 64, 2)
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(one, get)(), getattr(two, get)(), rtol=0, atol=1e-9)
    with open(out / "metrics.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["slice"] == "all"]
    assert [r["image"] for r in rows] == ["volume"]
    assert float(rows[0]["rmse"]) < 60 and abs(float(rows[0]["bias"])) < 10  # the edge of the bone blurs


def test_the_reference_lies_where_the_fine_pixels_lay(tmp_path):
    """The first coarse pixel is the mean of 2 x 2 fine ones: its centre is theirs, in patient coordinates."""
    code, source = simulate(tmp_path, "views=3", "photons=0")
    fine, coarse = sitk.ReadImage(str(source)), sitk.ReadImage(str(tmp_path / "sim" / "reference.nrrd"))
    wanted = fine.TransformContinuousIndexToPhysicalPoint((0.5, 0.5, 1.0))
    assert np.allclose(coarse.TransformIndexToPhysicalPoint((0, 0, 1)), wanted, atol=1e-9)
    assert np.allclose(coarse.GetSpacing(), (2.8, 2.8, 2.5))
    array, truth = sitk.GetArrayFromImage(fine)[0], sitk.GetArrayFromImage(coarse)[0]
    assert truth[32, 32] == pytest.approx(array[64:66, 64:66].mean(), abs=1e-3)
    assert truth[0, 0] == pytest.approx(-1000, abs=1e-3)


def test_projections_are_those_of_the_object_at_the_protocols_geometry(tmp_path):
    p = validate(simulation.PARAMETERS, {"views": 60, "fit": False})
    made = simulation._geometry(physics.ImageGrid(512, 512, 0.664), p)
    assert (made.bins, made.bin_mm, made.source_axis_mm, made.source_detector_mm) == (512, 1.6, 595.0, 1085.6)
    assert np.allclose(np.diff(made.angles_deg), 6) and made.angles_deg[-1] == pytest.approx(354)
    limited = simulation._geometry(physics.ImageGrid(512, 512, 0.664), validate(simulation.PARAMETERS, {
        "views": 61, "range_deg": 120, "start_deg": 90}))  # fmt: skip
    assert limited.angles_deg[0] == 90 and limited.angles_deg[-1] == pytest.approx(210)


def test_noise_has_the_variance_of_poisson_counts_and_its_own_seed():
    p = torch.full((200, 200), 2.0)
    noisy = simulation.measure(p, 1e5, (0, 0)) - p
    expected = (np.exp(2.0) / 1e5) ** 0.5
    assert float(noisy.std()) == pytest.approx(expected, rel=3 / (2 * 40000) ** 0.5 + 1e-3)
    assert abs(float(noisy.mean())) < 3 * expected / 200 + expected**2
    assert torch.equal(simulation.measure(p, 1e5, (0, 0)) - p, noisy)
    assert not torch.equal(simulation.measure(p, 1e5, (0, 1)) - p, noisy)
    assert simulation.measure(p, 0, (0, 0)) is p


@pytest.mark.parametrize("setting,words", [("viewz=3", "did you mean 'views'"), ("views=2", "3 to 4000"),
                                           ("source_axis_mm=20", "beyond the source")])  # fmt: skip
def test_wrong_settings_are_sentences_and_write_nothing(tmp_path, capsys, setting, words):
    code, _ = simulate(tmp_path, setting)
    assert code == 2 and words in capsys.readouterr().err
    assert sorted(f.name for f in tmp_path.iterdir()) == ["ct.nrrd"]


def test_oblong_slices_and_unknown_tasks_are_sentences(tmp_path, capsys):
    source = head.write(tmp_path / "v.nrrd", head.hu(slices=1, metal=False)[:, :40], (1.0, 1.0, 1.0))
    assert main(["simulate", "ct", "--input", str(source), "--output", str(tmp_path / "o")]) == 2
    assert "40 × 64" in capsys.readouterr().err
    assert main(["simulate", "ctt", "--input", str(source), "--output", str(tmp_path / "o")]) == 2
    assert "did you mean 'ct'" in capsys.readouterr().err

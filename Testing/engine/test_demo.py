"""The demo from end to end on a small phantom, with a stand-in for the prior: files, table, montage rows."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from diffusion_backend import demo, models
from diffusion_backend.anatomy import phantoms
from diffusion_backend.io import images
from diffusion_backend.pictures import montage


@pytest.fixture
def quick(monkeypatch):
    """A phantom of 64 pixels and a smoother instead of the network: the way is tested, not the quality."""
    original = phantoms.phantom
    monkeypatch.setattr(phantoms, "phantom", lambda region, **o: original(region, **(o | {"size": 64, "slices": 2})))
    smoother = lambda x, sigma, cond=None: torch.nn.functional.avg_pool2d(x, 3, 1, 1)  # noqa: E731
    monkeypatch.setattr(models, "load_denoiser", lambda model, device: smoother)
    monkeypatch.setattr(demo, "SAMPLES", {"a11": 2})


def test_demo_writes_volumes_on_one_grid_metrics_and_montage(quick, tmp_path, capsys):
    output = tmp_path / "dämo out"
    demo.demo(output)
    names = {f.name for f in output.iterdir()}
    assert {"ct.nrrd", "reference.nrrd", "metal.nrrd", "li.nrrd", "nmar.nrrd", "a11.nrrd", "a11-std.nrrd",
            "metrics.csv", "montage.png"} <= names  # fmt: skip
    ct, corrected = (images.read_volume(output / f"{n}.nrrd") for n in ("ct", "li"))
    assert corrected.array.shape == ct.array.shape and corrected.geometry == ct.geometry
    assert np.asarray(ct.array).max() > 2500
    with open(output / "metrics.csv", newline="") as file:
        rmse = {r["image"]: float(r["rmse"]) for r in csv.DictReader(file) if r["slice"] == "all"}
    assert set(rmse) == {"ct", "li", "nmar", "a11"}
    assert rmse["li"] < rmse["ct"]
    assert "RMSE HU" in capsys.readouterr().out
    assert not [f for f in tmp_path.iterdir() if f.name != output.name]


def test_montage_shows_every_image_at_the_window(tmp_path):
    from matplotlib import image as reader

    dark, bright = np.full((8, 8), -160.0), np.full((8, 8), 240.0)
    montage(tmp_path / "m.png", [{"a": dark, "b": bright}], (-160, 240))
    picture = reader.imread(tmp_path / "m.png")[..., 0]
    height, width = picture.shape
    assert picture[height // 2 + 20, width // 4] == 0 and picture[height // 2 + 20, 3 * width // 4] == 1

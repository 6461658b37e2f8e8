"""A11 (DuDoDp): golden loops through import path and product loop, and the laws of the loop with an oracle."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN, golden_files
from published_a11 import Archive, run_published

from diffusion_backend import licences, models
from diffusion_backend.methods.a11_dudodp import hu_prior

TOLERANCE, MASK_TOLERANCE = 2e-5, 1e-6


def imported_denoiser(archive: Archive, store):
    """Golden weights -> checkpoint -> `models import` -> denoiser in HU."""
    weights = np.load(GOLDEN / archive.config["weights"])
    config = json.loads(str(weights["config"]))
    state = {k[2:]: torch.from_numpy(weights[k].astype(np.float32)) for k in weights.files if k.startswith("w/")}
    torch.save(state, store / "golden.pt")
    options = {"head_width": config["num_head_channels"], "diffusion_steps": config["diffusion_steps"]}
    models.import_model("a11", store / "golden.pt", name="golden", options=options)
    licences.acknowledge("golden")
    return models.load_denoiser("golden")


def worst(states, name: str, archive: Archive, golden: str) -> float:
    """Largest difference over the stored steps."""
    found = np.stack([states[int(i)][name][0].numpy() for i in archive.arrays["out/steps"]])
    return float(np.abs(found - archive.arrays[golden]).max())


@pytest.mark.golden
@pytest.mark.parametrize("file", golden_files("a11-loop*.npz"), ids=lambda f: f.stem)
def test_golden_a11_loop_with_the_imported_network(file, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONMODELS_MODELS", str(tmp_path / "models"))
    archive = Archive(file)
    states = run_published(archive, hu_prior(imported_denoiser(archive, tmp_path), archive.schedule()))
    assert worst(states, "x0", archive, "out/net_x0") <= TOLERANCE
    assert worst(states, "x", archive, "out/net_x_prev") <= TOLERANCE
    assert worst(states, "m_t", archive, "out/M_t") <= MASK_TOLERANCE
    assert np.abs(states[0]["m_y"].numpy() - archive.arrays["out/M_y"]).max() <= MASK_TOLERANCE


@pytest.mark.golden
@pytest.mark.parametrize("file", golden_files("a11-loop*.npz"), ids=lambda f: f.stem)
def test_golden_a11_loop_with_the_oracle(file):
    archive = Archive(file)
    truth = 2 * archive.tensor("in/x_gt_mu")[None, None] - 1
    states = run_published(archive, lambda x, i: truth)
    assert worst(states, "x", archive, "out/oracle_x_prev") <= TOLERANCE
    mu = archive.tensor("in/x_gt_mu")[None, None]
    assert np.abs(archive.project(mu).numpy() - archive.arrays["out/fp_gt"]).max() <= TOLERANCE
    measured = archive.reconstruct(archive.tensor("in/S_ma"))
    assert np.abs(measured.numpy() - archive.arrays["out/bp_S_ma"]).max() <= TOLERANCE

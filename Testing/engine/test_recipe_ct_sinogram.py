"""Recipe of `ct-sinogram`: what the network is shown."""

from __future__ import annotations

import head
import numpy as np
import torch

from diffusion_backend.physics.ct import ImageGrid, hu_to_mu, projector
from diffusion_backend.physics.metal import virtual_geometry
from diffusion_backend.recipes import ct_sinogram as recipe
from diffusion_backend.recipes.ct_image import read_slices


def slices(count=2) -> torch.Tensor:
    return torch.from_numpy(head.hu(slices=1, size=96, metal=False)).float().expand(count, -1, -1)


def test_ratio_is_near_one_and_doesnt_know_the_size_of_the_patient():
    ratio = recipe.ratio_sinograms(slices(), np.random.default_rng(0))
    assert ratio.shape == (2, recipe.VIEWS, recipe.BINS)
    assert 0.9 < ratio.mean() < 1.1 and ratio.std() < 2 * recipe.SCALE
    assert not torch.equal(ratio[0], ratio[1])  # another disc: another prior image


def test_mirrored_patch_is_the_sinogram_of_the_mirrored_patient():
    grid = ImageGrid(96, 96, 1.0)
    scanner = projector(virtual_geometry(grid, 64, 65), grid)
    mu = hu_to_mu(slices(1))
    plain, mirrored = scanner.forward(mu)[0], scanner.forward(mu.flip(-1))[0]
    assert torch.allclose(plain.flip((0, 1)).roll(32, 0), mirrored, atol=1e-4)


def test_patches_wrap_around_the_views_and_keep_values():
    views = torch.arange(100.0)[:, None].expand(-1, 120).contiguous()
    patches = [recipe.random_patch(views, np.random.default_rng(seed)) for seed in range(40)]
    assert all(p.shape == (recipe.PATCH, recipe.PATCH) for p in patches)
    wrapped = [p for p in patches if (p.diff(dim=0).abs() > 50).any() or (p.max() - p.min() > 90)]
    assert 5 < len(wrapped) < 40
    flat = recipe.random_patch(torch.full((100, 120), 0.7), np.random.default_rng(0))
    assert torch.allclose(flat, torch.full_like(flat, 0.7), atol=1e-5)


def test_disc_lies_in_the_body():
    hu = slices(1)[0]
    for seed in range(10):
        disc = recipe.random_disc(hu, np.random.default_rng(seed))
        assert 4 <= disc.sum() <= np.pi * 13**2 and (hu[disc] > -200).any()


def test_training_lowers_the_validation_score(real_data, tmp_path, monkeypatch):
    from diffusion_backend.training import Settings, Training

    def read(folder, split):
        return {patient: slices[:4] for patient, slices in list(read_slices(folder, split).items())[:2]}

    monkeypatch.setattr(recipe, "read_slices", read)
    few = recipe.CtSinogram(real_data)
    few.validation = few.validation[:1]
    training = Training(few, Settings(output=tmp_path, steps=6, warm_up=2))
    before = training.validate()["score"]
    for _ in range(6):
        training.advance(0.1)
    assert training.validate()["score"] < 0.99 * before
    assert few.card()["training"]["slices"] == sum(len(s) for s in few.train.values())

"""Classical denoisers against independent libraries and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import skimage.restoration
import torch

from diffusion_backend.diffusion import classical
from diffusion_backend.physics.reconstruct import gradient


def image(seed=0, shape=(1, 1, 32, 40)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def objective(u, f, weight):
    return float(0.5 * (u - f).square().sum() + weight * gradient(u).norm(dim=0).sum())


def test_total_variation_prox_reaches_the_optimum_of_an_independent_library():
    f = image()
    ours = classical.total_variation_prox(f, 0.7, 300)
    theirs = skimage.restoration.denoise_tv_chambolle(f[0, 0].numpy(), weight=0.7, eps=1e-12, max_num_iter=20000)
    assert objective(ours[0, 0], f[0, 0], 0.7) <= objective(torch.from_numpy(theirs), f[0, 0], 0.7) * (1 + 1e-4)
    assert objective(ours[0, 0], f[0, 0], 0.7) < 0.9 * objective(f[0, 0], f[0, 0], 0.7)


def test_total_variation_prox_of_a_step_is_the_closed_form():
    """1D step between two halves of length n: each plateau moves towards the other by weight / n."""
    f = torch.zeros(1, 1, 8, 40, dtype=torch.float64)
    f[..., 20:] = 10.0
    u = classical.total_variation_prox(f, 2.0, 2000)
    assert torch.allclose(u[..., :20], torch.tensor(0.1, dtype=torch.float64), atol=1e-3)
    assert torch.allclose(u[..., 20:], torch.tensor(9.9, dtype=torch.float64), atol=1e-3)


def test_gaussian_smoother_against_scipy():
    x = image()
    ours = classical.gaussian_smoother(lambda s: 1.3)(x, 5.0)[0, 0].numpy()
    theirs = scipy.ndimage.gaussian_filter(x[0, 0].numpy(), 1.3, mode="nearest", truncate=6 / 1.3)
    assert np.abs(ours - theirs).max() < 1e-12


def test_wavelet_keeps_what_it_should_keep():
    x = image(shape=(2, 1, 32, 32))
    assert torch.allclose(classical.wavelet_denoiser(lambda s: 0.0)(x, 1.0), x, atol=1e-10)
    smooth = classical.wavelet_denoiser(lambda s: 1e9)(x, 1.0)
    assert torch.allclose(smooth.mean((-2, -1)), x.mean((-2, -1)), atol=1e-10)
    assert float(smooth.var()) < 0.05


@pytest.mark.parametrize(
    "denoise",
    [classical.gaussian_smoother(lambda s: 1.5), classical.tv_denoiser(lambda s: 0.6),
     classical.wavelet_denoiser(lambda s: 1.0)],
)  # fmt: skip
def test_each_removes_most_noise_from_a_disc_whatever_the_unit(denoise):
    y, x = np.mgrid[:64, :64] - 31.5
    disc = torch.from_numpy(100.0 * (np.hypot(x, y) < 20))[None, None]
    noisy = disc + 20 * image(3, (1, 1, 64, 64))
    error = (denoise(noisy, 20.0, None) - disc).square().mean().sqrt()
    assert error < 0.65 * 20
    assert torch.allclose(denoise(noisy / 1000, 0.02, None) * 1000, denoise(noisy, 20.0, None), atol=1e-6)

"""Classical denoisers with the contract of a prior, `denoise(x, sigma, cond) -> x0_hat`: the measure for every network.

x [B, C, H, W] in any unit, sigma (float) the standard deviation of its noise in that unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pywt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..physics.reconstruct import gradient, gradient_adjoint
from .denoiser import Conditions, Denoise

Strength = Callable[[float], float]


def total_variation_prox(f: Tensor, weight: float, iterations: int = 100) -> Tensor:
    """argmin_u 0.5 |u - f|^2 + weight TV(u), isotropic TV, over the last two axes.

    Accelerated projected gradient on the dual (Beck and Teboulle 2009, IEEE TIP 18, algorithm FGP without constraint).
    """
    dual = ahead = torch.zeros(2, *f.shape, dtype=f.dtype, device=f.device)
    t = 1.0
    for _ in range(iterations):
        step = ahead + gradient(f - weight * gradient_adjoint(ahead)) / (8 * weight)
        step = step / step.norm(dim=0).clamp(min=1)
        t, previous = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
        ahead, dual = step + (previous - 1) / t * (step - dual), step
    return f - weight * gradient_adjoint(dual)


def gaussian_smoother(width: Strength) -> Denoise:
    """Gaussian filter of standard deviation width(sigma) pixels, edge values repeated."""

    def denoise(x: Tensor, sigma: float, cond: Conditions = None) -> Tensor:
        std = width(float(sigma))
        radius = min(max(1, math.ceil(4 * std)), 64)
        offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
        kernel = torch.exp(-(offsets**2) / (2 * std**2))
        kernel = (kernel / kernel.sum()).view(1, 1, -1, 1)
        y = F.pad(x.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(y, kernel), kernel.transpose(2, 3)).view(x.shape)

    return denoise


def tv_denoiser(weight: Strength, iterations: int = 100) -> Denoise:
    """TV denoiser (Rudin, Osher, Fatemi 1992) of regularisation weight(sigma) * sigma."""

    def denoise(x: Tensor, sigma: float, cond: Conditions = None) -> Tensor:
        return total_variation_prox(x, weight(float(sigma)) * float(sigma), iterations)

    return denoise


def wavelet_denoiser(threshold: Strength, wavelet: str = "db2", levels: int = 4) -> Denoise:
    """Soft thresholding of wavelet details: BayesShrink threshold per subband (Chang et al. 2000), times
    threshold(sigma), averaged over four shifts (Coifman and Donoho 1995)."""

    def shrink(band: np.ndarray, sigma: float, factor: float) -> np.ndarray:
        signal = np.sqrt(np.maximum(np.square(band).mean(axis=(-2, -1), keepdims=True) - sigma**2, 1e-12))
        return np.sign(band) * np.maximum(np.abs(band) - factor * sigma**2 / signal, 0)

    def denoise(x: Tensor, sigma: float, cond: Conditions = None) -> Tensor:
        factor, image, total = threshold(float(sigma)), x.double().cpu().numpy(), 0.0
        for shift in ((0, 0), (3, 5), (6, 2), (9, 7)):
            rolled = np.roll(image, shift, axis=(-2, -1))
            coarse, *details = pywt.wavedec2(rolled, wavelet, mode="periodization", level=levels)
            details = [tuple(shrink(band, float(sigma), factor) for band in bands) for bands in details]
            smooth = pywt.waverec2([coarse, *details], wavelet, mode="periodization")
            total = total + np.roll(smooth, tuple(-s for s in shift), axis=(-2, -1))
        return torch.from_numpy(total / 4).to(x)

    return denoise

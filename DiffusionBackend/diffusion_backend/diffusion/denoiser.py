"""Denoisers: one contract, `denoise(x, sigma, cond) -> x0_hat`, for networks of every parametrisation.

x [B, C, ...] is the clean image plus Gaussian noise of standard deviation sigma (variance-exploding view, VE); sigma
is a float, for EDM networks also a tensor [B]. Networks of a discrete variance-preserving (VP) schedule see
x_vp = sqrt(abar) x_0 + sqrt(1 - abar) noise = x / sqrt(1 + sigma^2) and the time index [B] of that noise level, int64
and nearest, or float and interpolated. The algebra uses the given sigma; the index only names it to the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .schedules import DiscreteVP

Conditions = Mapping[str, Tensor] | None
Network = Callable[..., Tensor]
Denoise = Callable[[Tensor, Any, Any], Tensor]


def per_item(sigma: float | Tensor, x: Tensor) -> Tensor:
    """Noise level as a tensor [B] of x's type and device: a float counts for every item."""
    if isinstance(sigma, Tensor):
        return sigma.to(x).expand(len(x))
    return torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)


def vp_of_ve(x: Tensor, sigma: float) -> Tensor:
    """VP state of a VE state: x sqrt(abar) with abar = 1 / (1 + sigma^2)."""
    return x / math.sqrt(1 + sigma * sigma)


def ve_of_vp(x: Tensor, sigma: float) -> Tensor:
    """VE state of a VP state: x / sqrt(abar)."""
    return x * math.sqrt(1 + sigma * sigma)


@dataclass(frozen=True)
class EDM:
    """Preconditioning of Karras et al. 2022 (arXiv 2206.00364, table 1, last column) for data of spread sigma_data."""

    sigma_data: float

    def c_skip(self, sigma: Tensor) -> Tensor:
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Tensor) -> Tensor:
        return sigma * self.sigma_data / (sigma**2 + self.sigma_data**2) ** 0.5

    def c_in(self, sigma: Tensor) -> Tensor:
        return 1 / (sigma**2 + self.sigma_data**2) ** 0.5

    def c_noise(self, sigma: Tensor) -> Tensor:
        return sigma.log() / 4

    def denoise(self, network: Network, x: Tensor, sigma: float | Tensor, cond: Conditions = None) -> Tensor:
        """x0 estimate of a network that predicts the preconditioned target; x [B, C, ...], sigma a float or [B]."""
        sigma = per_item(sigma, x)
        s = sigma.view(-1, *[1] * (x.ndim - 1))
        return self.c_skip(s) * x + self.c_out(s) * network(self.c_in(s) * x, self.c_noise(sigma), cond).to(x.dtype)

    def loss(self, network: Network, x0: Tensor, sigma: Tensor, noise: Tensor, cond: Conditions = None) -> Tensor:
        """Denoising loss weighted by 1 / c_out^2 (eq. 8 there), so that each noise level counts alike. -> scalar."""
        s = sigma.view(-1, *[1] * (x0.ndim - 1))
        error = (self.denoise(network, x0 + s * noise, sigma, cond) - x0) / self.c_out(s)
        return error.square().mean()


def edm(network: Network, sigma_data: float) -> Denoise:
    """Denoiser of a network(c_in x, ln(sigma) / 4, cond) with EDM preconditioning."""
    form = EDM(sigma_data)
    return lambda x, sigma, cond=None: form.denoise(network, x, sigma, cond)


def _vp_output(
    network: Network, schedule: DiscreteVP, x: Tensor, sigma: float, cond: Conditions, interpolate: bool
) -> Tensor:
    """Output of a VP network for a VE state: network(x_vp, time index [B], cond)."""
    time = schedule.time_of_sigma(sigma)
    value, dtype = (time, x.dtype) if interpolate else (round(time), torch.int64)
    index = torch.full((len(x),), value, dtype=dtype, device=x.device)
    return network(vp_of_ve(x, sigma), index, cond).to(x.dtype)


def from_epsilon(network: Network, schedule: DiscreteVP, *, interpolate: bool = False) -> Denoise:
    """Denoiser of a network that predicts the noise (Ho et al. 2020): x_0 = x - sigma epsilon."""
    return lambda x, sigma, cond=None: x - sigma * _vp_output(network, schedule, x, sigma, cond, interpolate)


def from_x0(network: Network, schedule: DiscreteVP, *, interpolate: bool = False) -> Denoise:
    """Denoiser of a VP network that predicts the clean image itself."""
    return lambda x, sigma, cond=None: _vp_output(network, schedule, x, sigma, cond, interpolate)


def from_v(network: Network, schedule: DiscreteVP, *, interpolate: bool = False) -> Denoise:
    """Denoiser of a network that predicts v = sqrt(abar) epsilon - sqrt(1 - abar) x_0 (Salimans and Ho 2022, app. D):
    x_0 = sqrt(abar) x_vp - sqrt(1 - abar) v = (x - sigma sqrt(1 + sigma^2) v) / (1 + sigma^2)."""

    def denoise(x: Tensor, sigma: float, cond: Conditions = None) -> Tensor:
        v = _vp_output(network, schedule, x, sigma, cond, interpolate)
        return (x - sigma * math.sqrt(1 + sigma * sigma) * v) / (1 + sigma * sigma)

    return denoise


def from_vp_score(network: Network, schedule: DiscreteVP, *, interpolate: bool = False) -> Denoise:
    """Denoiser of a network that predicts the score of the VP state, -epsilon / sqrt(1 - abar) (Song et al. 2021)."""

    def denoise(x: Tensor, sigma: float, cond: Conditions = None) -> Tensor:
        score = _vp_output(network, schedule, x, sigma, cond, interpolate)
        return x + sigma * sigma / math.sqrt(1 + sigma * sigma) * score

    return denoise


def from_score(network: Network, label: Callable[[float], float] = float) -> Denoise:
    """Denoiser of a VE score network(x, label(sigma) [B], cond) (Tweedie): x_0 = x + sigma^2 score.

    label : what the network was given for the noise level: sigma itself (default), its logarithm, or an index."""
    return lambda x, sigma, cond=None: x + sigma * sigma * network(x, per_item(label(sigma), x), cond).to(x.dtype)


def without_variance(network: Network) -> Network:
    """The prediction of a network whose output [B, 2 C, ...] is prediction, then variance."""
    return lambda x, time, cond=None: network(x, time, cond).chunk(2, 1)[0]


def large_share(v: Tensor, convention: str) -> Tensor:
    """Share in [0, 1] of log beta in a learned log variance, of a network's variance output v.

    "iddpm": v in [-1, 1], 1 = beta (Nichol and Dhariwal 2021, eq. 15, with the released code's range).
    "dudodp": v in [0, 1], 1 = posterior variance, the other direction (Liu et al. 2024, released code)."""
    if convention == "iddpm":
        return (v + 1) / 2
    if convention == "dudodp":
        return 1 - v
    raise ValueError(f"The convention of a learned variance is iddpm or dudodp, not '{convention}'.")


def learned_log_variance(v: Tensor, schedule: DiscreteVP, step: int, convention: str) -> Tensor:
    """Log variance of a step, between the clipped posterior one and log beta (Nichol and Dhariwal 2021, eq. 15)."""
    share = large_share(v, convention)
    return share * math.log(schedule.betas[step]) + (1 - share) * schedule.posterior_log_variance_clipped[step]


def with_variance(
    network: Network, schedule: DiscreteVP, *, convention: str, parametrisation: Callable[..., Denoise] = from_x0
) -> Callable[[Tensor, float, Any], tuple[Tensor, Tensor]]:
    """Denoiser for `samplers.ddpm(variance="learned")`: (x0_hat, log variance) of a network with output [B, 2 C, ...].

    parametrisation : from_x0, from_epsilon, from_v or from_vp_score, for the first C channels."""

    def denoise(x: Tensor, sigma: float, cond: Conditions = None) -> tuple[Tensor, Tensor]:
        spread: list[Tensor] = []

        def prediction(x_vp: Tensor, time: Tensor, cond: Conditions) -> Tensor:
            mean, v = network(x_vp, time, cond).chunk(2, 1)
            spread.append(v.to(x.dtype))
            return mean

        x0 = parametrisation(prediction, schedule)(x, sigma, cond)
        step = round(schedule.position_of_sigma(sigma))
        return x0, learned_log_variance(spread[0], schedule, step, convention)

    return denoise


def clipped(denoise: Denoise, low: float, high: float) -> Denoise:
    """Clean estimates limited to [low, high]; the samplers take the noise from x and the limited estimate."""
    return lambda x, sigma, cond=None: denoise(x, sigma, cond).clamp(low, high)

"""A11 DuDoDp: metal artefact reduction with an image diffusion prior plugged into both domains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.schedules import DiscreteVP

MU_CM = 0.192  # attenuation of water, 1/cm: x = 2 mu - 1 is the network's image


@dataclass(frozen=True)
class Measurement:
    """What was measured and the two operators between the domains, in units of the published loop.

    sinogram [B, 1, V, D]: line integrals; trace: bool, the same shape, True where metal was hit;
    project: mu in 1/cm [B, 1, H, W] -> line integrals; reconstruct: line integrals -> mu in 1/cm (filtered backprojection);
    level: upper limit of known line integrals, 4 for a field of view of 15.36 cm, proportional to it (note section 2.7)."""

    sinogram: Tensor
    trace: Tensor
    project: Callable[[Tensor], Tensor]
    reconstruct: Callable[[Tensor], Tensor]
    level: float = 4.0


def dual_domain_loop(
    predict: Callable[[Tensor, int], Tensor],
    noise: Callable[[int], Tensor],
    schedule: DiscreteVP,
    data: Measurement,
    *,
    a: float = 0.4,
    n: float = 4.0,
    delta_y: float = 0.8,
    delta_period: int | None = None,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> Tensor:
    """The sampler of DuDoDp (Liu et al. 2024; published code), images in x = 2 mu - 1 with mu in 1/cm.

    predict(x_i, i): estimate of the clean image at step i (clipped to [-1, 1] here); noise(i): standard normal image,
    i = T for the start and i for going from step i to i - 1. a: weight of the prior in the image domain at the end of
    sampling; n: decay of that weight; delta_y: weight in the branch of the uncorrected image. delta_period: number of
    steps over which delta decays; default T (published code: 100 whatever T is). Returns the corrected image [B, 1, H, W]."""
    period = delta_period or schedule.steps
    uncorrected = 2 * data.reconstruct(data.sinogram) - 1
    spread = data.reconstruct(
        data.level * data.trace.to(data.sinogram.dtype)
    )  # linear: one backprojection serves all steps
    m_y = (delta_y * spread).clamp(0, 1)
    known = data.sinogram.clamp(0, data.level)
    x = noise(schedule.steps)
    for i in reversed(range(schedule.steps)):
        x0 = predict(x, i).clamp(-1, 1)
        delta = 1 - (1 - a) * math.exp(-n * (i + 1) / period)
        m_t = (delta * spread).clamp(0, 1)
        filled = data.project((x0 + 1) / 2).where(data.trace, known)  # sinogram domain: prior fills the trace
        r = 2 * data.reconstruct(filled) - 1
        r = m_t * x0 + (1 - m_t) * r  # image domain: prior again, weighted
        q = m_y * x0 + (1 - m_y) * uncorrected
        k = math.sqrt(schedule.alpha_bar[i])
        z = k * r + (1 - k) * q  # noisy steps lean on the uncorrected image
        abar = schedule.alpha_bar_previous[i]
        x = z if i == 0 else math.sqrt(abar) * z + math.sqrt(1 - abar) * noise(i)
        if on_step:
            on_step(i, {"x0": x0, "x": x, "m_t": m_t, "m_y": m_y})
    return x


def hu_prior(denoise: Callable[..., Tensor], schedule: DiscreteVP) -> Callable[[Tensor, int], Tensor]:
    """The one border between the loop (VP states in x = 2 mu - 1) and a denoiser of HU images in the VE view.

    mu = 0.192 (1 + HU / 1000) 1/cm, hence HU = scale (x + 1) - 1000 with scale = 1000 / (2 * 0.192)."""
    scale = 1000 / (2 * MU_CM)

    def predict(x: Tensor, i: int) -> Tensor:
        hu = (x / math.sqrt(schedule.alpha_bar[i]) + 1) * scale - 1000
        return (denoise(hu, schedule.sigmas[i] * scale, None) + 1000) / scale - 1

    return predict

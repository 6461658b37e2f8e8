"""Samplers as pure functions over `denoise(x, sigma, cond) -> x0_hat`, in the variance-exploding (VE) view.

Common arguments of all samplers
x       : state [B, C, ...] at the first noise level, float32 or float64; the result has its type. In VE view
          x = x_0 + sigma * noise, so a start from pure noise is `sigmas[0] * noise(0)`. (`ddpm` alone: VP state.)
sigmas  : decreasing noise levels in units of x (Python floats), usually ending in 0, see schedules.py.
cond    : passed on to `denoise` unchanged.
noise   : noise(k) -> unit Gaussian of the shape and type of x. The samplers draw k = 1, 2, 3 ..., each number at most
          once and in a fixed place of the algorithm (k = 0 is left for the start), and nothing that they don't use.
on_step : on_step(step, x0_hat) after every step; it may raise (cancel) or store a preview.
No function touches a global generator, sets a gradient mode or moves data to another device. A method puts its data
consistency into `denoise` (guidance.py): D -> lambda x, sigma, cond: consistent(D(x, sigma, cond), sigma).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .schedules import DiscreteVP

Condition = Mapping[str, Tensor] | None
Denoise = Callable[[Tensor, float, Any], Tensor]
Noise = Callable[[int], Tensor]
OnStep = Callable[[int, Tensor], object] | None


def no_noise(k: int) -> Tensor:
    """Default of `noise`: random samplers need the caller's generator, there is no silent default."""
    raise ValueError(f"This sampler draws random numbers (draw {k}); pass noise(k) -> unit Gaussian like x.")


def start(image: Tensor | float, sigma: float, noise: Noise) -> Tensor:
    """State at level `sigma`: image + sigma noise(0).

    image : 0 for a start from noise, or a first guess for a truncated start, which goes on with
    `schedules.truncated(sigmas, sigma)` (Chung et al. 2022, "Come-Closer-Diffuse-Faster", algorithm 1)."""
    return image + sigma * noise(0)


def ddpm(
    denoise: Callable[[Tensor, float, Any], Any],
    x: Tensor,
    schedule: DiscreteVP,
    *,
    variance: str = "small",
    cond: Condition = None,
    noise: Noise = no_noise,
    on_step: OnStep = None,
) -> Tensor:
    """Ancestral sampling of a discrete VP schedule (Ho et al. 2020, algorithm 2). x is the VP state at the last step.

    variance : "small" = posterior variance, "large" = beta_i (Ho et al. 2020, section 3.2), or "learned": `denoise`
    then returns (x0_hat, log variance), see `denoiser.with_variance`.
    Network calls: schedule.steps. Draws: k = 1 ... steps - 1 (the last step adds no noise)."""
    if variance not in ("small", "large", "learned"):
        raise ValueError(f"The variance of ancestral sampling is small, large or learned, not '{variance}'.")
    for step, i in enumerate(reversed(range(schedule.steps))):
        to_x0, to_x = schedule.posterior_coefficients[i]
        out = denoise(x / math.sqrt(schedule.alpha_bar[i]), schedule.sigmas[i], cond)
        x0, log_variance = out if variance == "learned" else (out, None)
        x = to_x0 * x0 + to_x * x
        if i > 0:
            if log_variance is not None:
                deviation = torch.exp(0.5 * log_variance)
            else:
                deviation = math.sqrt((schedule.posterior_variance if variance == "small" else schedule.betas)[i])
            x = x + deviation * noise(step + 1)
        if on_step:
            on_step(step, x0)
    return x


def ddim(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    eta: float = 0.0,
    cond: Condition = None,
    noise: Noise = no_noise,
    on_step: OnStep = None,
) -> Tensor:
    """DDIM in sigma form (Song, Meng and Ermon 2021, eqs. 12 and 16). eta 0 = deterministic, 1 = ancestral (DDPM).

    Network calls: len(sigmas) - 1. Draws: none for eta = 0, else k = step + 1 for each step that doesn't end at 0."""
    for step, (s, t) in enumerate(zip(sigmas, sigmas[1:])):
        x0 = denoise(x, s, cond)
        renewed = eta * t * math.sqrt(1 - (t / s) ** 2)
        x = _towards(x, x0, s, t, renewed, noise, step + 1)
        if on_step:
            on_step(step, x0)
    return x


def renoise(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    zeta: float = 1.0,
    cond: Condition = None,
    noise: Noise = no_noise,
    on_step: OnStep = None,
) -> Tensor:
    """Re-noises the clean estimate: the share zeta of the next level's noise variance is new, the rest is kept.

    DiffPIR (Zhu et al. 2023, algorithm 1); zeta = 1 is the chain of DuDoDp (Liu et al. 2024), zeta = 0 is DDIM, eta 0.
    Network calls: len(sigmas) - 1. Draws: none for zeta = 0, else k = step + 1 for each step that doesn't end at 0."""
    for step, (s, t) in enumerate(zip(sigmas, sigmas[1:])):
        x0 = denoise(x, s, cond)
        x = _towards(x, x0, s, t, math.sqrt(zeta) * t, noise, step + 1)
        if on_step:
            on_step(step, x0)
    return x


def _towards(x: Tensor, x0: Tensor, s: float, t: float, renewed: float, noise: Noise, draw: int) -> Tensor:
    """From level s to t: x0 + kept noise direction + new noise of deviation `renewed`; the noise variance is t^2."""
    x = x0 + math.sqrt(max(t * t - renewed * renewed, 0.0)) / s * (x - x0)
    return x + renewed * noise(draw) if renewed > 0 else x


def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    cond: Condition = None,
    noise: Noise = no_noise,
    on_step: OnStep = None,
) -> Tensor:
    """Second-order sampler of EDM (Karras et al. 2022, algorithm 2; s_churn = 0 is algorithm 1).

    Network calls: 2 per step, 1 for a step that ends at 0: 2 N - 1 for N steps to 0.
    Draws: k = step + 1 where s_churn > 0 and s_min <= sigma <= s_max."""
    steps = len(sigmas) - 1
    for step, (s, t) in enumerate(zip(sigmas, sigmas[1:])):
        gamma = min(s_churn / steps, math.sqrt(2) - 1) if s_min <= s <= s_max else 0.0
        s_hat = s * (1 + gamma)
        if gamma > 0:
            x = x + s_noise * math.sqrt(s_hat * s_hat - s * s) * noise(step + 1)
        x0 = denoise(x, s_hat, cond)
        slope = (x - x0) / s_hat
        ahead = x + (t - s_hat) * slope
        if t > 0:
            slope = 0.5 * (slope + (ahead - denoise(ahead, t, cond)) / t)
            ahead = x + (t - s_hat) * slope
        x = ahead
        if on_step:
            on_step(step, x0)
    return x


def dpm_solver_2m(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], *, cond: Condition = None, on_step: OnStep = None
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2) with lambda = -log sigma; deterministic.

    The first step and a step that ends at 0 are first order. Network calls: len(sigmas) - 1."""
    before: tuple[Tensor, float] | None = None  # last x0 estimate and last step h in lambda
    for step, (s, t) in enumerate(zip(sigmas, sigmas[1:])):
        x0 = denoise(x, s, cond)
        if t > 0:
            h = math.log(s / t)
            d = x0
            if before is not None:
                d = x0 + h / (2 * before[1]) * (x0 - before[0])  # 1 / (2 r) with r = h_before / h
            x = t / s * x - math.expm1(-h) * d
            before = (x0, h)
        else:
            x = x0
        if on_step:
            on_step(step, x0)
    return x


def langevin(x: Tensor, score: Tensor, z: Tensor, snr: float) -> Tensor:
    """One Langevin step x + e score + sqrt(2 e) z with e = 2 (snr |z| / |score|)^2 (Song et al. 2021, algorithm 4).

    Norms are taken per item, not averaged over the batch as in the released code: an item's result must not depend on
    its batch mates (test: batch of 3 = three single items). An item whose score is 0 takes a noise step of size 0."""
    size = [len(x), *[1] * (x.dim() - 1)]
    ratio = z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)
    e = (2 * (snr * torch.nan_to_num(ratio, nan=0.0, posinf=0.0)) ** 2).reshape(size)
    return x + e * score + torch.sqrt(2 * e) * z


def predictor_corrector(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    snr: float = 0.16,
    corrector_steps: int = 1,
    corrector_first: bool = False,
    cond: Condition = None,
    noise: Noise = no_noise,
    on_step: OnStep = None,
) -> Tensor:
    """Predictor-corrector sampling of the VE process (Song et al. 2021, algorithm 2): reverse diffusion, then Langevin.

    corrector_first : correct at the level before the predictor (the released code) instead of after it (the paper).
    A step that ends at 0 returns the denoised mean without noise, and no corrector runs at level 0.
    Network calls: N steps to 0: N + corrector_steps (N - 1), or N (1 + corrector_steps) with the corrector first.
    Draws: the predictor of a step k = 1 + step (corrector_steps + 1), its correctors the numbers after that."""

    def correct(x: Tensor, sigma: float, draw: int) -> Tensor:
        for k in range(draw, draw + corrector_steps):
            x = langevin(x, (denoise(x, sigma, cond) - x) / sigma**2, noise(k), snr)
        return x

    for step, (s, t) in enumerate(zip(sigmas, sigmas[1:])):
        draw = 1 + step * (corrector_steps + 1)
        if corrector_first:
            x = correct(x, s, draw + 1)
        x0 = denoise(x, s, cond)
        x = x + (1 - (t / s) ** 2) * (x0 - x)
        if t > 0:
            x = x + math.sqrt(s * s - t * t) * noise(draw)
            if not corrector_first:
                x = correct(x, t, draw + 1)
        if on_step:
            on_step(step, x0)
    return x


def repaint_levels(steps: int, jump: int, repeats: int) -> tuple[int, ...]:
    """Order of the level numbers that RePaint visits, from 0 (most noise) to `steps` (clean).

    Every `jump` levels, counted from the least noisy one (steps - 1), the chain goes `jump` levels back towards noise
    and down again, repeats - 1 times (Lugmayr et al. 2022, appendix B; jump length j, resampling number r). No jump
    leads above level 0. Steps down: steps + (repeats - 1) jump J, with J = (steps - 1) // jump jump points."""
    if steps < 0 or jump < 1 or repeats < 1:
        raise ValueError(f"RePaint needs steps >= 0, jump and repeats >= 1; found {steps}, {jump}, {repeats}.")
    left = dict.fromkeys(range(steps - 1, jump - 1, -jump), repeats - 1)
    path = [0]
    while path[-1] < steps:
        path.append(path[-1] + 1)
        if left.get(path[-1], 0) > 0:
            left[path[-1]] -= 1
            path += range(path[-1] - 1, path[-1] - jump - 1, -1)
    return tuple(path)


def repaint(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    known: Tensor,
    mask: Tensor,
    jump: int = 10,
    repeats: int = 10,
    temperature: float = 1.0,
    cond: Condition = None,
    noise: Noise = no_noise,
    on_step: OnStep = None,
) -> Tensor:
    """RePaint (Lugmayr et al. 2022, algorithm 1): fills where mask is 0, keeps `known` where mask is 1.

    known, mask : broadcastable to x; the result equals `known` exactly where the mask is 1 (if sigmas end at 0).
    Each step down is ancestral (DDIM, eta 1) in the unknown part and fresh noise on the known part; each step up adds
    the noise between the two levels. temperature : factor on the noise of the unknown part; 1 (published) draws one of
    the possible fillings, 0 follows the clean estimate, which is nearer to their mean.
    Network calls: the steps down in `repaint_levels`. Draws: at step n of the path k = 2 n + 1 (unknown part or step
    up) and k = 2 n + 2 (known part)."""
    inside = mask > 0
    path = repaint_levels(len(sigmas) - 1, jump, repeats)
    for n, (a, b) in enumerate(zip(path, path[1:])):
        s, t = sigmas[a], sigmas[b]
        if t > s:
            x = x + temperature * math.sqrt(t * t - s * s) * noise(2 * n + 1)
            continue
        x0 = denoise(x, s, cond)
        x = _towards(x, x0, s, t, t * math.sqrt(1 - (t / s) ** 2), noise, 2 * n + 1)
        if temperature != 1:
            x = x0 + temperature * (x - x0)
        measured = known + t * noise(2 * n + 2) if t > 0 else known.expand_as(x)
        x = torch.where(inside, measured.to(x.dtype), x)
        if on_step:
            on_step(n, x0)
    return x

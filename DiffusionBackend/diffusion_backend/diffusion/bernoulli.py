"""Bernoulli diffusion of masks (HiDiff, Chen et al. 2024): process, posterior, losses, samplers as pure functions.

Masks y [B, K, H, W] hold independent bits, p is the probability of the prior mask in which the chain ends (1/2
everywhere is BerDiff). Times t = 0 ... T-1 as published: t = 0 has one step of noise.

    q(y_t | y_{t-1}, p) = Bern(alpha_t y_{t-1} + (1 - alpha_t) p),   q(y_t | y_0, p) = Bern(abar_t y_0 + (1 - abar_t) p)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SCHEDULES = ("cosine", "cosine2", "linear", "alpha_bar_linear")
SMALLEST = 1e-7  # of a probability inside a logarithm
Predict = Callable[[Tensor, int], Tensor]
Uniform = Callable[[int], Tensor]


def betas(name: str, steps: int) -> np.ndarray:
    """beta_t, float64 [steps]. ValueError where the schedule is unknown or needs more steps."""
    if name not in SCHEDULES or steps < 1:
        raise ValueError(f"There is no schedule '{name}' of {steps} steps; choose one of {', '.join(SCHEDULES)}, "
                         "with at least 1 step.")
    if name == "linear":
        if steps < 20:
            raise ValueError(f"The schedule 'linear' needs at least 20 steps (beta would exceed 1), not {steps}.")
        return np.linspace(0.1 / steps, 20 / steps, steps)
    if name == "alpha_bar_linear":
        return 1 / (steps - np.arange(steps))
    u = np.arange(steps + 1) / steps
    abar = np.cos(math.pi / 2 * (u + 0.008) / 1.008) ** (2 if name == "cosine2" else 1)
    return np.minimum(1 - abar[1:] / abar[:-1], 0.999)


@dataclass(frozen=True)
class Process:
    """A chain: abar [T] float64 and the time that the network is told at each of its steps."""

    abar: np.ndarray
    times: tuple[int, ...]

    @property
    def steps(self) -> int:
        return len(self.abar)

    @property
    def before(self) -> np.ndarray:
        """abar_{t-1}, with 1 at t = 0."""
        return np.concatenate([[1.0], self.abar[:-1]])

    def respaced(self, times: Sequence[int]) -> Process:
        """The chain that visits these increasing times only; the network is still told the original times."""
        if list(times) != sorted(set(times)) or not times or times[0] < 0 or times[-1] >= self.steps:
            raise ValueError(f"The times {list(times)} don't increase within 0 to {self.steps - 1}.")
        return Process(self.abar[list(times)], tuple(self.times[t] for t in times))


def process(name: str = "cosine", steps: int = 10) -> Process:
    """The chain of a named schedule."""
    return Process(np.cumprod(1 - betas(name, steps)), tuple(range(steps)))


def even_times(steps: int, count: int) -> list[int]:
    """`count` times spread over 0 ... steps - 1, the last one included: the chain must start at its end."""
    if not 1 <= count <= steps:
        raise ValueError(f"{count} of {steps} steps can't be taken; choose 1 to {steps}.")
    return [round((k + 1) * steps / count) - 1 for k in range(count)]


def strided_times(steps: int, count: int) -> list[int]:
    """The published `ddimuniN`: from 0 in the smallest stride that gives `count` times; ValueError where none does."""
    for stride in range(1, steps + 1):
        if len(range(0, steps, stride)) == count:
            return list(range(0, steps, stride))
    raise ValueError(f"No stride gives {count} of {steps} times.")


def quadratic_times(steps: int, count: int) -> list[int]:
    """The published `ddimquaN`; where times coincide there are fewer than `count`, which is a ValueError here."""
    times = sorted({int(v) for v in np.linspace(0, math.sqrt(0.8 * steps), count) ** 2})
    if len(times) != count:
        raise ValueError(f"Quadratic spacing gives {len(times)} different times of {steps}, not {count}.")
    return times


def _at(values: np.ndarray, t: Tensor | int, like: Tensor) -> Tensor:
    """values[t] as a tensor that broadcasts against `like` [B, ...]; t an integer or [B]."""
    chosen = torch.as_tensor(values, dtype=like.dtype, device=like.device)[t]
    return chosen.reshape(-1, *[1] * (like.ndim - 1))


def forward_mean(chain: Process, y0: Tensor, p: Tensor, t: Tensor | int) -> Tensor:
    """Probability that a bit of y_t is 1, given y_0."""
    abar = _at(chain.abar, t, p)
    return abar * y0 + (1 - abar) * p


def calibrate(y: Tensor, flip: Tensor) -> Tensor:
    """Estimate of y_0 from the state and the estimated flip probability: |y_t - e|."""
    return (y - flip).abs()


def posterior_mean(chain: Process, y: Tensor, y0: Tensor, p: Tensor, t: Tensor | int) -> Tensor:
    """Probability that a bit of y_{t-1} is 1, given y_t and y_0 (which may be a probability); y_0 itself at t = 0.

    Where (y_t, p, y_0) is impossible (0/0) the answer is y_0. Gradients are finite everywhere."""
    before, alpha = _at(chain.before, t, p), _at(chain.abar / chain.before, t, p)
    unchanged = (1 - alpha) * (1 - y - p).abs()
    one = (alpha * y + unchanged) * (before * y0 + (1 - before) * p)
    zero = (alpha * (1 - y) + unchanged) * (before * (1 - y0) + (1 - before) * (1 - p))
    total = one + zero
    undefined = (total == 0) | (before == 1)
    return torch.where(undefined, y0, one / torch.where(undefined, torch.ones_like(total), total))


def kl_bits(a: Tensor, b: Tensor) -> Tensor:
    """KL(Bern(a) || Bern(b)) per bit of the mask, in bits; logarithms are bounded as published."""
    def term(x: Tensor, y: Tensor) -> Tensor:
        return x * torch.log((x / (y + SMALLEST)).clamp(min=SMALLEST))

    return (term(a, b) + term(1 - a, 1 - b)) / math.log(2)


def cross_entropy_bits(target: Tensor, mean: Tensor) -> Tensor:
    """-log2 of the probability of `target` under Bern(mean), per bit of the mask."""
    m = mean.clamp(SMALLEST, 1 - SMALLEST)
    return -(target * m.log() + (1 - target) * (1 - m).log()) / math.log(2)


def focal_bits(target: Tensor, estimate: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss (1 - exp(-bce))^gamma bce per bit of the mask, in bits."""
    bits = cross_entropy_bits(target, estimate)
    return (1 - torch.exp(-bits * math.log(2))) ** gamma * bits


def bound_bits(chain: Process, y: Tensor, y0: Tensor, estimate: Tensor, p: Tensor, t: Tensor) -> Tensor:
    """Term of the variational bound per bit of the mask: KL of the posteriors, for t = 0 likelihood of y_0."""
    later = kl_bits(posterior_mean(chain, y, y0, p, t), posterior_mean(chain, y, estimate, p, t))
    first = (t == 0).reshape(-1, *[1] * (y.ndim - 1))
    return torch.where(first, cross_entropy_bits(y0, estimate), later)


def mix_loss(
    chain: Process, y: Tensor, y0: Tensor, flip: Tensor, p: Tensor, t: Tensor, gamma: float = 2.0
) -> Tensor:
    """The published `mix`, per bit of the mask: bound plus focal loss of the flip map |y_t - y_0|.

    gamma : 2 is HiDiff, 0 is BerDiff: plain cross-entropy, whose minimum is the true probability."""
    return bound_bits(chain, y, y0, calibrate(y, flip), p, t) + focal_bits((y - y0).abs(), flip, gamma)


def sample(
    predict: Predict, p: Tensor, chain: Process, uniform: Uniform, *, sampler: str = "ddim", start: Tensor | None = None
) -> Tensor:
    """One draw: probabilities of y_0 [B, K, H, W], from a draw of the prior mask (or from `start`).

    predict : (y_t, time told to the network) -> flip probabilities. uniform : uniform(k) -> numbers in [0, 1) of p's
    shape; k = 0 for the start, k = 1, 2 ... for the states after it. sampler : "ddpm" (posterior) or "ddim" (keeps the
    marginals with less new randomness)."""
    if sampler not in ("ddim", "ddpm"):
        raise ValueError(f"The sampler of a Bernoulli chain is ddim or ddpm, not '{sampler}'.")
    y = (uniform(0) < p).to(p.dtype) if start is None else start
    y0 = p
    for k, t in enumerate(reversed(range(chain.steps))):
        y0 = calibrate(y, predict(y, chain.times[t]))
        if t > 0:
            mean = posterior_mean(chain, y, y0, p, t) if sampler == "ddpm" else ddim_mean(chain, y, y0, t)
            y = (uniform(k + 1) < mean).to(p.dtype)
    return y0


def ddim_mean(chain: Process, y: Tensor, y0: Tensor, t: int) -> Tensor:
    """Mean of y_{t-1} that keeps the marginals: s y_t + (abar_{t-1} - s abar_t) y_0, s = (1-abar_{t-1})/(1-abar_t).

    The two weights and the rest, which is 0, add up to 1."""
    before, now = float(chain.before[t]), float(chain.abar[t])
    s = (1 - before) / (1 - now)
    return s * y + (before - s * now) * y0

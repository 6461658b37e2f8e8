"""Noise schedules: discrete variance-preserving (VP) ones with respacing, and lists of noise levels for samplers.

Symbols: beta_i, alpha_i = 1 - beta_i, abar_i = alpha_0 ... alpha_i (Ho et al. 2020); sigma = sqrt((1 - abar) / abar),
the noise-to-signal ratio, which is the noise level of the variance-exploding (VE) view x_ve = x_vp / sqrt(abar).
All quantities are Python floats (float64) in tuples: no schedule value is rounded to float32 before it meets an image.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import mul

Floats = tuple[float, ...]


@dataclass(frozen=True)
class DiscreteVP:
    """Discrete VP schedule x_i = sqrt(abar_i) x_0 + sqrt(1 - abar_i) noise, i = 0 (least noise) ... steps - 1.

    betas : variance added by step i, each in (0, 1).
    times : index of step i in the schedule of the training, the network's time input; 0, 1, 2 ... if not respaced.
    Source: Ho et al. 2020, eqs. 2-7; Nichol and Dhariwal 2021, section 3.
    """

    betas: Floats
    times: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.betas or not all(0 < beta < 1 for beta in self.betas):
            raise ValueError("A VP schedule needs at least one beta, and every beta must lie between 0 and 1.")
        if len(self.times) != len(self.betas) or any(b <= a for a, b in zip(self.times, self.times[1:])):
            raise ValueError(
                f"A VP schedule of {len(self.betas)} betas needs as many rising time indices, not {len(self.times)}."
            )

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.betas)

    @cached_property
    def alpha_bar(self) -> Floats:
        """abar_i, strictly decreasing."""
        return tuple(accumulate((1 - beta for beta in self.betas), mul))

    @cached_property
    def alpha_bar_previous(self) -> Floats:
        """abar_{i-1}, with 1 (clean image) before the first step."""
        return (1.0, *self.alpha_bar[:-1])

    @cached_property
    def sigmas(self) -> Floats:
        """Noise-to-signal ratio sqrt((1 - abar_i) / abar_i), strictly increasing in i."""
        return tuple(sigma_of_alpha_bar(abar) for abar in self.alpha_bar)

    @cached_property
    def snr(self) -> Floats:
        """Signal-to-noise ratio abar_i / (1 - abar_i), a ratio of variances."""
        return tuple(abar / (1 - abar) for abar in self.alpha_bar)

    @cached_property
    def posterior_variance(self) -> Floats:
        """Variance of q(x_{i-1} | x_i, x_0), Ho et al. 2020 eq. 7; 0 at i = 0, where x_{-1} is the clean image."""
        rows = zip(self.betas, self.alpha_bar, self.alpha_bar_previous)
        return tuple(beta * (1 - before) / (1 - abar) for beta, abar, before in rows)

    @cached_property
    def posterior_log_variance_clipped(self) -> Floats:
        """log of `posterior_variance` with entry 0 := entry 1 (log 0 does not exist); of one step: log beta_0."""
        if self.steps == 1:
            return (math.log(self.betas[0]),)
        return tuple(math.log(v) for v in (self.posterior_variance[1], *self.posterior_variance[1:]))

    @cached_property
    def posterior_coefficients(self) -> tuple[tuple[float, float], ...]:
        """(c_x0, c_x) per step: the mean of q(x_{i-1} | x_i, x_0) is c_x0 x_0 + c_x x_i, Ho et al. 2020 eq. 7."""
        rows = zip(self.betas, self.alpha_bar, self.alpha_bar_previous)
        return tuple(
            (beta * math.sqrt(before) / (1 - abar), (1 - before) * math.sqrt(1 - beta) / (1 - abar))
            for beta, abar, before in rows
        )

    def descending_sigmas(self) -> Floats:
        """The noise levels as the samplers take them: from the last step to the first, then 0."""
        return (*reversed(self.sigmas), 0.0)

    def respaced(self, kept: Sequence[int]) -> DiscreteVP:
        """The schedule of the chosen steps only: beta'_k = 1 - abar_{kept_k} / abar_{kept_{k-1}}.

        kept : increasing step numbers of this schedule, for instance from `section_indices`."""
        if not kept or kept[0] < 0 or kept[-1] >= self.steps or any(b <= a for a, b in zip(kept, kept[1:])):
            raise ValueError(f"The kept steps must increase and lie in 0 ... {self.steps - 1}; found {list(kept)}.")
        abar = [self.alpha_bar[i] for i in kept]
        betas = tuple(1 - now / before for now, before in zip(abar, (1.0, *abar)))
        return DiscreteVP(betas, tuple(self.times[i] for i in kept))

    def position_of_sigma(self, sigma: float) -> float:
        """Step number at a noise level > 0, linear in log sigma between the steps; the first or last step outside."""
        upper = bisect_left(self.sigmas, sigma)
        if upper == 0 or upper == self.steps:
            return float(min(upper, self.steps - 1))
        low, high = math.log(self.sigmas[upper - 1]), math.log(self.sigmas[upper])
        return upper - 1 + (math.log(sigma) - low) / (high - low)

    def time_of_sigma(self, sigma: float) -> float:
        """Time index that the network expects at a noise level > 0, interpolated like `position_of_sigma`."""
        position = self.position_of_sigma(sigma)
        step = min(int(position), self.steps - 2) if self.steps > 1 else 0
        step_times = self.times[step : step + 2]
        return step_times[0] + (position - step) * (step_times[-1] - step_times[0])


def linear_vp(first: float = 1e-4, last: float = 2e-2, steps: int = 1000) -> DiscreteVP:
    """VP schedule with linear betas from `first` to `last`, both included (Ho et al. 2020, section 4)."""
    stride = (last - first) / max(steps - 1, 1)
    return DiscreteVP(tuple(first + i * stride for i in range(steps)), tuple(range(steps)))


def cosine_vp(steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> DiscreteVP:
    """Cosine VP schedule (Nichol and Dhariwal 2021, eq. 17): abar(u) ~ cos^2((u + offset) / (1 + offset) pi / 2).

    Step i takes u from i / steps to (i + 1) / steps; betas are cut at `beta_max`, and abar is derived from them."""

    def level(step: int) -> float:
        return math.cos((step / steps + offset) / (1 + offset) * math.pi / 2) ** 2

    betas = tuple(min(1 - level(i + 1) / level(i), beta_max) for i in range(steps))
    return DiscreteVP(betas, tuple(range(steps)))


def section_indices(steps: int, counts: Sequence[int]) -> tuple[int, ...]:
    """Steps that respacing keeps: `steps` cut into len(counts) sections, counts[s] indices spread over section s.

    Section sizes differ by at most one, the longer ones first. In a section of `size` steps the stride is
    (size - 1) / (count - 1) and index k is start + round(k * stride), rounded half to even; count 1 keeps the first."""
    if not counts:
        raise ValueError("Respacing needs at least one section.")
    size, longer = divmod(steps, len(counts))
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (section < longer)
        if not 1 <= count <= length:
            raise ValueError(f"Section {section} has {length} steps; {count} of them cannot be kept.")
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        kept += [start + round(k * stride) for k in range(count)]
        start += length
    return tuple(kept)


@dataclass(frozen=True)
class GeometricVE:
    """VE noise levels with a constant ratio between neighbours (Song et al. 2021, app. C), in units of the image."""

    sigma_min: float
    sigma_max: float
    steps: int

    def sigmas(self) -> Floats:
        """`steps` levels from sigma_max down to sigma_min, then 0."""
        low, high = self.sigma_min, self.sigma_max
        return _descending(self.steps, low, high, lambda f: high * (low / high) ** f)


@dataclass(frozen=True)
class Karras:
    """Noise levels of EDM (Karras et al. 2022, eq. 5): sigma^(1/rho) is spaced evenly; in units of the image."""

    sigma_min: float
    sigma_max: float
    steps: int
    rho: float = 7.0

    def sigmas(self) -> Floats:
        """`steps` levels from sigma_max down to sigma_min, then 0."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return _descending(self.steps, self.sigma_min, self.sigma_max, lambda f: (high + f * (low - high)) ** self.rho)


def _descending(steps: int, sigma_min: float, sigma_max: float, level: Callable[[float], float]) -> Floats:
    """Levels level(0) ... level(1), then 0; the ends are the given numbers themselves, not rounded copies."""
    if steps < 1 or not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"Noise levels need steps >= 1 and 0 < sigma_min < sigma_max; found {steps}, {sigma_min}, {sigma_max}."
        )
    inner = tuple(level(k / (steps - 1)) for k in range(1, steps - 1))
    return (sigma_max, *inner, *((sigma_min,) if steps > 1 else ()), 0.0)


def truncated(sigmas: Sequence[float], start: float) -> Floats:
    """The levels of `sigmas` below `start`, preceded by `start` itself: for sampling from a noised first guess."""
    if start <= 0:
        raise ValueError(f"A truncated start needs a noise level above 0; found {start}.")
    return (float(start), *(sigma for sigma in sigmas if sigma < start))


def sigma_of_alpha_bar(alpha_bar: float) -> float:
    """Noise-to-signal ratio of abar in (0, 1]."""
    return math.sqrt((1 - alpha_bar) / alpha_bar)


def alpha_bar_of_sigma(sigma: float) -> float:
    """abar in (0, 1] of a noise-to-signal ratio >= 0."""
    return 1 / (1 + sigma * sigma)

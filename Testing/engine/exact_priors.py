"""Priors with closed-form denoisers, posteriors and probability flows, and counting noise for the samplers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """N(mean, variance) per pixel."""

    mean: float = 0.7
    variance: float = 0.3

    def denoise(self, x: Tensor, sigma: float, cond=None) -> Tensor:
        """E[x_0 | x]."""
        return (self.variance * x + sigma**2 * self.mean) / (self.variance + sigma**2)

    def flow(self, x: Tensor, s: float, t: float) -> Tensor:
        """Exact probability-flow ODE from level s to t: the standardised value is constant."""
        return self.mean + math.sqrt((self.variance + t**2) / (self.variance + s**2)) * (x - self.mean)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        z = torch.randn(shape, generator=generator, dtype=torch.float64)
        return self.mean + math.sqrt(self.variance) * z


@dataclass(frozen=True)
class Mixture:
    """Two Gaussians per pixel."""

    shares: tuple[float, float] = (0.3, 0.7)
    means: tuple[float, float] = (-1.0, 0.8)
    deviations: tuple[float, float] = (0.25, 0.4)

    @property
    def mean(self) -> float:
        return sum(w * m for w, m in zip(self.shares, self.means))

    @property
    def variance(self) -> float:
        second = sum(w * (m**2 + d**2) for w, m, d in zip(self.shares, self.means, self.deviations))
        return second - self.mean**2

    @property
    def fourth(self) -> float:
        """Fourth central moment, for the standard error of a sample variance."""
        pairs = [(w, m - self.mean, d**2) for w, m, d in zip(self.shares, self.means, self.deviations)]
        return sum(w * (m**4 + 6 * m**2 * v + 3 * v**2) for w, m, v in pairs)

    def denoise(self, x: Tensor, sigma: float, cond=None) -> Tensor:
        """E[x_0 | x]: component means weighted by their responsibilities."""
        rows = [(w, m, d**2, d**2 + sigma**2) for w, m, d in zip(self.shares, self.means, self.deviations)]
        logs = [math.log(w) - 0.5 * math.log(total) - (x - m) ** 2 / (2 * total) for w, m, _, total in rows]
        parts = torch.stack([(v * x + sigma**2 * m) / total for _, m, v, total in rows])
        return (torch.softmax(torch.stack(logs), 0) * parts).sum(0)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        first = torch.rand(shape, generator=generator, dtype=torch.float64) < self.shares[0]
        z = torch.randn(shape, generator=generator, dtype=torch.float64)
        a, b = (m + d * z for m, d in zip(self.means, self.deviations))
        return torch.where(first, a, b)


@dataclass(frozen=True)
class CorrelatedGaussian:
    """N(mean, covariance) over the last dimension of x [B, n]."""

    mean: Tensor
    covariance: Tensor

    def denoise(self, x: Tensor, sigma: float, cond=None) -> Tensor:
        """E[x_0 | x] = mean + C (C + sigma^2)^-1 (x - mean)."""
        total = self.covariance + sigma**2 * torch.eye(len(self.mean), dtype=x.dtype)
        return self.mean + (x - self.mean) @ torch.linalg.solve(total, self.covariance)

    def conditional(self, known: list[int], values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the other entries given those listed."""
        rest = [i for i in range(len(self.mean)) if i not in known]
        c = self.covariance
        gain = torch.linalg.solve(c[known][:, known], c[known][:, rest]).T
        return self.mean[rest] + gain @ (values - self.mean[known]), c[rest][:, rest] - gain @ c[known][:, rest]


@dataclass
class CountedNoise:
    """noise(k): unit Gaussian of `shape`, keyed by (seed, k, item); remembers which k were drawn."""

    shape: tuple[int, ...]
    seed: int = 5
    dtype: torch.dtype = torch.float64
    per_item: bool = False
    drawn: list[int] = field(default_factory=list)

    def __call__(self, k: int) -> Tensor:
        self.drawn.append(k)
        if not self.per_item:
            return self._draw(self.shape, 0, k)
        return torch.stack([self._draw(self.shape[1:], item, k) for item in range(self.shape[0])])

    def _draw(self, shape: tuple[int, ...], item: int, k: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed * 1000 + item) * 1_000_003 + k)
        return torch.randn(shape, generator=generator, dtype=self.dtype)


def check_moments(x: Tensor, mean: float, variance: float, fourth: float | None = None) -> None:
    """Sample mean and variance within 3 standard errors of the closed form (fourth moment 3 v^2 unless given)."""
    n = x.numel()
    fourth = 3 * variance**2 if fourth is None else fourth
    assert abs(float(x.mean()) - mean) <= 3 * math.sqrt(variance / n), (float(x.mean()), mean)
    assert abs(float(x.var()) - variance) <= 3 * math.sqrt((fourth - variance**2) / n), (float(x.var()), variance)

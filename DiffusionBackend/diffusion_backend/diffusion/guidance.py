"""Wrappers that turn a prior's denoiser into a conditional one: data consistency and classifier-free guidance.

Each takes `denoise(x, sigma, cond) -> x0_hat` (variance-exploding view) and returns a function of the same form, so
that every sampler of samplers.py serves every inverse problem y = A x_0 + noise. An operator A has `forward(x)` and
`adjoint(y)` (exact transpose) on batched tensors, first dimension = item; y is in the units of forward(x).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

Conditions = Mapping[str, Tensor] | None
Denoise = Callable[[Tensor, float, Any], Tensor]
Weight = Callable[[float], float]


class LinearOperator(Protocol):
    """A linear map and its exact transpose, batched over the first dimension."""

    def forward(self, x: Tensor, /) -> Tensor: ...

    def adjoint(self, y: Tensor, /) -> Tensor: ...


def conjugate_gradient(
    normal: Callable[[Tensor], Tensor], b: Tensor, x: Tensor, iterations: int, tolerance: float = 0.0
) -> Tensor:
    """Solves normal(x) = b for a symmetric positive definite `normal`, each item of the batch [B, ...] for itself.

    x : start. An item whose residual is at most `tolerance` times |b| stays as it is: the number of iterations is
    fixed, so that no value has to leave the device. Source: Hestenes and Stiefel 1952."""

    def dot(a: Tensor, c: Tensor) -> Tensor:
        return (a * c).flatten(1).sum(1).view(-1, *[1] * (a.ndim - 1))

    residual = b - normal(x)
    direction = residual
    power = dot(residual, residual)
    limit = tolerance**2 * dot(b, b)
    for _ in range(iterations):
        active = power > limit
        image = normal(direction)
        curvature = dot(direction, image)
        step = torch.where(active & (curvature > 0), power / curvature, 0.0)
        x = x + step * direction
        residual = residual - step * image
        before, power = power, dot(residual, residual)
        direction = residual + torch.where(active, power / before, 0.0) * direction
    return x


def prox(operator: LinearOperator, y: Tensor, x0: Tensor, weight: float, iterations: int) -> Tensor:
    """argmin over z of weight |A z - y|^2 + |z - x0|^2, by conjugate gradients from x0.

    weight : ratio of variances (uncertainty of x0 / noise of y), in units of x0^2 / y^2."""
    right = x0 + weight * operator.adjoint(y)
    return conjugate_gradient(lambda z: z + weight * operator.adjoint(operator.forward(z)), right, x0, iterations)


def proximal(denoise: Denoise, operator: LinearOperator, y: Tensor, weight: Weight, iterations: int = 10) -> Denoise:
    """x0_hat -> prox of the data at x0_hat with weight(sigma).

    `posterior_weight` makes it the exact conditional mean for an isotropic Gaussian prior (pseudo-inverse guidance,
    Song et al. 2023), `diffpir_weight` makes it DiffPIR, a constant makes it DDS (`dds`).
    Calls: network 1, A iterations + 1, A^T iterations + 2."""
    return lambda x, sigma, cond=None: prox(operator, y, denoise(x, sigma, cond), weight(sigma), iterations)


def posterior_weight(noise_std: float, prior_std: float) -> Weight:
    """r^2 / noise_std^2 with r^2 = sigma^2 prior_std^2 / (sigma^2 + prior_std^2), the variance of x_0 given x for a
    Gaussian prior of deviation prior_std (Song et al. 2023, "Pseudoinverse-guided diffusion models", section 3.2)."""
    return lambda sigma: 1 / (1 / sigma**2 + 1 / prior_std**2) / noise_std**2


def diffpir_weight(noise_std: float, strength: float = 1.0) -> Weight:
    """1 / rho with rho = strength noise_std^2 / sigma^2 (Zhu et al. 2023, eq. 13, lambda = strength); run it with
    `samplers.renoise(zeta=...)`."""
    return lambda sigma: sigma**2 / (strength * noise_std**2)


def dds(denoise: Denoise, operator: LinearOperator, y: Tensor, gamma: float = 5.0, iterations: int = 5) -> Denoise:
    """Decomposed diffusion sampling (Chung et al. 2024, algorithm 2): a few conjugate-gradient steps from x0_hat on
    gamma |A z - y|^2 + |z - x0_hat|^2; published with DDIM, eta 0.85."""
    return proximal(denoise, operator, y, lambda sigma: gamma, iterations)


def replacement(denoise: Denoise, operator: LinearOperator, y: Tensor) -> Denoise:
    """x0_hat + A^T (y - A x0_hat): puts the data into the estimate, for operators with A A^T = 1 on measured entries
    (masked unitary Fourier transform, masking, orthogonal wavelets; Song et al. 2022, "Solving inverse problems")."""

    def conditional(x: Tensor, sigma: float, cond: Conditions = None) -> Tensor:
        x0 = denoise(x, sigma, cond)
        return x0 + operator.adjoint(y - operator.forward(x0))

    return conditional


def masked(denoise: Denoise, mask: Tensor, known: Tensor) -> Denoise:
    """x0_hat with the `known` values where mask is 1 (channel or region replacement); both broadcastable to x."""
    return lambda x, sigma, cond=None: torch.where(mask > 0, known.to(x.dtype), denoise(x, sigma, cond))


def dps(denoise: Denoise, operator: LinearOperator, y: Tensor, weight: Weight, *, by_norm: bool = False) -> Denoise:
    """Diffusion posterior sampling (Chung et al. 2023, eq. 16), the gradient taken through the network:
    x0_hat - sigma^2 weight(sigma) grad_x |y - A x0_hat(x)|^2 / 2.

    weight : 1 / variance of y - A x0_hat: 1 / noise_std^2 is the paper's likelihood; 1 / (noise_std^2 + r^2), r^2 as in
    `posterior_weight`, is exact for a Gaussian prior and A A^T = 1. by_norm divides by |y - A x0_hat| of the item as
    the paper's experiments do; its step zeta then is weight(s) s^2 (1 - t / s) / 2 for a DDIM step from s to t.
    Network calls: 1, with its backward pass; `denoise` must not switch gradients off."""

    def conditional(x: Tensor, sigma: float, cond: Conditions = None) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0 = denoise(x, sigma, cond)
            if not x0.requires_grad:
                raise ValueError("DPS needs a denoiser that keeps gradients; remove torch.no_grad from it.")
            residual = (y - operator.forward(x0)).flatten(1)
            distance = residual.norm(dim=1) if by_norm else 0.5 * residual.square().sum(1)
            (gradient,) = torch.autograd.grad(distance.sum(), x)
        return x0.detach() - sigma**2 * weight(sigma) * gradient

    return conditional


def classifier_free(denoise: Denoise, null: Conditions, scale: float) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6): u + scale (c - u), c with `cond`, u with `null`.

    scale : 1 + w of the paper; 1 = conditional, 0 = unconditional (1 network call each), otherwise 2 network calls."""

    def guided(x: Tensor, sigma: float, cond: Conditions = None) -> Tensor:
        if scale == 1:
            return denoise(x, sigma, cond)
        free = denoise(x, sigma, null)
        return free if scale == 0 else free + scale * (denoise(x, sigma, cond) - free)

    return guided

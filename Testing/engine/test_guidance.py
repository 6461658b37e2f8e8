"""Guidance against the closed-form posterior of linear-Gaussian problems y = A x_0 + noise."""

from __future__ import annotations

import math

import pytest
import torch
from exact_priors import CountedNoise, Gaussian, check_moments

from diffusion_backend.diffusion import guidance as g
from diffusion_backend.diffusion import samplers as s
from diffusion_backend.diffusion.schedules import Karras

VARIANCE, NOISE = 0.5, 0.3
PRIOR = Gaussian(0.0, VARIANCE)


class Matrix:
    """A dense operator x [B, n] -> y [B, m]."""

    def __init__(self, a: torch.Tensor):
        self.a, self.calls = a, 0

    def forward(self, x):
        self.calls += 1
        return x @ self.a.T

    def adjoint(self, y):
        return y @ self.a


def random(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(rows=3, columns=4, orthonormal=False):
    a = random((rows, columns), 1)
    if orthonormal:
        a = torch.linalg.qr(a.T)[0].T
    operator = Matrix(a)
    y = operator.forward(random((1, columns), 2) * math.sqrt(VARIANCE)) + NOISE * random((1, rows), 3)
    information = a.T @ a / NOISE**2
    precision = information + torch.eye(columns, dtype=torch.float64) / VARIANCE
    covariance = torch.linalg.inv(precision)
    return operator, y, covariance @ (a.T @ y[0]) / NOISE**2, covariance


def conditional_mean(operator, y, x, sigma):
    """E[x_0 | x, y] of the Gaussian prior: data at NOISE, state at sigma."""
    n = operator.a.shape[1]
    precision = operator.a.T @ operator.a / NOISE**2 + (1 / VARIANCE + 1 / sigma**2) * torch.eye(n, dtype=x.dtype)
    return torch.linalg.solve(precision, (x / sigma**2 + operator.adjoint(y) / NOISE**2).T).T


def test_conjugate_gradient_solves_every_item_for_itself_and_stops_where_it_is_good():
    a = random((6, 6))
    matrix = a @ a.T + torch.eye(6, dtype=torch.float64)
    b = torch.stack([random(6, 1), 1e6 * random(6, 2), torch.zeros(6, dtype=torch.float64)])
    x = g.conjugate_gradient(lambda v: v @ matrix, b, torch.zeros_like(b), 6)
    assert torch.allclose(x, torch.linalg.solve(matrix, b.T).T, rtol=1e-8)
    few = [g.conjugate_gradient(lambda v: v @ matrix, b[k], torch.zeros_like(b[k]), 3) for k in ([0, 1], [0], [1])]
    assert torch.allclose(few[0], torch.cat(few[1:]), rtol=1e-12)          # not yet converged, and still item by item
    start = random((3, 6), 4)
    assert torch.equal(g.conjugate_gradient(lambda v: v @ matrix, b, start, 5, tolerance=1e9)[:2], start[:2])


def test_residual_of_a_consistent_system_falls_below_1e_5():
    a = random((20, 12))
    right = a.T @ (a @ random(12, 5))
    x = g.conjugate_gradient(lambda v: v @ (a.T @ a), right[None], torch.zeros(1, 12, dtype=torch.float64), 12)
    assert (x[0] @ (a.T @ a) - right).norm() < 1e-5 * right.norm()


def test_prox_minimises_its_objective():
    operator, y, _, _ = problem()
    x0 = random((2, 4), 7)
    z = g.prox(operator, y, x0, 2.5, 8).requires_grad_()
    objective = 2.5 * (operator.forward(z) - y).square().sum() + (z - x0).square().sum()
    (gradient,) = torch.autograd.grad(objective, z)
    assert gradient.abs().max() < 1e-10


def test_prox_with_posterior_weight_is_the_exact_conditional_mean():
    operator, y, _, _ = problem()
    x, sigma = random((5, 4), 6), 0.8
    weight = g.posterior_weight(NOISE, math.sqrt(VARIANCE))
    guided = g.proximal(PRIOR.denoise, operator, y, weight, 8)(x, sigma)
    assert torch.allclose(guided, conditional_mean(operator, y, x, sigma), rtol=1e-10)


def test_sampling_with_the_exact_conditional_mean_gives_the_posterior():
    """At 3 standard errors; the step error of 1000 ancestral levels is -0.9 % of the variance, 0.4 standard errors."""
    operator, y, mean, covariance = problem()
    noise, sigmas = CountedNoise((4000, 4)), Karras(0.005, 20.0, 1000).sigmas()
    guided = g.proximal(PRIOR.denoise, operator, y, g.posterior_weight(NOISE, math.sqrt(VARIANCE)), 6)
    out = s.ddim(guided, sigmas[0] * noise(0), sigmas, eta=1.0, noise=noise)
    for k in range(4):
        check_moments(out[:, k], float(mean[k]), float(covariance[k, k]))


def affine(sampler, columns=4):
    """Mean and covariance of a deterministic sampler with a linear denoiser, without sampling error: it maps the start
    N(0, sigma_0^2) by x -> mean + x M, so the images of 0 and of the unit vectors say all."""
    x = torch.cat([torch.zeros(1, columns, dtype=torch.float64), torch.eye(columns, dtype=torch.float64)])
    out = sampler(x)
    m = out[1:] - out[0]
    return out[0], m.T @ m


LEVELS = Karras(0.002, 2000.0, 400).sigmas()          # the start at 0 instead of the mean costs mean * spread / 2000


def test_flow_of_the_exact_conditional_mean_ends_in_the_posterior():
    """Prox with the posterior weight, and DPS with its exact variance where A A^T = 1: mean and covariance, any A."""
    operator, y, mean, covariance = problem()
    guided = g.proximal(PRIOR.denoise, operator, y, g.posterior_weight(NOISE, math.sqrt(VARIANCE)), 6)
    found = affine(lambda x: s.heun(guided, LEVELS[0] * x, LEVELS))
    assert torch.allclose(found[0], mean, atol=1e-3) and torch.allclose(found[1], covariance, atol=1e-3)

    operator, y, mean, covariance = problem(orthonormal=True)
    guided = g.dps(PRIOR.denoise, operator, y, lambda s: 1 / (NOISE**2 + 1 / (1 / s**2 + 1 / VARIANCE)))
    found = affine(lambda x: s.heun(guided, LEVELS[0] * x, LEVELS))
    assert torch.allclose(found[0], mean, atol=1e-3) and torch.allclose(found[1], covariance, atol=1e-3)


def test_diffpir_ends_in_the_posterior_mean():
    """Half-quadratic splitting with falling sigma is a descent on the posterior's energy; zero draws give its mean."""
    operator, y, mean, _ = problem()
    guided = g.proximal(PRIOR.denoise, operator, y, g.diffpir_weight(NOISE), 6)
    errors = []
    for steps in (100, 400):
        sigmas = Karras(0.02, 20.0, steps).sigmas()
        out = s.renoise(guided, torch.zeros(1, 4, dtype=torch.float64), sigmas, noise=lambda k: torch.zeros(1, 4))
        errors.append(float((out[0] - mean).abs().max()))
    assert errors[1] < 0.01 and errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("wrapper", ["dds", "replacement"])
def test_hard_data_consistency_ends_in_the_posterior_of_exact_data(wrapper):
    """Without noise in y: A x = y exactly, the mean is A^+ y, and the null space keeps the prior's spread."""
    operator, y, _, _ = problem(orthonormal=True)
    guided = g.replacement(PRIOR.denoise, operator, y)
    if wrapper == "dds":
        guided = g.dds(PRIOR.denoise, operator, y, gamma=1e6)
    mean, covariance = affine(lambda x: s.heun(guided, LEVELS[0] * x, LEVELS))
    null = torch.eye(4, dtype=torch.float64) - operator.a.T @ operator.a
    assert torch.allclose(mean, operator.adjoint(y)[0], atol=1e-4)
    assert torch.allclose(covariance, VARIANCE * null, atol=1e-3)


def test_classifier_free_guidance_of_gaussians_shifts_the_mean():
    """Equal spreads, means 0 and m: the guided denoiser is that of N(scale m, variance)."""

    def denoise(x, sigma, cond):
        return Gaussian(0.6 if cond else 0.0, VARIANCE).denoise(x, sigma)

    guided = g.classifier_free(denoise, {}, 2.5)
    mean, covariance = affine(lambda x: s.heun(guided, LEVELS[0] * x, LEVELS, cond={"class": torch.ones(1)}))
    assert torch.allclose(mean, torch.full_like(mean, 1.5), atol=1e-3)
    assert torch.allclose(covariance, VARIANCE * torch.eye(4, dtype=torch.float64), atol=1e-3)


def test_diffpir_and_dds_are_this_prox_with_their_weights():
    operator, y, _, _ = problem()
    x, sigma = random((2, 4), 6), 0.8
    rho = 0.7 * NOISE**2 / sigma**2
    pir = g.proximal(PRIOR.denoise, operator, y, g.diffpir_weight(NOISE, 0.7), 8)(x, sigma)
    x0 = PRIOR.denoise(x, sigma)
    assert torch.allclose(pir, g.prox(operator, y, x0, 1 / rho, 8))
    dds = g.dds(PRIOR.denoise, operator, y, gamma=5.0, iterations=8)(x, sigma)
    matrix = 5.0 * operator.a.T @ operator.a + torch.eye(4, dtype=torch.float64)
    assert torch.allclose(dds, torch.linalg.solve(matrix, (x0 + 5.0 * operator.adjoint(y)).T).T, rtol=1e-10)


def test_calls_of_a_prox_are_the_documented_ones():
    operator, y, _, _ = problem()
    operator.calls = 0
    g.proximal(PRIOR.denoise, operator, y, lambda sigma: 1.0, 5)(random((2, 4)), 1.0)
    assert operator.calls == 6


def test_replacement_puts_the_data_into_the_estimate():
    operator, y, _, _ = problem(orthonormal=True)
    guided = g.replacement(PRIOR.denoise, operator, y)(random((2, 4), 6), 0.8)
    assert torch.allclose(operator.forward(guided), y.expand(2, -1), atol=1e-12)
    x0 = PRIOR.denoise(random((2, 4), 6), 0.8)
    null = torch.eye(4, dtype=torch.float64) - operator.a.T @ operator.a
    assert torch.allclose(guided @ null, x0 @ null, atol=1e-12)


def test_masked_keeps_known_values_alone():
    mask, known = torch.tensor([1.0, 0, 0, 1]), torch.tensor([7.0, 7, 7, 7])
    x = random((2, 4))
    out = g.masked(PRIOR.denoise, mask, known)(x, 1.0)
    assert torch.equal(out[:, [0, 3]], torch.full((2, 2), 7.0, dtype=torch.float64))
    assert torch.equal(out[:, [1, 2]], PRIOR.denoise(x, 1.0)[:, [1, 2]])


def test_dps_is_the_gradient_of_the_likelihood_through_the_denoiser():
    operator, y, _, _ = problem()
    x, sigma = random((3, 4), 6), 0.8
    guided = g.dps(PRIOR.denoise, operator, y, lambda _: 1 / NOISE**2)(x, sigma)
    shrink = VARIANCE / (VARIANCE + sigma**2)
    x0 = shrink * x
    gradient = shrink * operator.adjoint(operator.forward(x0) - y) / NOISE**2
    assert torch.allclose(guided, x0 - sigma**2 * gradient, rtol=1e-12)


def test_dps_with_the_exact_variance_is_the_conditional_mean_where_rows_are_orthonormal():
    operator, y, _, _ = problem(orthonormal=True)
    x, sigma = random((3, 4), 6), 0.8
    spread = 1 / (1 / sigma**2 + 1 / VARIANCE)
    guided = g.dps(PRIOR.denoise, operator, y, lambda _: 1 / (NOISE**2 + spread))(x, sigma)
    assert torch.allclose(guided, conditional_mean(operator, y, x, sigma), rtol=1e-10)


def test_dps_by_norm_divides_by_the_distance_of_the_item():
    operator, y, _, _ = problem()
    x, sigma = random((3, 4), 6), 0.8
    plain = PRIOR.denoise(x, sigma)
    square = g.dps(PRIOR.denoise, operator, y, lambda _: 1.0)(x, sigma) - plain
    norm = g.dps(PRIOR.denoise, operator, y, lambda _: 1.0, by_norm=True)(x, sigma) - plain
    distance = (y - operator.forward(plain)).norm(dim=1, keepdim=True)
    assert torch.allclose(norm * distance, square, rtol=1e-10)


def test_dps_says_when_the_denoiser_drops_gradients():
    operator, y, _, _ = problem()
    with pytest.raises(ValueError, match="keeps gradients"):
        g.dps(lambda x, sigma, cond: x.detach(), operator, y, lambda _: 1.0)(random((1, 4)), 1.0)


def test_classifier_free_guidance_is_the_published_combination_with_its_calls():
    calls = []

    def denoise(x, sigma, cond):
        calls.append(cond)
        return x + (1.0 if cond == "text" else 0.25)

    x = torch.zeros(1, 1)
    assert float(g.classifier_free(denoise, "none", 3.0)(x, 1.0, "text")) == pytest.approx(0.25 + 3 * 0.75)
    assert calls == ["none", "text"]
    calls.clear()
    assert float(g.classifier_free(denoise, "none", 1.0)(x, 1.0, "text")) == 1.0 and calls == ["text"]
    calls.clear()
    assert float(g.classifier_free(denoise, "none", 0.0)(x, 1.0, "text")) == 0.25 and calls == ["none"]

"""SIRT, CGLS and TV against dense algebra, an independent optimiser and their own long runs."""

from __future__ import annotations

import ct_phantoms
import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from diffusion_backend.errors import Cancelled
from diffusion_backend.physics.ct import Geometry, ImageGrid, projector
from diffusion_backend.physics.reconstruct import cgls, fbp, gradient, gradient_adjoint, sirt, total_variation, tv

GRID = ImageGrid(20, 24, 5.0)
COARSE = ImageGrid(12, 12, 9.0)
GEOMETRY = Geometry("fan-flat", tuple(np.arange(15) * 24.0), 41, 8.0, 0.5, 300.0, 500.0)


def problem(noise: float = 0.02, slices: int = 2) -> tuple:
    """Operator, dense matrix, noisy sinograms, weights (inverse variances, uneven), true images; all float64."""
    op = projector(GEOMETRY, GRID, torch.float64)
    n = GRID.rows * GRID.columns
    dense = op.forward(torch.eye(n, dtype=torch.float64).view(n, GRID.rows, GRID.columns)).reshape(n, -1).T
    x = torch.stack([ct_phantoms.image(GRID, ct_phantoms.ELLIPSES, r) for r in (50.0, 35.0)])[:slices]
    g = torch.Generator().manual_seed(0)
    variance = noise**2 * (0.2 + 2 * torch.rand(slices, 15, 41, generator=g, dtype=torch.float64))
    y = op.forward(x) + variance.sqrt() * torch.randn(variance.shape, generator=g, dtype=torch.float64)
    return op, dense, y, 1 / variance, x


def test_cgls_equals_dense_weighted_least_squares():
    op, dense, y, w, _ = problem()
    start = torch.full((2, GRID.rows, GRID.columns), 0.01, dtype=torch.float64)
    damping = 2e4
    found = cgls(y, op, iterations=400, weights=w, damping=damping, x0=start)
    for i in range(2):
        matrix = dense.T @ (w[i].reshape(-1, 1) * dense) + damping * torch.eye(dense.shape[1], dtype=torch.float64)
        right = dense.T @ (w[i] * y[i]).flatten() + damping * start[i].flatten()
        expected = torch.linalg.solve(matrix, right).view_as(found[i])
        assert (found[i] - expected).abs().max() < 1e-8


def test_cgls_solves_a_consistent_system():
    op = projector(GEOMETRY, COARSE)
    y = op.forward(ct_phantoms.image(COARSE, ct_phantoms.ELLIPSES, 45.0).float())
    found = cgls(y, op, iterations=100)
    assert float((op.forward(found) - y).norm() / y.norm()) < 1e-5


def test_cgls_stops_each_slice_at_the_discrepancy():
    op, _, y, w, _ = problem()
    chi2 = [[], []]

    def note(_, x):
        for i, c in enumerate((w * (op.forward(x) - y) ** 2).mean((-2, -1)).tolist()):
            chi2[i].append(c)

    found = cgls(y, op, iterations=100, weights=w, chi2=1.0, on_step=note)
    reached = (w * (op.forward(found) - y) ** 2).mean((-2, -1))
    assert (reached <= 1.0).all() and len(chi2[0]) < 40
    for values in chi2:
        first = next(i for i, c in enumerate(values) if c <= 1)
        assert values[first:] == pytest.approx([values[first]] * (len(values) - first))
    single = cgls(y[1], op, iterations=100, weights=w[1], chi2=1.0)
    assert (single - found[1]).abs().max() < 1e-9


@pytest.mark.parametrize("weighted", [False, True])
def test_sirt_equals_its_dense_recursion(weighted):
    op, dense, y, w, _ = problem()
    found = sirt(y, op, iterations=7, weights=w if weighted else None)
    for i in range(2):
        length = dense.sum(1)
        wi = w[i].flatten() if weighted else torch.where(length > 0, 1 / length, 0.0)
        c = 1 / (dense.T @ (wi * length))
        x = torch.zeros(dense.shape[1], dtype=torch.float64)
        for _ in range(7):
            x = (x + c * (dense.T @ (wi * (y[i].flatten() - dense @ x)))).clamp(min=0)
        assert (found[i].flatten() - x).abs().max() < 1e-12


def test_sirt_descends_and_rests_at_the_least_squares():
    _, _, y, w, _ = problem()
    op = projector(GEOMETRY, COARSE, torch.float64)
    costs: list[float] = []
    sirt(y, op, iterations=200, weights=w, nonnegative=False,
         on_step=lambda _, x: costs.append(float((w * (op.forward(x) - y) ** 2).sum())))
    assert all(b < a for a, b in zip(costs, costs[1:])) and costs[-1] < 0.2 * costs[0]
    best = cgls(y, op, iterations=400, weights=w)
    moved = sirt(y, op, iterations=5, weights=w, x0=best, nonnegative=False)
    assert (moved - best).abs().max() < 1e-8


def test_gradient_and_its_transpose():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 7, generator=g, dtype=torch.float64)
    p = torch.randn(2, 2, 5, 7, generator=g, dtype=torch.float64)
    assert float((gradient(x) * p).sum()) == pytest.approx(float((x * gradient_adjoint(p)).sum()), rel=1e-12)
    step = torch.zeros(6, 8)
    step[:, 4:] = 2
    assert float(total_variation(step)) == 12 and float(total_variation(step.T)) == 12


def smooth_minimum(dense: torch.Tensor, y: torch.Tensor, w: torch.Tensor, strength: float) -> float:
    """Minimum of the TV objective by L-BFGS-B on gradients smoothed by 1e-6 (other algorithm, dense algebra)."""
    def cost(x: np.ndarray) -> tuple[float, np.ndarray]:
        v = torch.from_numpy(x).requires_grad_()
        r = dense @ v - y.flatten()
        d = gradient(v.view(GRID.rows, GRID.columns))
        value = 0.5 * (w.flatten() * r * r).sum() + strength * (d.pow(2).sum(0) + 1e-12).sqrt().sum()
        (slope,) = torch.autograd.grad(value, v)
        return float(value.detach()), slope.numpy()

    n = dense.shape[1]
    found = minimize(cost, np.full(n, 0.01), jac=True, method="L-BFGS-B", bounds=[(0, None)] * n,
                     options={"maxiter": 4000, "maxfun": 8000, "ftol": 1e-12, "gtol": 1e-9, "maxcor": 40})
    return float(found.fun)


@pytest.mark.parametrize("weighted,strength", [(True, 300.0), (True, 3000.0), (False, 1.0)])
def test_tv_reaches_the_minimum_of_another_optimiser(weighted, strength):
    op, dense, y, w, _ = problem()
    found = tv(y, op, strength, weights=w if weighted else None)
    w = w if weighted else torch.ones_like(y)
    cost = 0.5 * (w * (op.forward(found) - y) ** 2).sum((-2, -1)) + strength * total_variation(found)
    assert found.min() >= 0
    for i in range(2):
        assert float(cost[i]) < smooth_minimum(dense, y[i], w[i], strength) * (1 + 2e-3)


def test_tv_has_converged_after_its_default_steps():
    """30 noisy views of 96^2: the objective is within 1e-3 and the image within 5 HU of those of 3000 steps."""
    grid = ImageGrid(96, 96, 2.6)
    g = Geometry("fan-flat", tuple(np.arange(30) * 12.0), 200, 4.2, 0.0, 595.0, 1085.6)
    op = projector(g, grid)
    exact = ct_phantoms.line_integrals(g, ct_phantoms.ELLIPSES, 120.0).float()
    counts = torch.poisson(1e5 * (-exact).exp(), generator=torch.Generator().manual_seed(0)).clamp(min=1)
    y, strength = (1e5 / counts).log(), 300.0
    short, long = tv(y, op, strength, weights=counts), tv(y, op, strength, weights=counts, iterations=3000)

    def cost(x: torch.Tensor) -> float:
        return float(0.5 * (counts * (op.forward(x) - y) ** 2).double().sum() + strength * total_variation(x.double()))

    assert cost(short) < cost(long) * (1 + 1e-3)
    assert float((short - long).pow(2).mean().sqrt()) / 0.0192 * 1000 < 5


def test_iterative_methods_beat_fbp_from_few_views():
    grid = ImageGrid(96, 96, 2.6)
    g = Geometry("fan-flat", tuple(np.arange(30) * 12.0), 200, 4.2, 0.0, 595.0, 1085.6)
    op, truth = projector(g, grid), ct_phantoms.image(grid, ct_phantoms.ELLIPSES, 120.0).float()
    exact = op.forward(truth)
    counts = torch.poisson(1e5 * (-exact).exp(), generator=torch.Generator().manual_seed(0)).clamp(min=1)
    y = (1e5 / counts).log()
    images = {"tv": tv(y, op, 300.0, weights=counts, iterations=200), "sirt": sirt(y, op),
              "cgls": cgls(y, op, weights=counts, chi2=1.0), "fbp": fbp(y, g, grid)}
    error = {name: float((x - truth).norm()) for name, x in images.items()}
    assert error["tv"] < 0.6 * error["sirt"]
    assert error["sirt"] < 0.6 * error["fbp"] and error["cgls"] < 0.75 * error["fbp"]


def test_steps_are_reported_and_can_cancel():
    op, _, y, w, _ = problem()
    seen: list[int] = []

    def stop(i, x):
        assert x.shape == (2, GRID.rows, GRID.columns)
        seen.append(i)
        if i == 2:
            raise Cancelled

    for solve in (lambda: sirt(y, op, on_step=stop), lambda: cgls(y, op, on_step=stop),
                  lambda: tv(y, op, 1.0, weights=w, on_step=stop)):
        seen.clear()
        with pytest.raises(Cancelled):
            solve()
        assert seen == [0, 1, 2]


def test_an_empty_sinogram_gives_an_empty_image():
    op = projector(GEOMETRY, GRID)
    y = torch.zeros(15, 41)
    for found in (sirt(y, op, iterations=3), cgls(y, op, iterations=3), tv(y, op, 1.0, iterations=3)):
        assert torch.equal(found, torch.zeros(GRID.rows, GRID.columns))

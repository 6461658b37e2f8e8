"""A10: RePaint in the shadow with exact priors, what must stay as measured, periodic views, counts of the note."""

from __future__ import annotations

from types import SimpleNamespace

import head
import numpy as np
import pytest
import torch
from test_mar_methods import grid, out, run

from diffusion_backend import methods
from diffusion_backend.data import Segmentation, projections
from diffusion_backend.methods import a10_ddpm_mar as a10
from diffusion_backend.params import validate
from diffusion_backend.physics.ct import Geometry, hu_to_mu
from diffusion_backend.physics.metal import (
    Gaps,
    from_ratio,
    interpolate_linear,
    interpolate_normalised,
    nmar_prior,
    to_ratio,
    virtual_geometry,
)
from diffusion_backend.physics.plane import Plane, Scanner

VIEWS, BINS = 96, 97
SMALL = {"views": VIEWS, "bins": BINS}


@pytest.fixture(scope="module")
def measured():
    """Clean projections of a head whose metal is then claimed by a mask: what the shadow really holds is known."""
    clean = head.hu(slices=1, size=64, metal=False)
    ct = grid(clean, spacing=(3.0, 3.0, 3.0))
    plane = Plane.of((64, 64), (3.0, 3.0))
    scanner = Scanner(virtual_geometry(plane.grid, VIEWS, BINS), plane.grid, "cpu", 1)
    mask = np.zeros(clean.shape, np.uint8)
    mask[0, 30:35, 20:24] = 1
    metal = torch.from_numpy(mask > 0)
    sinogram, trace = scanner.project(hu_to_mu(torch.from_numpy(clean))), scanner.trace(metal)
    prior = scanner.project(nmar_prior(scanner.reconstruct(interpolate_linear(sinogram, trace)), metal, keep_lung=True))
    spoilt = sinogram + 2.0 * trace
    inputs = {"metal": Segmentation(mask, ct.geometry, {"metal": 1}),
              "sinogram": projections(spoilt.numpy(), scanner.geometry.to_dict(), ct.geometry)}
    return SimpleNamespace(ct=ct, inputs=inputs, clean=sinogram, spoilt=spoilt, trace=trace, prior=prior, mask=metal)


def exact(measured):
    """A prior that knows the true ratio on the part of the sinogram that it is asked for."""
    ratio = to_ratio(measured.clean, measured.prior)[0]

    def denoise(x, sigma, cond=None):
        if x.shape[-1] != measured.band.stop - measured.band.start:
            return x  # the plan's trial call
        inner = x.shape[-2] - 2 * min(a10.CONTEXT, VIEWS)
        views = torch.arange(-(x.shape[-2] - inner) // 2, inner + (x.shape[-2] - inner) // 2) % VIEWS
        return ratio[views][:, measured.band].expand_as(x)

    hit = measured.trace.any(1)[0].nonzero().flatten()
    measured.band = slice(max(0, int(hit[0]) - a10.CONTEXT), min(BINS, int(hit[-1]) + 1 + a10.CONTEXT))
    return denoise


@pytest.mark.parametrize(("steps", "repeats", "jump"), [(10, 2, 3), (25, 1, 5), (7, 3, 2)])
@pytest.mark.parametrize("start", ["nmar", "noise"])
def test_exact_prior_restores_the_shadow_and_measured_rays_stay(measured, steps, repeats, jump, start):
    """Note, checks 3 and trap 5."""
    result = run("a10", measured.ct, prior=exact(measured), inputs=measured.inputs, steps=steps, repeats=repeats,
                 jump=jump, start=start, edge=0, keep_sinogram=True)  # fmt: skip
    completed, trace = torch.from_numpy(out(result, "completed")), measured.trace
    assert trace.float().mean() > 0.03
    assert torch.equal(completed[~trace], measured.spoilt[~trace])
    assert (completed - measured.clean)[trace].abs().max() < 1e-3 * measured.clean.max()
    p = validate(methods.load("a10").METHOD.parameters, {"steps": steps, "repeats": repeats, "jump": jump})
    assert result.record["evaluations"] == a10.network_calls(p)


def test_a_prior_that_says_nothing_new_gives_nmar(measured):
    """The start comes from NMAR, and so does the result where the prior returns its input and chance has no part."""
    result = run("a10", measured.ct, prior=lambda x, sigma, cond=None: x, inputs=measured.inputs, steps=5,
                 keep_sinogram=True)  # fmt: skip
    nmar = interpolate_normalised(measured.spoilt, measured.trace, measured.prior)
    assert torch.allclose(torch.from_numpy(out(result, "completed")), nmar, atol=1e-4)


CALLS = [(250, 10, 10, 2410), (100, 10, 5, 460), (50, 5, 3, 140), (25, 5, 2, 45), (25, 5, 1, 25)]


@pytest.mark.parametrize(("steps", "jump", "repeats", "calls"), CALLS)
def test_network_calls_of_the_note(steps, jump, repeats, calls):
    """Note, section 2.5 and check 1."""
    p = validate(methods.load("a10").METHOD.parameters, {"steps": steps, "jump": jump, "repeats": repeats})
    assert a10.network_calls(p) == calls


def test_noise_levels_are_those_of_the_linear_schedule():
    """sigma_i = sqrt(1 / abar_i - 1) of betas 1e-4 ... 0.02, in units of the ratio's spread; a share of them."""
    betas = np.linspace(1e-4, 0.02, 1000)
    sigma = a10.RATIO_SCALE * np.sqrt(1 / np.cumprod(1 - betas) - 1)
    p = validate(methods.load("a10").METHOD.parameters, {"steps": 10})
    levels = a10.noise_levels(p)
    assert levels[-1] == 0 and len(levels) == 11
    assert np.allclose(levels[:-1], sigma[np.round(np.linspace(0, 999, 10)).astype(int)][::-1])
    half = a10.noise_levels(SimpleNamespace(**{**vars(p), "start_level": 0.5}))
    assert half == levels[5:]


def test_ratio_and_its_inverse_and_the_scale_of_the_patient():
    rng = torch.Generator().manual_seed(0)
    prior = 5 * torch.rand(2, 20, 30, generator=rng)
    sinogram = prior * (1 + 0.1 * torch.randn(2, 20, 30, generator=rng))
    ratio = to_ratio(sinogram, prior)
    assert torch.allclose(from_ratio(ratio, prior), sinogram, atol=1e-5)
    assert torch.allclose(to_ratio(3 * sinogram, 3 * prior), ratio, atol=1e-6)
    assert torch.allclose(to_ratio(prior, prior), torch.ones_like(prior))


def test_views_are_periodic():
    """Trap 7: turning the sinogram by some views turns what the network says (an average over 5 x 5)."""
    x = torch.randn(1, 1, 48, 40, generator=torch.Generator().manual_seed(0))

    def network(x, sigma):
        return torch.nn.functional.avg_pool2d(x, 5, 1, 2)

    turned = a10.around(network, x.roll(13, -2), 0.1)
    assert torch.allclose(turned, a10.around(network, x, 0.1).roll(13, -2), atol=1e-6)
    assert not torch.allclose(network(x, 0.1)[..., :2, :], a10.around(network, x, 0.1)[..., :2, :], atol=1e-3)


def test_repeats_differ_in_the_shadow_alone_and_seeds_repeat(measured):
    """Note, check 7: standard deviation over samples is 0 where rays were measured."""
    options = {"inputs": measured.inputs, "steps": 5, "temperature": 1.0, "keep_sinogram": True,
               "prior": lambda x, sigma, cond=None: 0.9 * x + 0.1}  # fmt: skip
    one, again, other = (out(run("a10", measured.ct, seed=s, **options), "completed") for s in (1, 1, 2))
    assert np.array_equal(one, again)
    trace = measured.trace.numpy()
    assert np.array_equal(one[~trace], other[~trace]) and (one != other)[trace].mean() > 0.9


def test_temperature_scales_what_chance_does_in_the_shadow(measured):
    """A linear prior makes the result linear in the noise of the shadow; at 0 only the noise of the rays is left."""
    options = {"inputs": measured.inputs, "steps": 5, "repeats": 2, "jump": 2, "keep_sinogram": True,
               "prior": lambda x, sigma, cond=None: 0.9 * x + 0.1}  # fmt: skip

    def spread(temperature):
        pair = [out(run("a10", measured.ct, seed=s, temperature=temperature, **options), "completed") for s in (1, 2)]
        return np.abs(pair[0] - pair[1])[measured.trace.numpy()].mean()

    assert spread(0.0) < 1e-6 < 0.1 * spread(1.0)
    assert spread(0.5) == pytest.approx(0.5 * spread(1.0), rel=0.35)


def test_network_works_on_averaged_bins_and_the_result_on_all(measured):
    sizes = []

    def prior(x, sigma, cond=None):
        sizes.append(x.shape[-2] - 2 * a10.CONTEXT)
        return torch.ones_like(x)

    result = run("a10", measured.ct, prior=prior, inputs=measured.inputs, steps=5, repeats=1, sinogram_size=64,
                 keep_sinogram=True)  # fmt: skip
    assert set(sizes) == {48}
    completed = torch.from_numpy(out(result, "completed"))
    assert torch.equal(completed[~measured.trace], measured.spoilt[~measured.trace])
    assert (completed - measured.prior)[measured.trace].abs().mean() < 0.1 * measured.prior.max()


def test_wide_shadow_is_told(measured):
    ct = grid(head.hu(slices=1, size=64, metal=False), spacing=(3.0, 3.0, 3.0))
    mask = np.zeros(ct.array.shape, np.uint8)
    mask[0, 22:42, 22:42] = 1
    events = []
    from diffusion_backend.execute import Request, Surroundings, execute

    around = Surroundings(report=events.append, load=lambda m, d: lambda x, sigma, cond=None: torch.ones_like(x))
    request = Request("a10", {**SMALL, "steps": 5, "repeats": 1}, device="cpu")
    execute(methods.load("a10"), request, {"ct": ct, "metal": Segmentation(mask, ct.geometry, {"metal": 1})}, around)
    assert any("leave out metal" in e.get("message", "") for e in events)


def test_network_sees_the_measured_rays_at_every_level(measured):
    """RePaint imposes the known region again after each step: outside the shadow the network is given the ratio plus
    the level's noise, whatever it said before."""
    exact(measured)  # sets the band
    ratio = to_ratio(measured.spoilt, measured.prior)[0][:, measured.band]
    outside = ~measured.trace[0][:, measured.band]
    seen = []

    def prior(x, sigma, cond=None):
        if x.shape[-1] == ratio.shape[-1]:
            seen.append(float((x[0, 0, a10.CONTEXT : -a10.CONTEXT] - ratio)[outside].abs().max()) / sigma)
        return torch.ones_like(x)

    run("a10", measured.ct, prior=prior, inputs=measured.inputs, steps=10, repeats=2, jump=3)
    assert len(seen) > 10 and max(seen) < 6


def test_only_views_all_the_way_round_are_periodic():
    grid = Plane.of((64, 64), (3.0, 3.0)).grid
    whole = virtual_geometry(grid, VIEWS, BINS)
    assert a10.full_circle(whole)
    short = [Geometry(**{**vars(whole), "angles_deg": tuple(np.linspace(0, last, VIEWS))}) for last in (200, 300, 350)]
    assert not any(a10.full_circle(g) for g in short)
    assert a10.full_circle(Geometry(**{**vars(whole), "angles_deg": tuple(-k * 360 / 7 for k in range(7))}))


def test_inpainting_takes_over_smoothly_inside_the_shadow():
    """0 at measured rays, (3 - 2 w) w^2 of w = (depth - 1/2) / edge inside; with edge 0 it is the trace itself."""
    trace = torch.zeros(1, 2, 40, dtype=torch.bool)
    trace[0, 0, 10:30], trace[0, 1, :12] = True, True
    weight = a10.edge_weight(trace, Gaps.of(trace), 4)
    w = np.clip((np.arange(1, 11) - 0.5) / 4, 0, 1)
    assert np.allclose(weight[0, 0, 10:20], w * w * (3 - 2 * w), atol=1e-6)
    assert torch.equal(weight[0, 0, 10:30], weight[0, 0, 10:30].flip(0))
    assert (weight[~trace] == 0).all() and (weight[0, 1, :8] == 1).all()  # no measured ray beyond the detector's end
    assert torch.equal(a10.edge_weight(trace, Gaps.of(trace), 0), trace.float())

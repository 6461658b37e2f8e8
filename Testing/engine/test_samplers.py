"""Samplers with exact denoisers (Gaussian, mixture) against closed forms: moments, order, limits, calls, seeds."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from exact_priors import CorrelatedGaussian, CountedNoise, Gaussian, Mixture, check_moments

from diffusion_backend.diffusion import samplers as s
from diffusion_backend.diffusion.schedules import GeometricVE, Karras, cosine_vp, linear_vp, section_indices, truncated

LONG = Karras(0.005, 20.0, 1000).sigmas()
SHORT = Karras(0.05, 10.0, 8).sigmas()
GEOMETRIC = GeometricVE(0.005, 20.0, 1500).sigmas()
VP = linear_vp(steps=1000)


def ddpm(denoise, x, sigmas, **options):
    """`samplers.ddpm` in the form of the others: VE state at the last step of a discrete schedule of as many steps."""
    schedule = linear_vp(1e-3, 0.3, len(sigmas) - 1) if len(sigmas) < 100 else VP
    return s.ddpm(denoise, x / sigmas[0] * math.sqrt(1 - schedule.alpha_bar[-1]), schedule, **options)


# name -> (sampler, options, levels of the moment test, network calls of N steps to 0, draws of N steps to 0)
SAMPLERS = {
    "ddpm small": (ddpm, {}, LONG, lambda n: n, lambda n: n - 1),
    "ddpm large": (ddpm, {"variance": "large"}, LONG, lambda n: n, lambda n: n - 1),
    "ddim 0": (s.ddim, {}, LONG, lambda n: n, lambda n: 0),
    "ddim 0.5": (s.ddim, {"eta": 0.5}, LONG, lambda n: n, lambda n: n - 1),
    "ddim 1": (s.ddim, {"eta": 1.0}, LONG, lambda n: n, lambda n: n - 1),
    "heun": (s.heun, {}, Karras(0.005, 20.0, 60).sigmas(), lambda n: 2 * n - 1, lambda n: 0),
    "heun churn": (s.heun, {"s_churn": 40.0, "s_min": 0.01}, Karras(0.005, 20.0, 150).sigmas(), lambda n: 2 * n - 1,
                   lambda n: n),
    "dpm 2m": (s.dpm_solver_2m, {}, Karras(0.005, 20.0, 60).sigmas(), lambda n: n, lambda n: 0),
    "pc": (s.predictor_corrector, {"snr": 0.03}, GEOMETRIC, lambda n: 2 * n - 1, lambda n: 2 * (n - 1)),
    "pc first": (s.predictor_corrector, {"snr": 0.03, "corrector_first": True, "corrector_steps": 2}, GEOMETRIC,
                 lambda n: 3 * n, lambda n: 3 * n - 1),
    "renoise 0.3": (s.renoise, {"zeta": 0.3}, SHORT, lambda n: n, lambda n: n - 1),
    "repaint": (s.repaint, {"known": torch.zeros(1), "mask": torch.zeros(1), "jump": 2, "repeats": 3}, SHORT,
                lambda n: n + 2 * 2 * ((n - 1) // 2), None),
}
EACH = pytest.mark.parametrize("name", SAMPLERS)


def counted(denoise):
    """A denoiser that counts its calls in `.calls`."""

    def call(x, sigma, cond=None):
        call.calls += 1
        assert isinstance(sigma, float) and x.dtype in (torch.float32, torch.float64)
        return denoise(x, sigma, cond)

    call.calls = 0
    return call


def run(name, prior, x, sigmas, noise, **more):
    sampler, options = SAMPLERS[name][:2]
    if "noise" in sampler.__code__.co_varnames or sampler is ddpm:
        more["noise"] = noise
    return sampler(prior.denoise if hasattr(prior, "denoise") else prior, x, sigmas, **options, **more)


@pytest.mark.parametrize("prior", [Gaussian(), Mixture()], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("name", [n for n in SAMPLERS if n not in ("renoise 0.3", "repaint")])
def test_moments_are_those_of_the_prior(name, prior):
    """Mean and variance at 3 standard errors; the levels are fine enough for the step error to hide below."""
    sigmas = SAMPLERS[name][2]
    shape = (4, 1, 50, 50)
    clean = prior.sample(shape, torch.Generator().manual_seed(11))
    noise = CountedNoise(shape)
    if name.startswith("ddpm"):
        root = math.sqrt(VP.alpha_bar[-1])
        x = (root * clean + math.sqrt(1 - root**2) * noise(0)) * sigmas[0] / math.sqrt(1 - root**2)
    else:
        x = s.start(clean, sigmas[0], noise)
    out = run(name, prior, x, sigmas, noise)
    fourth = getattr(prior, "fourth", None)
    check_moments(out, prior.mean, prior.variance, fourth)


@pytest.mark.parametrize("sampler,order", [(s.ddim, 1), (s.heun, 2), (s.dpm_solver_2m, 2)], ids=["ddim", "heun", "2m"])
def test_order_of_convergence_to_the_exact_flow(sampler, order):
    """Halving the steps divides the error by 2^order, for the closed-form probability flow of a Gaussian."""
    prior = Gaussian()
    x = torch.linspace(-30, 30, 7, dtype=torch.float64).view(7, 1, 1, 1)
    errors = []
    for steps in (40, 80, 160):
        sigmas = Karras(0.2, 10.0, steps + 1).sigmas()[:-1]
        errors.append(float((sampler(prior.denoise, x, sigmas) - prior.flow(x, 10.0, 0.2)).abs().max()))
    for coarse, fine in zip(errors, errors[1:]):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


def test_second_order_samplers_need_few_steps():
    prior = Gaussian()
    x = torch.linspace(-30, 30, 7, dtype=torch.float64).view(7, 1, 1, 1)
    exact = prior.flow(x, 10.0, 0.0)
    for sampler in (s.heun, s.dpm_solver_2m):
        few = (sampler(prior.denoise, x, Karras(0.02, 10.0, 20).sigmas()) - exact).abs().max()
        first_order = (s.ddim(prior.denoise, x, Karras(0.02, 10.0, 20).sigmas()) - exact).abs().max()
        assert few < 0.2 * first_order


@EACH
def test_calls_draws_and_steps_are_the_documented_ones(name):
    _, _, _, calls, draws = SAMPLERS[name]
    denoise, noise, seen = counted(Gaussian().denoise), CountedNoise((2, 1, 3, 3)), []
    run(name, denoise, 10 * noise(0), SHORT, noise, on_step=lambda step, x0: seen.append((step, x0.shape)))
    steps = len(SHORT) - 1
    assert denoise.calls == calls(steps)
    assert len(set(noise.drawn)) == len(noise.drawn) and min(noise.drawn) == 0
    if draws is not None:
        assert len(noise.drawn) - 1 == draws(steps)
        assert [k for k, _ in seen] == list(range(steps))
    assert {shape for _, shape in seen} == {(2, 1, 3, 3)}


@EACH
def test_one_step_to_zero_is_the_denoiser_and_no_step_is_nothing(name):
    prior, x = Gaussian(), torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    if name.startswith("ddpm"):
        schedule = linear_vp(0.4, 0.4, 1)
        out = s.ddpm(prior.denoise, x, schedule)
        assert torch.allclose(out, prior.denoise(x / math.sqrt(0.6), math.sqrt(0.4 / 0.6)), rtol=1e-14)
        return
    if name != "heun churn":                           # churn draws even in its last step
        expected = prior.denoise(x, 3.0)
        if name == "pc first":
            out = s.predictor_corrector(prior.denoise, x, (3.0, 0.0), corrector_first=True, corrector_steps=0)
        else:
            out = run(name, prior, x, (3.0, 0.0), s.no_noise) if name != "repaint" else s.repaint(
                prior.denoise, x, (3.0, 0.0), known=x, mask=0 * x, noise=CountedNoise(x.shape))
        assert torch.allclose(out, expected, rtol=1e-13)
    assert run(name, prior, x, (3.0,), s.no_noise) is x


@EACH
def test_an_item_does_not_depend_on_its_batch(name):
    """Batch of 3 equals three single items, given noise keyed by item (the langevin norms are per item)."""
    prior, noise = Mixture(), CountedNoise((3, 1, 4, 4), per_item=True)
    x = 10 * noise(0)
    together = run(name, prior, x, SHORT, noise)
    for item in range(3):
        single = run(name, prior, x[item : item + 1], SHORT, lambda k, i=item: noise(k)[i : i + 1])
        assert torch.allclose(single, together[item : item + 1], rtol=1e-12, atol=1e-12)


@EACH
def test_no_global_generator_is_read_or_set_and_seeds_repeat(name):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    prior, noise = Gaussian(), CountedNoise((2, 1, 3, 3), seed=0)
    first, second = (run(name, prior, 10 * noise(0), SHORT, noise) for _ in range(2))
    other = CountedNoise((2, 1, 3, 3), seed=1)
    assert torch.equal(first, second)
    assert not torch.equal(first, run(name, prior, 10 * other(0), SHORT, other))
    assert torch.equal(states[0], torch.get_rng_state()) and random.getstate() == states[2]
    assert (np.random.get_state()[1] == states[1]).all()


@EACH
def test_state_keeps_its_type_and_float32_follows_float64(name):
    prior, noise = Gaussian(), CountedNoise((2, 1, 3, 3))
    x = 10 * noise(0)
    double = run(name, prior, x, SHORT, noise)
    single = run(name, prior, x.float(), SHORT, lambda k: noise(k).float())
    assert double.dtype == torch.float64 and single.dtype == torch.float32
    assert (single - double).abs().max() < 1e-5


@EACH
def test_the_callback_may_stop_the_sampler(name):
    class Cancelled(Exception):
        pass

    def stop(step, x0):
        raise Cancelled

    denoise, noise = counted(Gaussian().denoise), CountedNoise((1, 1, 2, 2))
    with pytest.raises(Cancelled):
        run(name, denoise, 10 * noise(0), SHORT, noise, on_step=stop)
    assert denoise.calls <= 3


@EACH
def test_conditions_reach_the_denoiser(name):
    condition = {"image": torch.ones(1)}

    def denoise(x, sigma, cond):
        assert cond is condition
        return 0 * x

    noise = CountedNoise((1, 1, 2, 2))
    run(name, denoise, 10 * noise(0), SHORT, noise, cond=condition)


def test_random_samplers_ask_for_noise():
    x = torch.ones(1, 1, 2, 2)
    for name in ("ddpm small", "ddim 1", "heun churn", "pc", "renoise 0.3", "repaint"):
        with pytest.raises(ValueError, match="pass noise"):
            run(name, Gaussian(), x, SHORT, s.no_noise)


@pytest.mark.parametrize("schedule", [linear_vp(steps=50), VP.respaced(section_indices(1000, [4] * 5)), cosine_vp(12)])
def test_ancestral_ddim_equals_ddpm(schedule):
    """DDIM with eta 1 and the same draws is DDPM with the posterior variance (Song et al. 2021, section 4.1)."""
    noise, prior = CountedNoise((2, 1, 3, 3)), Mixture()
    x = noise(0)
    a = s.ddpm(prior.denoise, x, schedule, noise=noise)
    b = s.ddim(prior.denoise, x / math.sqrt(schedule.alpha_bar[-1]), schedule.descending_sigmas(), eta=1.0, noise=noise)
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_learned_variance_at_its_ends_is_the_fixed_one(variance):
    noise, prior, schedule = CountedNoise((2, 1, 3, 3)), Mixture(), linear_vp(steps=20)
    logs = dict(zip(schedule.sigmas, schedule.posterior_log_variance_clipped))
    if variance == "large":
        logs = dict(zip(schedule.sigmas, map(math.log, schedule.betas)))

    def both(x, sigma, cond):
        return prior.denoise(x, sigma), torch.full_like(x, logs[sigma])

    learned = s.ddpm(both, noise(0), schedule, variance="learned", noise=noise)
    fixed = s.ddpm(prior.denoise, noise(0), schedule, variance=variance, noise=noise)
    assert torch.allclose(learned, fixed, rtol=1e-10)


def test_unknown_variance_is_a_sentence():
    with pytest.raises(ValueError, match="small, large or learned, not 'medium'"):
        s.ddpm(Gaussian().denoise, torch.zeros(1, 1, 1, 1), linear_vp(steps=2), variance="medium")


def test_limits_of_the_options():
    prior, noise = Mixture(), CountedNoise((2, 1, 3, 3))
    x = 10 * noise(0)
    plain = s.ddim(prior.denoise, x, SHORT)
    assert torch.equal(plain, s.renoise(prior.denoise, x, SHORT, zeta=0.0))
    outside = s.heun(prior.denoise, x, SHORT, s_churn=40.0, s_min=50.0)         # no level is within [s_min, s_max]
    assert torch.equal(outside, s.heun(prior.denoise, x, SHORT))
    # one visit per level and nothing known: ancestral DDIM; repaint draws 2 n + 1 where DDIM draws n + 1
    nothing = {"known": torch.zeros(1), "mask": torch.zeros(1)}
    repainted = s.repaint(prior.denoise, x, SHORT, repeats=1, noise=noise, **nothing)
    ancestral = s.ddim(prior.denoise, x, SHORT, eta=1.0, noise=lambda k: noise(2 * k - 1))
    assert torch.equal(repainted, ancestral)
    # no corrector: the reverse-diffusion recursion alone
    bare = s.predictor_corrector(prior.denoise, x, SHORT[:3], corrector_steps=0, noise=noise)
    y = x
    for k, (a, b) in enumerate(zip(SHORT[:2], SHORT[1:3])):
        y = y + (a**2 - b**2) * (prior.denoise(y, a) - y) / a**2 + math.sqrt(a**2 - b**2) * noise(k + 1)
    assert torch.allclose(bare, y, rtol=1e-13)


def test_renoising_forgets_the_state():
    """zeta 1: every level is the clean estimate plus fresh noise, so the spread before the last denoising is exact."""
    noise = CountedNoise((4, 1, 50, 50))
    out = s.renoise(lambda x, sigma, cond: torch.full_like(x, 0.4), 10 * noise(0), (10.0, 3.0, 0.5), noise=noise)
    check_moments(out, 0.4, 0.25)
    share = s.renoise(lambda x, sigma, cond: 0 * x, 3 * noise(0), (3.0, 0.5), zeta=0.3, noise=noise)
    assert torch.allclose(share, 0.5 * (math.sqrt(0.7) * noise(0) + math.sqrt(0.3) * noise(1)), rtol=1e-12)


def test_churn_keeps_the_noise_level():
    """After the churn the state is at s_hat = s (1 + gamma): the denoiser is told so, and the spread agrees."""
    told, noise = [], CountedNoise((4, 1, 50, 50))

    def denoise(x, sigma, cond):
        told.append((sigma, x.clone()))
        return 0 * x

    s.heun(denoise, 2.0 * noise(0), (2.0, 1.0), s_churn=0.3, noise=noise)
    assert [sigma for sigma, _ in told] == pytest.approx([2.6, 1.0])
    check_moments(told[0][1], 0.0, 2.6**2)
    s.heun(denoise, 2.0 * noise(0), (2.0, 1.0), s_churn=30.0, noise=noise)      # gamma is limited to sqrt(2) - 1
    assert told[2][0] == pytest.approx(2 * math.sqrt(2))


def test_langevin_has_its_closed_form_spread():
    """Stationary variance of the norm-scaled step for N(0, S): S (1 + snr^2), from var = (1 - e / S)^2 var + 2 e."""
    target, snr, noise = 0.5, 0.3, CountedNoise((4, 1, 64, 64))
    x = math.sqrt(target) * noise(0)
    variances = []
    for k in range(1, 301):
        x = s.langevin(x, -x / target, noise(k), snr)
        variances.append(float(x.square().mean()))
    # (1 - e / S)^2 = 0.70 is the correlation of neighbours: about 53 independent means of 16384 pixels
    error = math.sqrt(2 / 16384 / 53)
    assert np.mean(variances[20:]) / (target * (1 + snr**2)) == pytest.approx(1, abs=3 * error)


def test_langevin_without_a_score_stays_where_it_is():
    z = CountedNoise((2, 1, 3, 3))(0)
    score = torch.stack([0 * z[0], z[1]])
    out = s.langevin(torch.ones_like(z), score, z, 0.2)
    assert torch.isfinite(out).all() and torch.equal(out[0], torch.ones_like(z[0]))


def test_truncated_start_reaches_the_prior():
    """From a guess with the right mean and half of the spread, noised to a level far above it: same moments."""
    prior, shape = Gaussian(), (4, 1, 50, 50)
    noise = CountedNoise(shape)
    guess = prior.mean + 0.5 * (prior.sample(shape, torch.Generator().manual_seed(3)) - prior.mean)
    levels = truncated(LONG, 12.3)
    assert levels[0] == 12.3 and levels[1] < 12.3
    check_moments(s.ddim(prior.denoise, s.start(guess, 12.3, noise), levels, eta=1.0, noise=noise), 0.7, 0.3)


def test_repaint_visits_the_published_levels():
    """Jump length 2, two visits: back to noise from every second level, counted from the least noisy one."""
    assert s.repaint_levels(5, 2, 2) == (0, 1, 2, 1, 0, 1, 2, 3, 4, 3, 2, 3, 4, 5)
    assert s.repaint_levels(3, 1, 3) == (0, 1, 0, 1, 0, 1, 2, 1, 2, 1, 2, 3)
    assert s.repaint_levels(4, 10, 5) == (0, 1, 2, 3, 4)
    for steps, jump, repeats in ((250, 10, 10), (20, 3, 4), (7, 6, 2)):
        path = s.repaint_levels(steps, jump, repeats)
        down = sum(b > a for a, b in zip(path, path[1:]))
        assert down == steps + (repeats - 1) * jump * ((steps - 1) // jump)
        assert set(np.abs(np.diff(path))) == {1} and path[-1] == steps and path.count(steps) == 1
    with pytest.raises(ValueError, match=">= 1; found 5, 0, 2"):
        s.repaint_levels(5, 0, 2)


def test_repaint_keeps_the_known_part_at_the_level_of_the_denoiser():
    """Where the mask is 1 the denoiser sees known + sigma * noise at every level, on the way down and after a jump
    back."""
    seen, noise = [], CountedNoise((4, 1, 50, 50))
    sigmas = (4.0, 2.0, 1.0, 0.5, 0.0)

    def denoise(x, sigma, cond):
        seen.append((sigma, x))
        return 0 * x

    known, mask = torch.full((1,), 0.3), torch.ones(1)
    s.repaint(denoise, 0.3 + 4 * noise(0), sigmas, known=known, mask=mask, jump=2, repeats=2, noise=noise)
    assert [sigma for sigma, _ in seen] == [4.0, 2.0, 1.0, 2.0, 1.0, 0.5]
    for sigma, x in seen:
        check_moments(x, float(known), sigma**2)


def repaint_gaussian(steps: int, jump: int, repeats: int, noise):
    """RePaint of entries 1 and 2 of a correlated Gaussian, entry 0 known; and the closed-form mean and covariance."""
    covariance = torch.tensor([[1.0, 0.8, 0.5], [0.8, 1.0, 0.6], [0.5, 0.6, 1.0]], dtype=torch.float64)
    prior = CorrelatedGaussian(torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64), covariance)
    known, mask = torch.tensor([1.5, 0.0, 0.0], dtype=torch.float64), torch.tensor([1, 0, 0])
    sigmas = Karras(0.02, 5.0, steps).sigmas()
    x = prior.mean + sigmas[0] * noise(0)
    out = s.repaint(prior.denoise, x, sigmas, known=known, mask=mask, jump=jump, repeats=repeats, noise=noise)
    return out, prior.conditional([0], known[:1])


def test_repaint_mean_converges_to_the_conditional_of_a_correlated_gaussian():
    """The denoiser is linear, so zero draws give the mean without sampling error: its error falls like 1 / repeats."""
    errors = []
    for repeats in (1, 20, 80):
        out, (mean, _) = repaint_gaussian(100, 5, repeats, lambda k: torch.zeros(1, 3, dtype=torch.float64))
        assert out[0, 0] == 1.5
        errors.append(float((out[0, 1:] - mean).abs().max()))
    assert errors[0] > 0.3                                # one visit per level doesn't know enough
    assert errors[2] < 0.35 * errors[1] < 0.015


def test_repaint_spread_is_that_of_the_conditional():
    """Covariance at 3 standard errors; 400 levels, as ancestral steps lose spread of first order in the step."""
    out, (_, covariance) = repaint_gaussian(400, 20, 10, CountedNoise((2000, 3)))
    found = torch.cov(out[:, 1:].T)
    errors = ((covariance.diag()[:, None] * covariance.diag() + covariance**2) / len(out)).sqrt()
    assert ((found - covariance).abs() <= 3 * errors).all(), (found, covariance)
    assert torch.equal(out[:, 0], torch.full_like(out[:, 0], 1.5))

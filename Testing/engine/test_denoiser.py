"""Denoiser wrappers: every parametrisation of one exact prior is the same denoiser; EDM; learned variance."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from conftest import golden_files
from exact_priors import Gaussian

from diffusion_backend.diffusion import denoiser as d
from diffusion_backend.diffusion.schedules import cosine_vp, linear_vp, section_indices
from diffusion_backend.networks.dudodp import DuDoDpNet, configuration

PRIOR = Gaussian()
FULL = linear_vp()
RESPACED = FULL.respaced(section_indices(1000, [10] * 10))


def images(batch: int = 3) -> torch.Tensor:
    return 2 * torch.randn(batch, 2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class ExactNetwork:
    """A VP network that knows PRIOR; its time input is the index of FULL, interpolated in log sigma."""

    def __init__(self, predicts: str):
        self.predicts = predicts
        self.times: list[torch.Tensor] = []

    def __call__(self, x_vp, time, cond):
        self.times.append(time)
        t = float(time[0])
        low = min(int(t), 998)
        logs = [math.log(FULL.sigmas[low]), math.log(FULL.sigmas[low + 1])]
        sigma = math.exp(logs[0] + (t - low) * (logs[1] - logs[0]))
        abar = 1 / (1 + sigma**2)
        x0 = PRIOR.denoise(x_vp / math.sqrt(abar), sigma)
        epsilon = (x_vp - math.sqrt(abar) * x0) / math.sqrt(1 - abar)
        return {
            "x0": x0,
            "epsilon": epsilon,
            "v": math.sqrt(abar) * epsilon - math.sqrt(1 - abar) * x0,
            "score": -epsilon / math.sqrt(1 - abar),
        }[self.predicts]


WRAPPERS = {"x0": d.from_x0, "epsilon": d.from_epsilon, "v": d.from_v, "score": d.from_vp_score}


@pytest.mark.parametrize("predicts", WRAPPERS)
@pytest.mark.parametrize("schedule", [FULL, RESPACED], ids=["full", "respaced"])
def test_every_parametrisation_is_the_same_denoiser(predicts, schedule):
    network = ExactNetwork(predicts)
    denoise = WRAPPERS[predicts](network, schedule)
    for step in (0, 37, schedule.steps - 1):
        sigma = schedule.sigmas[step]
        x = images() * (1 + sigma)
        expected = PRIOR.denoise(x, sigma)
        assert torch.allclose(denoise(x, sigma, None), expected, rtol=1e-9, atol=1e-9 * (1 + sigma))
        # the network gets the index of its training, an integer per item, also after respacing
        assert network.times[-1].dtype == torch.int64
        assert network.times[-1].tolist() == [schedule.times[step]] * 3


@pytest.mark.parametrize("predicts", WRAPPERS)
def test_interpolated_time_is_exact_between_the_steps(predicts):
    network = ExactNetwork(predicts)
    x = images()
    sigma = FULL.sigmas[400] ** 0.3 * FULL.sigmas[401] ** 0.7
    exact = WRAPPERS[predicts](network, FULL, interpolate=True)(x, sigma)
    assert torch.allclose(exact, PRIOR.denoise(x, sigma), rtol=1e-9, atol=1e-9)
    assert network.times[-1].tolist() == pytest.approx([400.7] * 3)
    nearest = WRAPPERS[predicts](network, FULL)(x, sigma)
    assert network.times[-1].tolist() == [401] * 3
    assert 0 < (nearest - exact).abs().max() < 1e-2


def test_vp_and_ve_states():
    x, sigma = images(), 1.7
    assert torch.allclose(d.ve_of_vp(d.vp_of_ve(x, sigma), sigma), x, rtol=1e-14)
    abar = FULL.alpha_bar[600]
    noisy = math.sqrt(abar) * 0.4 + math.sqrt(1 - abar) * x
    assert torch.allclose(d.ve_of_vp(noisy, FULL.sigmas[600]), 0.4 + FULL.sigmas[600] * x, rtol=1e-12)


def test_score_network_of_the_ve_process():
    """Tweedie with the score (mean - x) / (v + sigma^2), labelled by log sigma."""
    seen = []

    def network(x, label, cond):
        seen.append(label)
        return (PRIOR.mean - x) / (PRIOR.variance + torch.exp(label).view(-1, 1, 1, 1) ** 2)

    x = images()
    assert torch.allclose(d.from_score(network, math.log)(x, 2.5), PRIOR.denoise(x, 2.5), rtol=1e-12)
    assert seen[0].tolist() == pytest.approx([math.log(2.5)] * 3)


def test_edm_preconditioning_has_unit_scales():
    """Table 1 of Karras et al. 2022: input and training target have variance 1 for every level (data of spread 0.6)."""
    form = d.EDM(0.6)
    s = torch.logspace(-3, 3, 50, dtype=torch.float64)
    assert torch.allclose(form.c_in(s) ** 2 * (0.36 + s**2), torch.ones_like(s))
    target = (1 - form.c_skip(s)) ** 2 * 0.36 + form.c_skip(s) ** 2 * s**2
    assert torch.allclose(target, form.c_out(s) ** 2)
    assert torch.allclose(form.c_noise(s), torch.log(s) / 4)


def test_edm_network_of_a_centred_gaussian_is_zero():
    """With sigma_data^2 = variance and mean 0 the skip path alone is exact; c_in x and c_noise reach the network."""
    prior, seen = Gaussian(0.0, 0.36), []

    def network(x, c_noise, cond):
        seen.append((x, c_noise, cond))
        return torch.zeros_like(x)

    x, cond = images(), {"class": torch.zeros(3)}
    denoise = d.edm(network, 0.6)
    assert torch.allclose(denoise(x, 2.0, cond), prior.denoise(x, 2.0), rtol=1e-12)
    assert torch.allclose(seen[0][0], x / math.sqrt(4.36), rtol=1e-12)
    assert seen[0][1].tolist() == pytest.approx([math.log(2) / 4] * 3) and seen[0][2] is cond
    levels = torch.tensor([0.1, 2.0, 30.0], dtype=torch.float64)
    several = denoise(x, levels)
    for k in range(3):
        assert torch.allclose(several[k : k + 1], denoise(x[k : k + 1], float(levels[k])), rtol=1e-12)


def test_edm_loss_weighs_all_levels_alike():
    """A network that is off by 0.1 in its own output has loss 0.01 at every level."""
    form, x0, noise = d.EDM(0.6), images(), images().flip(0)
    for level in (0.01, 1.0, 50.0):
        s = torch.full((3,), level, dtype=torch.float64)

        def network(x, c_noise, cond, s=level):
            clean = (x0 - form.c_skip(torch.tensor(s)) * (x0 + s * noise)) / form.c_out(torch.tensor(s))
            return clean + 0.1

        assert float(form.loss(network, x0, s, noise)) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("convention,small,large", [("iddpm", -1.0, 1.0), ("dudodp", 1.0, 0.0)])
def test_learned_variance_ends(convention, small, large):
    """iDDPM: 1 is the large variance (beta); DuDoDp: 1 is the small one (posterior)."""
    one = torch.ones(1, dtype=torch.float64)
    for step in (0, 5, 99):
        ends = RESPACED.posterior_log_variance_clipped[step], math.log(RESPACED.betas[step])
        assert float(d.learned_log_variance(small * one, RESPACED, step, convention)) == pytest.approx(ends[0])
        assert float(d.learned_log_variance(large * one, RESPACED, step, convention)) == pytest.approx(ends[1])
        middle = d.learned_log_variance((small + large) / 2 * one, RESPACED, step, convention)
        assert float(middle) == pytest.approx(sum(ends) / 2)


def test_unknown_convention_is_a_sentence():
    with pytest.raises(ValueError, match="iddpm or dudodp, not 'other'"):
        d.large_share(torch.zeros(1), "other")


def test_network_with_variance_gives_both_and_without_only_the_prediction():
    x0_network = ExactNetwork("epsilon")

    def network(x, time, cond):
        return torch.cat([x0_network(x, time, cond), torch.full_like(x, 0.25)], 1)

    x, step = images(), 60
    sigma = RESPACED.sigmas[step]
    both = d.with_variance(network, RESPACED, convention="iddpm", parametrisation=d.from_epsilon)
    x0, log_variance = both(x, sigma, None)
    assert torch.allclose(x0, PRIOR.denoise(x, sigma), rtol=1e-9, atol=1e-9)
    expected = 0.625 * math.log(RESPACED.betas[step]) + 0.375 * math.log(RESPACED.posterior_variance[step])
    assert torch.allclose(log_variance, torch.full_like(x, expected), rtol=1e-12)
    assert torch.equal(d.from_epsilon(d.without_variance(network), RESPACED)(x, sigma, None), x0)


def test_clipping_limits_the_estimate():
    clipped = d.clipped(PRIOR.denoise, -0.5, 0.5)(images(), 0.1)
    assert clipped.min() == -0.5 and clipped.max() == 0.5


def test_float32_images_stay_float32():
    x = images().float()
    assert d.from_v(lambda x, t, c: 0 * x, cosine_vp(50))(x, 0.7).dtype == torch.float32
    assert d.from_score(lambda x, t, c: 0 * x)(x, 0.7).dtype == torch.float32
    assert d.edm(lambda x, t, c: (0 * x).half(), 0.5)(x, 0.7).dtype == torch.float32


@pytest.mark.golden
@pytest.mark.parametrize("file", golden_files("a11-unet*.npz"), ids=lambda f: f.stem)
def test_golden_a11_posterior(file):
    """Clipped x0, posterior mean and log variance of the official code, through our wrapper and schedule."""
    arrays = np.load(file)
    config = json.loads(str(arrays["config"]))
    state = {k[2:]: torch.from_numpy(arrays[k].astype(np.float32)) for k in arrays.files if k.startswith("w/")}
    net = DuDoDpNet(configuration(state, head_width=config["num_head_channels"])).requires_grad_(False)
    net.load_state_dict(state)
    steps = config["diffusion_steps"]
    schedule = linear_vp(steps=steps).respaced(section_indices(steps, config["timestep_respacing"]))
    denoise = d.with_variance(lambda x, t, cond: net(x, t), schedule, convention="dudodp")
    for k, step in enumerate(arrays["in/resp_index"]):
        x = torch.from_numpy(arrays["in/x"][k : k + 1])
        sigma = schedule.sigmas[step]
        x0, log_variance = denoise(d.ve_of_vp(x, sigma), sigma, None)
        x0 = x0.clamp(-1, 1)
        to_x0, to_x = schedule.posterior_coefficients[step]
        for name, value in (("x0", x0), ("mean", to_x0 * x0 + to_x * x), ("logvar", log_variance)):
            assert np.abs(value.numpy() - arrays[f"out/pm_{name}"][k]).max() <= 2e-5, name

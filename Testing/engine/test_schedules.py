"""Noise schedules: properties that all must have, closed forms, the published respacing and training loss of A11."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from conftest import golden_files

from diffusion_backend.diffusion.denoiser import learned_log_variance
from diffusion_backend.diffusion.schedules import (
    DiscreteVP,
    GeometricVE,
    Karras,
    alpha_bar_of_sigma,
    cosine_vp,
    linear_vp,
    section_indices,
    sigma_of_alpha_bar,
    truncated,
)
from diffusion_backend.networks.dudodp import DuDoDpNet, configuration

SCHEDULES = {
    "linear": linear_vp(),
    "cosine": cosine_vp(),
    "cosine of 7": cosine_vp(7),
    "linear of 1": linear_vp(steps=1),
    "respaced": linear_vp().respaced(section_indices(1000, [10] * 10)),
    "cosine respaced": cosine_vp(100).respaced(section_indices(100, (7, 3, 1))),
}
LEVELS = {"geometric": GeometricVE(0.01, 50.0, 20), "karras": Karras(0.002, 80.0, 18), "even": Karras(1.0, 9.0, 5, 1.0)}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_every_vp_schedule_is_consistent(schedule: DiscreteVP):
    abar, betas = np.array(schedule.alpha_bar), np.array(schedule.betas)
    assert (np.diff(abar) < 0).all() and abar[-1] > 0 and abar[0] < 1
    assert np.allclose(abar, np.cumprod(1 - betas), rtol=1e-13, atol=0)
    assert abar[0] == 1 - betas[0]                      # no shift between betas and alpha_bar
    assert (np.diff(schedule.sigmas) > 0).all()
    assert np.allclose(np.array(schedule.sigmas) ** -2, schedule.snr, rtol=1e-12, atol=0)
    for name in ("sigmas", "snr", "posterior_variance", "posterior_log_variance_clipped"):
        quantity = getattr(schedule, name)
        assert len(quantity) == schedule.steps and np.isfinite(quantity).all()
    assert schedule.descending_sigmas() == (*schedule.sigmas[::-1], 0.0)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_posterior_is_bayes_rule(schedule: DiscreteVP):
    """Precisions add: x_{i-1} has the prior N(sqrt(abar_{i-1}) x_0, 1 - abar_{i-1}) and the likelihood of x_i."""
    for i in range(1, schedule.steps):
        alpha, before = 1 - schedule.betas[i], schedule.alpha_bar[i - 1]
        variance = 1 / (alpha / schedule.betas[i] + 1 / (1 - before))
        assert schedule.posterior_variance[i] == pytest.approx(variance, rel=1e-9)
        expected = (variance * math.sqrt(before) / (1 - before), variance * math.sqrt(alpha) / schedule.betas[i])
        assert schedule.posterior_coefficients[i] == pytest.approx(expected, rel=1e-9)
        assert schedule.posterior_log_variance_clipped[i] == pytest.approx(math.log(variance), abs=1e-9)
    assert schedule.posterior_variance[0] == 0 and schedule.posterior_coefficients[0] == pytest.approx((1.0, 0.0))
    second = math.log(schedule.posterior_variance[1]) if schedule.steps > 1 else math.log(schedule.betas[0])
    assert schedule.posterior_log_variance_clipped[0] == second


def test_published_numbers():
    """Table in section 2.1 of the note A11; first and last beta of Ho et al. 2020."""
    full = linear_vp()
    assert full.betas[0] == 1e-4 and full.betas[-1] == pytest.approx(2e-2, rel=1e-14)
    respaced = SCHEDULES["respaced"]
    assert respaced.times[:12] == (0, 11, 22, 33, 44, 55, 66, 77, 88, 99, 100, 111) and respaced.times[-1] == 999
    table = {0: 0.999950, 1: 0.998743, 5: 0.982018, 10: 0.946119, 20: 0.810152, 30: 0.627703, 40: 0.439968,
             50: 0.278921, 60: 0.159898, 80: 0.038827, 99: 0.006353}
    for i, root in table.items():
        assert math.sqrt(respaced.alpha_bar[i]) == pytest.approx(root, abs=6e-7)


def test_cosine_follows_its_formula():
    schedule = cosine_vp(50)
    for i in (0, 10, 40):
        u = (i + 1) / 50
        ratio = math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
        assert schedule.alpha_bar[i] == pytest.approx(ratio, rel=1e-12)
    assert schedule.betas[-1] == 0.999


def test_sections_round_like_python():
    assert section_indices(6, [3]) == (0, 2, 5)          # 2.5 rounds to the even 2
    assert section_indices(8, [3]) == (0, 4, 7)          # 3.5 rounds to the even 4
    assert section_indices(10, [2, 2, 2]) == (0, 3, 4, 6, 7, 9)     # sizes 4, 3, 3
    assert section_indices(10, [1, 1]) == (0, 5)         # a section of one keeps its first step
    assert section_indices(5, [5]) == (0, 1, 2, 3, 4)


def test_respacing_keeps_alpha_bar_and_the_original_indices():
    full = cosine_vp(40)
    kept = (0, 3, 4, 17, 39)
    assert full.respaced(kept).alpha_bar == pytest.approx([full.alpha_bar[i] for i in kept], rel=1e-12)
    assert full.respaced(range(40)).betas == pytest.approx(full.betas, rel=1e-9)
    assert full.respaced(kept).respaced((1, 3)).times == (3, 17)


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS.keys())
def test_levels_fall_from_end_to_end_and_close_with_zero(levels):
    sigmas = levels.sigmas()
    assert len(sigmas) == levels.steps + 1
    assert (sigmas[0], sigmas[-2], sigmas[-1]) == (levels.sigma_max, levels.sigma_min, 0.0)
    assert all(a > b for a, b in zip(sigmas, sigmas[1:]))


def test_spacing_of_levels():
    ratios = [a / b for a, b in zip(LEVELS["geometric"].sigmas()[:-2], LEVELS["geometric"].sigmas()[1:-1])]
    assert ratios == pytest.approx([5000 ** (1 / 19)] * 19, rel=1e-12)
    roots = np.array(LEVELS["karras"].sigmas()[:-1]) ** (1 / 7)
    assert np.diff(roots) == pytest.approx([np.diff(roots)[0]] * 17, rel=1e-9)
    assert LEVELS["even"].sigmas() == pytest.approx((9, 7, 5, 3, 1, 0), rel=1e-14)
    assert Karras(0.1, 2.0, 1).sigmas() == (2.0, 0.0)


def test_truncated_levels():
    assert truncated((9.0, 7.0, 5.0, 0.0), 6.0) == (6.0, 5.0, 0.0)
    assert truncated((9.0, 7.0, 5.0, 0.0), 7.0) == (7.0, 5.0, 0.0)


def test_conversion_of_levels_and_time():
    schedule = SCHEDULES["respaced"]
    for i in (0, 1, 50, 99):
        assert schedule.time_of_sigma(schedule.sigmas[i]) == schedule.times[i]
        assert alpha_bar_of_sigma(sigma_of_alpha_bar(schedule.alpha_bar[i])) == pytest.approx(schedule.alpha_bar[i])
        assert round(schedule.position_of_sigma(schedule.sigmas[i])) == i
    between = math.sqrt(schedule.sigmas[3] * schedule.sigmas[4])        # half-way in log sigma
    assert schedule.time_of_sigma(between) == pytest.approx(38.5)
    assert schedule.time_of_sigma(1e-6) == 0 and schedule.time_of_sigma(1e6) == 999
    assert linear_vp(steps=1).time_of_sigma(3.0) == 0


@pytest.mark.parametrize("make", [
    lambda: DiscreteVP((0.1, 1.0), (0, 1)),
    lambda: DiscreteVP((0.1, 0.2), (0,)),
    lambda: DiscreteVP((), ()),
    lambda: linear_vp(steps=10).respaced((3, 2)),
    lambda: linear_vp(steps=10).respaced((0, 10)),
    lambda: section_indices(10, [11]),
    lambda: section_indices(10, []),
    lambda: section_indices(10, [0, 5]),
    lambda: Karras(1.0, 0.5, 10).sigmas(),
    lambda: GeometricVE(0.0, 5.0, 10).sigmas(),
    lambda: truncated((1.0, 0.0), 0.0),
])
def test_impossible_schedules_get_a_sentence(make):
    with pytest.raises(ValueError, match=r"^[A-Z].*\.$"):
        make()


def respaced_schedule(config: dict) -> DiscreteVP:
    """The schedule that a golden configuration names."""
    assert config["noise_schedule"] == "linear"
    steps = config["diffusion_steps"]
    return linear_vp(1e-4 * 1000 / steps, 2e-2 * 1000 / steps, steps).respaced(
        section_indices(steps, config["timestep_respacing"])
    )


@pytest.mark.golden
@pytest.mark.parametrize("file", golden_files("a11-schedule*.npz"), ids=lambda f: f.stem)
def test_golden_a11_schedule(file):
    arrays = np.load(file)
    config = json.loads(str(arrays["config"]))
    schedule = respaced_schedule(config)
    assert (arrays["out/timestep_map"] == schedule.times).all()
    steps = np.arange(schedule.steps)
    found = {
        "out/alphas_cumprod": schedule.alpha_bar,
        "out/betas": schedule.betas,
        "out/sqrt_snr": np.sqrt(schedule.snr),
        "out/posterior_log_variance_clipped": schedule.posterior_log_variance_clipped,
        "out/delta": 1 - (1 - config["a"]) * np.exp(-config["n"] * (steps + 1) / 100),
    }
    for name, value in found.items():
        assert np.abs(arrays[name] - value).max() <= 1e-9, name


def discretised_nll_bits(x0: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """-log2 of the Gaussian mass in x0's bin of width 2/255, open ends at +-0.999 (tanh form of the normal law)."""

    def cdf(z: torch.Tensor) -> torch.Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    scale = torch.exp(-0.5 * log_variance)
    upper, lower = cdf(scale * (x0 - mean + 1 / 255)), cdf(scale * (x0 - mean - 1 / 255))
    mass = torch.where(x0 < -0.999, upper, torch.where(x0 > 0.999, 1 - lower, upper - lower))
    return -mass.clamp(min=1e-12).log2()


def published_losses(net: DuDoDpNet, schedule: DiscreteVP, x0: torch.Tensor, noise: torch.Tensor, step: int):
    """Training loss of note A11, section 2.2, of one item [1, 1, n, n]: (sqrt-SNR weighted error, L_vb in bits)."""
    abar = schedule.alpha_bar[step]
    x = math.sqrt(abar) * x0 + math.sqrt(1 - abar) * noise
    x0_hat, v = net(x, torch.tensor([schedule.times[step]])).chunk(2, 1)
    log_variance = learned_log_variance(v, schedule, step, "dudodp")
    to_x0, to_x = schedule.posterior_coefficients[step]
    true_mean, mean = to_x0 * x0 + to_x * x, to_x0 * x0_hat + to_x * x
    true_log = schedule.posterior_log_variance_clipped[step]
    ratio = torch.exp(true_log - log_variance)
    divergence = 0.5 * (-1 + log_variance - true_log + ratio + (true_mean - mean) ** 2 * torch.exp(-log_variance))
    bits = divergence / math.log(2) if step else discretised_nll_bits(x0, mean, log_variance)
    return math.sqrt(schedule.snr[step]) * (x0 - x0_hat).square().mean(), bits.mean()


@pytest.mark.golden
@pytest.mark.parametrize("file", golden_files("a11-schedule*.npz"), ids=lambda f: f.stem)
def test_golden_a11_training_loss(file):
    arrays, weights = np.load(file), np.load(file.with_name(file.name.replace("schedule", "unet")))
    config = json.loads(str(arrays["config"]))
    state = {k[2:]: torch.from_numpy(weights[k].astype(np.float32)) for k in weights.files if k.startswith("w/")}
    net = DuDoDpNet(configuration(state, head_width=config["num_head_channels"]))
    net.load_state_dict(state)
    schedule = respaced_schedule(config)
    x0, noise = torch.from_numpy(arrays["in/x0"]), torch.from_numpy(arrays["in/noise"])
    for k, step in enumerate(arrays["in/resp_index"]):
        with torch.no_grad():
            mse, bits = published_losses(net, schedule, x0[k : k + 1], noise[k : k + 1], int(step))
        assert float(mse) == pytest.approx(arrays["out/loss_mse"][k], abs=2e-5)
        # relative to 1e-3: L_vb of the last step is 4e-6, a hundredth of the absolute tolerance
        assert float(bits) == pytest.approx(arrays["out/loss_vb_bits"][k], rel=1e-3, abs=1e-8)
        assert float(mse + bits) == pytest.approx(arrays["out/loss"][k], abs=2e-5)

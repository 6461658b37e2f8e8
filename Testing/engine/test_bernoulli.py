"""Bernoulli diffusion: closed forms against enumeration, published arrays, samplers with an exact network."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import golden_files

from diffusion_backend.diffusion import bernoulli as b


def bits(*shape: int, seed: int = 0, chance: float = 0.5) -> torch.Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < chance).double()


def scalar(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def uniforms(shape, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda k: torch.rand(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", ["cosine", "cosine2", "alpha_bar_linear"])
def test_posterior_and_forward_mean_equal_enumeration_of_all_paths(name):
    """One bit: the joint distribution of y_0 ... y_3 is enumerated; nothing but the definition of a step is used."""
    chain, steps = b.process(name, 4), b.betas(name, 4)
    for y0, p in itertools.product((0.0, 1.0), (0.1, 0.5, 0.83)):
        joint = {}
        for path in itertools.product((0, 1), repeat=4):
            chance, before = 1.0, y0
            for beta, y in zip(steps, path):
                one = (1 - beta) * before + beta * p
                chance, before = chance * (one if y else 1 - one), y
            joint[path] = chance
        for t in range(4):
            expected = sum(c for path, c in joint.items() if path[t])
            found = b.forward_mean(chain, scalar(y0), scalar(p), t)
            assert float(found) == pytest.approx(expected, abs=1e-12)
        for t, y in itertools.product(range(1, 4), (0, 1)):
            given = {path: c for path, c in joint.items() if path[t] == y}
            expected = sum(c for path, c in given.items() if path[t - 1]) / sum(given.values())
            found = b.posterior_mean(chain, scalar(y), scalar(y0), scalar(p), t)
            assert float(found) == pytest.approx(expected, abs=1e-12)


def test_impossible_combinations_give_y0_and_finite_gradients():
    chain = b.process("cosine", 10)
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    for t in (0, 5):
        y, y0, p = (c.clone().requires_grad_() for c in corners.T[:, :, None])
        theta = b.posterior_mean(chain, y, y0, p, torch.full((8,), t))
        theta.sum().backward()
        assert theta.isfinite().all() and all(v.grad is None or v.grad.isfinite().all() for v in (y, y0, p))
    lone = torch.tensor([[0.0]]), torch.tensor([[1.0]]), torch.tensor([[1.0]])
    assert float(b.posterior_mean(chain, *lone, 5)) == 1.0  # p = 1, y_t = 0 can't be


def test_first_time_returns_y0_in_a_batch_of_mixed_times():
    chain = b.process("cosine", 10)
    y, y0, p = bits(3, 2, 4, 4), torch.rand(3, 2, 4, 4).double(), torch.full((3, 2, 4, 4), 0.3).double()
    mixed = b.posterior_mean(chain, y, y0, p, torch.tensor([0, 4, 0]))
    assert torch.equal(mixed[[0, 2]], y0[[0, 2]])
    assert torch.equal(mixed[1], b.posterior_mean(chain, y[1:2], y0[1:2], p[1:2], 4)[0])


def test_complement_of_all_masks_complements_the_posterior():
    chain, t = b.process("cosine", 10), 6
    y, y0, p = bits(1, 1, 8, 8), bits(1, 1, 8, 8, seed=1), torch.rand(1, 1, 8, 8).double()
    whole = b.posterior_mean(chain, y, y0, p, t) + b.posterior_mean(chain, 1 - y, 1 - y0, 1 - p, t)
    assert torch.allclose(whole, torch.ones_like(whole), atol=1e-6)


def test_divergence_is_zero_for_equal_and_never_negative():
    a, c = (v.flatten() for v in torch.meshgrid(*[torch.linspace(0, 1, 21)] * 2, indexing="ij"))
    assert b.kl_bits(a, a).abs().max() * math.log(2) < 1e-6
    assert b.kl_bits(a, c).min() * math.log(2) > -1e-6


def test_losses_of_the_exact_network_are_zero_and_grow_with_its_error():
    chain, p = b.process("cosine", 10), torch.full((4, 1, 8, 8), 0.4)
    y0, y, t = bits(4, 1, 8, 8).float(), bits(4, 1, 8, 8, seed=1).float(), torch.tensor([0, 3, 6, 9])
    exact = (y - y0).abs()
    losses = [b.mix_loss(chain, y, y0, (exact - e).abs(), p, t).mean((1, 2, 3)) for e in (0.0, 0.1, 0.3)]
    assert losses[0].abs().max() < 1e-5 and (losses[1] > losses[0]).all() and (losses[2] > losses[1]).all()


def test_plain_cross_entropy_is_least_at_the_true_probability_and_the_focal_loss_is_not():
    estimate, chance = torch.linspace(0.01, 0.99, 99).double(), 0.2
    for gamma, least in ((0.0, True), (2.0, False)):
        cost = sum(share * b.focal_bits(torch.full_like(estimate, target), estimate, gamma)
                   for target, share in ((1.0, chance), (0.0, 1 - chance)))  # fmt: skip
        assert (abs(float(estimate[cost.argmin()]) - chance) < 0.011) is least
    chain, p, t = b.process("cosine", 10), torch.full((1, 1, 4, 4), 0.4), torch.tensor([5])
    y0, y, flip = bits(1, 1, 4, 4).float(), bits(1, 1, 4, 4, seed=1).float(), torch.full((1, 1, 4, 4), 0.3)
    extra = b.mix_loss(chain, y, y0, flip, p, t, gamma=0.0) - b.bound_bits(chain, y, y0, b.calibrate(y, flip), p, t)
    assert torch.allclose(extra, b.cross_entropy_bits((y - y0).abs(), flip), atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("calls", [1, 4, 10])
def test_exact_network_returns_y0_from_any_prior(sampler, calls):
    y0, p = bits(2, 3, 8, 8, chance=0.3), torch.rand(2, 3, 8, 8).double()
    chain = b.process("cosine", 10).respaced(b.even_times(10, calls))
    draw = b.sample(lambda y, t: (y - y0).abs(), p, chain, uniforms(p.shape), sampler=sampler)
    assert torch.equal(draw, y0)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_states_of_the_chain_have_the_marginals_of_the_forward_process(sampler):
    """10,000 chains that start in q(y_9 | y_0), with the exact network: the state at every time has its mean."""
    chain, shape = b.process("cosine", 10), (10_000, 2, 1, 1)
    y0 = torch.tensor([0.0, 1.0]).double().view(1, 2, 1, 1).expand(shape)
    p = torch.tensor([0.6, 0.3]).double().view(1, 2, 1, 1).expand(shape)
    states = {}

    def exact(y, t):
        states[t] = y.mean(0).flatten()
        return (y - y0).abs()

    start = (uniforms(shape, 7)(0) < b.forward_mean(chain, y0, p, 9)).double()
    b.sample(exact, p, chain, uniforms(shape, 1), sampler=sampler, start=start)
    for t, mean in states.items():
        expected = b.forward_mean(chain, y0[:1], p[:1], t).flatten()
        assert torch.allclose(mean, expected, atol=0.02), t


def test_prior_equal_to_the_mask_leaves_nothing_to_chance():
    y0, chain = bits(1, 2, 8, 8), b.process("cosine", 10)
    assert all(torch.equal(b.forward_mean(chain, y0, y0, t), y0) for t in range(10))
    network = lambda y, t: torch.zeros_like(y)  # noqa: E731
    draws = [b.sample(network, y0, chain, uniforms(y0.shape, seed)) for seed in (1, 2)]
    assert torch.equal(draws[0], draws[1])


def test_same_numbers_give_the_same_draw_and_others_another_one():
    p, chain = torch.rand(1, 2, 16, 16).double(), b.process("cosine", 10)
    network = lambda y, t: torch.full_like(y, 0.1)  # noqa: E731
    first, again, other = (b.sample(network, p, chain, uniforms(p.shape, seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_network_is_told_the_original_times():
    told = []
    chain = b.process("cosine", 10).respaced(b.even_times(10, 5))
    p = torch.full((1, 1, 2, 2), 0.5).double()
    b.sample(lambda y, t: told.append(t) or torch.zeros_like(y), p, chain, uniforms(p.shape))
    assert told == [9, 7, 5, 3, 1]


def test_ddim_keeps_state_and_estimate_in_known_shares():
    one, zero = torch.ones(1, 1, 1, 1).double(), torch.zeros(1, 1, 1, 1).double()
    chain = b.process("alpha_bar_linear", 10)
    assert float(b.ddim_mean(chain, one, zero, 5)) == pytest.approx(0.5 / 0.6)
    assert float(b.ddim_mean(b.process("cosine", 10), one, one, 5)) <= 1


def test_schedules_and_times_that_cant_be_are_refused():
    with pytest.raises(ValueError, match="at least 20"):
        b.betas("linear", 10)
    with pytest.raises(ValueError, match="choose one of"):
        b.betas("sigmoid", 10)
    for times in ([], [3, 3], [4, 2], [-1, 3], [0, 10]):
        with pytest.raises(ValueError, match="don't increase"):
            b.process("cosine", 10).respaced(times)
    with pytest.raises(ValueError, match="different times"):
        b.quadratic_times(10, 10)
    with pytest.raises(ValueError, match="No stride"):
        b.strided_times(10, 7)
    with pytest.raises(ValueError, match="choose 1 to"):
        b.even_times(10, 11)


@pytest.fixture(scope="module", params=golden_files("a14-process*.npz"), ids=lambda path: path.stem)
def golden(request):
    with np.load(request.param) as stored:
        return {k: stored[k] for k in stored.files if stored[k].dtype.kind in "fui"}


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64 if array.dtype.kind == "i" else np.float32))


@pytest.mark.golden
def test_golden_a14_published_schedules_and_times(golden):
    for name, steps in (("linear", 1000), ("cosine", 10), ("cosine", 1000), ("cosine2", 10), ("cosine2", 1000),
                        ("alpha_bar_linear", 10)):  # fmt: skip
        np.testing.assert_allclose(b.betas(name, steps), golden[f"out/betas_{name}_{steps}"], atol=1e-12)
    for name, steps in (("linear", 100), ("cosine", 10), ("cosine2", 10), ("alpha_bar_linear", 10)):
        np.testing.assert_allclose(b.process(name, steps).abar, golden[f"out/abar_{name}_{steps}"], atol=1e-12)
    for count, steps in ((10, 1000), (5, 10), (25, 100)):
        assert b.strided_times(steps, count) == golden[f"out/steps_ddimuni{count}_{steps}"].tolist()
    assert b.quadratic_times(1000, 10) == golden["out/steps_ddimqua10_1000"].tolist()


def toy(golden, y, p, t):
    """The network of the published arrays, written from their description."""
    image, time = tensor(golden["in/img"])[: len(y)], torch.as_tensor(t).view(-1, 1, 1, 1)
    return torch.sigmoid(1.5 * image - 2 * y + p + 0.3 * time / 10 - 0.5)


@pytest.mark.golden
def test_golden_a14_published_means_and_losses(golden):
    chain = b.process("cosine", 10)
    y0, p, y, t, later, soft = (tensor(golden[f"in/{k}"]) for k in ("y0", "p", "y_t", "t", "t_post", "y0_soft"))
    flip = toy(golden, y, p, t)
    estimate, flipped = b.calibrate(y, flip), (y - y0).abs()
    found = {
        "q_mean": b.forward_mean(chain, y0, p, t),
        "posterior_mean_binary_y0": b.posterior_mean(chain, y, y0, p, later),
        "posterior_mean_soft_y0": b.posterior_mean(chain, y, soft, p, later),
        "pred_y0": estimate,
        "p_mean": b.posterior_mean(chain, y, estimate, p, t),
        "loss_MIX_vb": b.bound_bits(chain, y, y0, estimate, p, t).mean((1, 2, 3)),
        "loss_MIX_focal": b.focal_bits(flipped, flip).mean((1, 2, 3)),
        "loss_MIX_loss": b.mix_loss(chain, y, y0, flip, p, t).mean((1, 2, 3)),
        "loss_BCE_loss": b.cross_entropy_bits(flipped, flip).mean((1, 2, 3)),
        "focal": b.focal_bits(y0, soft).mean((1, 2, 3)) * math.log(2),
        "kl_nats": b.kl_bits(tensor(golden["in/kl_a"]), tensor(golden["in/kl_b"])) * math.log(2),
    }
    for name, value in found.items():
        np.testing.assert_allclose(value, golden[f"out/{name}"], atol=1e-6, err_msg=name)


@pytest.mark.golden
def test_golden_a14_published_traces_given_their_recorded_states(golden):
    """Each Bernoulli mean of the recorded chains of both samplers, from the recorded state before it."""
    chain, p = b.process("cosine", 10), tensor(golden["in/p"])
    for kind, start in (("p", "p_sample_loop_progressive"), ("ddim", "ddim_sample_loop_progressive")):
        states = [tensor(golden[f"in/{start}_init"])[:1], *tensor(golden[f"out/{kind}_samples"])]
        for k, t in enumerate(reversed(range(10))):
            y = states[k]
            estimate = b.calibrate(y, toy(golden, y, p[:1], t))
            if t == 0:
                mean = estimate
            elif kind == "p":
                mean = b.posterior_mean(chain, y, estimate, p[:1], t)
            else:
                mean = b.ddim_mean(chain, y, estimate, t)
            np.testing.assert_allclose(mean, golden[f"out/{kind}_means"][k], atol=1e-6, err_msg=f"{kind} {t}")

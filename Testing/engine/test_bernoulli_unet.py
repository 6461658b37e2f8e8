"""The published refiner of HiDiff against arrays of the official network, and its traps."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
import torch
from conftest import golden_files

from diffusion_backend.networks import bernoulli_unet as networks
from diffusion_backend.networks.bernoulli_unet import BernoulliUNet, XFormer

BLOCKS = {"BasicBlock": networks.BasicBlock, "DownBlock": networks.DownBlock, "UpBlock": networks.UpBlock}


def tensor(array):
    return torch.from_numpy(np.asarray(array, np.float32))


def recipe(module: torch.nn.Module, seed: int) -> None:
    """The deterministic weights of the golden files: drawn from each entry's name, shape and the seed."""
    state = {}
    for key, value in module.state_dict().items():
        last = key.split(".")[-1]
        if last == "num_batches_tracked":
            state[key] = torch.zeros((), dtype=torch.int64)
            continue
        rs = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
        z = rs.standard_normal(int(np.prod(value.shape))).reshape(value.shape)
        if last == "running_var":
            z = 0.5 + np.abs(z)
        elif last in ("running_mean", "bias"):
            z = 0.1 * z
        else:
            z = 1 + 0.1 * z if z.ndim == 1 else z / np.sqrt(np.prod(z.shape[1:]))
        state[key] = tensor(z.astype(np.float16))
    module.load_state_dict(state)
    module.eval()


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_files("a14-blocks*.npz"), ids=lambda p: p.stem)
def test_blocks_and_their_surrogate_gradients(path):
    g = np.load(path)
    config = json.loads(str(g["config"]))
    for name, about in config["modules"].items():
        weights = {k.removeprefix(f"w/{name}."): tensor(g[k]) for k in g.files if k.startswith(f"w/{name}.")}
        out = tensor(g[f"out/{name}"])
        block = BLOCKS[about["cls"]](config["C"], out.shape[1], config["emb"], "binary" in about["pkg"]).eval()
        missing, unknown = block.load_state_dict(weights, strict=False)
        assert not unknown and all(k.endswith("num_batches_tracked") for k in missing), name
        x = tensor(g["in/x"]).requires_grad_()
        y = block(x, tensor(g["in/emb"]))
        assert torch.allclose(y, out, rtol=1e-5, atol=1e-4), name
        if f"out/{name}_grad_x" in g:
            y.square().sum().backward()
            for mine, theirs in ((x.grad, "grad_x"), (block.binary_3x3.weight.grad, "grad_w")):
                expected = tensor(g[f"out/{name}_{theirs}"])
                assert torch.allclose(mine, expected, rtol=1e-4, atol=1e-3 * float(expected.abs().max())), theirs


@pytest.mark.golden
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "real"])
@pytest.mark.parametrize("path", golden_files("a14-xformer*.npz"), ids=lambda p: p.stem)
def test_x_former_and_each_of_its_parts(path, binary):
    g = np.load(path)
    config, kind = json.loads(str(g["config"])), "binary" if binary else "real"
    module = XFormer(config["condition_dim"], config["embedding_dim"], config["emb"], binary, legacy_token_layout=True)
    recipe(module, config["seed"])
    assert {k: list(v.shape) for k, v in module.state_dict().items()} == config[f"keys_{kind}"]
    seen = {}
    for name in [k.split(".")[1] for k in g.files if k.startswith(f"out/{kind}.")]:
        module.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, o))
    with torch.no_grad():
        out = module(tensor(g["in/condition"]), tensor(g["in/embedding"]), tensor(g["in/emb"]))
    for name, value in [*seen.items(), ("", out)]:
        expected = tensor(g[f"out/{kind}{'.' if name else ''}{name}"])
        assert torch.allclose(value, expected, rtol=1e-5, atol=1e-4), (name, float((value - expected).abs().max()))


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_files("a14-net-*.npz"), ids=lambda p: p.stem)
def test_whole_network(path):
    g = np.load(path)
    config = json.loads(str(g["config"]))
    net = published(config)
    recipe(net, config["seed"])
    assert {k: list(v.shape) for k, v in net.state_dict().items()} == config["keys"]
    with torch.no_grad():
        y = net(*inputs(g))
    assert torch.allclose(y, tensor(g["out/y"]), rtol=0, atol=2e-5)
    other = published(config, binary=config["net"] != "binary")
    recipe(other, config["seed"])
    with torch.no_grad():
        assert (other(*inputs(g)) - y).abs().max() > 0.01, "binary and real networks must differ"


def published(config, binary=None):
    is_binary = config["net"] == "binary" if binary is None else binary
    return BernoulliUNet(config["img_channels"], config["K"], config["condition_dim_list"], config["model_channels"],
                         binary=is_binary, legacy_token_layout=True)  # fmt: skip


def inputs(g):
    features = [tensor(g[f"in/feature{n}"]) for n in range(4)]
    return tensor(g["in/img"]), tensor(g["in/y_t"]), tensor(g["in/p"]), features, torch.from_numpy(g["in/t"])


def test_the_right_token_layout_moves_the_answer_where_the_token_was_moved():
    """Trap 23. One token of the input changed: with the right layout the largest answer is at its own place."""
    torch.manual_seed(0)
    x, condition, e = torch.randn(1, 32, 3, 5), torch.randn(1, 32, 3, 5), torch.randn(1, 64)
    moved = x.clone()
    moved[:, :, 2, 1] += 3
    peaks = {}
    for legacy in (False, True):
        module = XFormer(32, 32, 64, binary=False, legacy_token_layout=legacy)
        recipe(module, 7)
        with torch.no_grad():
            change = (module(condition, moved, e) - module(condition, x, e)).abs().sum(1)[0]
        peaks[legacy] = divmod(int(change.argmax()), 5)
    assert peaks[False] == (2, 1) and peaks[True] != (2, 1)


@pytest.mark.parametrize("binary", [True, False])
def test_any_sides_that_are_multiples_of_the_stride_and_an_answer_between_0_and_1(binary):
    """Traps 2 and 13: the real network answers, and images need not be square."""
    net = BernoulliUNet(1, 3, (32, 32, 32, 32), 32, binary=binary)
    h, w = 64, 96
    features = [torch.randn(2, 32, h // s, w // s) for s in (4, 8, 16, 32)]
    y = torch.randint(0, 2, (2, 3, h, w)).float()
    out = net(torch.randn(2, 1, h, w), y, torch.rand(2, 3, h, w), features, torch.tensor([0, 9]))
    assert out.shape == (2, 3, h, w) and bool(((out > 0) & (out < 1)).all())
    out.mean().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in net.parameters())


def test_weights_begin_finite_with_mixed_signs_and_the_same_for_a_seed():
    """Trap 7: the release leaves memory uninitialised and all weights positive."""
    nets = []
    for _ in range(2):
        torch.manual_seed(3)
        nets.append(BernoulliUNet(1, 1, (32,) * 4, 32, binary=True).state_dict())
    assert all(torch.equal(nets[0][k], nets[1][k]) for k in nets[0])
    assert all(bool(v.isfinite().all()) for v in nets[0].values() if v.is_floating_point())
    conv = nets[0]["block1_conv.binary_3x3.weight"]
    assert 0.3 < float((conv > 0).float().mean()) < 0.7


@pytest.mark.parametrize(("conditions", "width"), [((32, 32, 32), 32), ((32, 48, 32, 32), 32), ((32,) * 4, 40)])
def test_widths_that_the_group_normalisation_refuses_are_said(conditions, width):
    with pytest.raises(ValueError, match="multiples of 32"):
        BernoulliUNet(1, 1, conditions, width)


@pytest.mark.parametrize(
    ("structures", "conditions", "width", "count"),
    [(9, (96, 192, 384, 768), 128, 89_209_929), (2, (32,) * 4, 32, 5_313_954)],
)
def test_published_size(structures, conditions, width, count):
    with torch.device("meta"):
        net = BernoulliUNet(1, structures, conditions, width)
    assert sum(p.numel() for p in net.parameters()) == count

"""The published DuDoDp network against golden arrays, closed forms and its parameter count."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from conftest import golden_files

from diffusion_backend.networks.dudodp import (
    DuDoDpConfig,
    DuDoDpNet,
    ResidualBlock,
    configuration,
    position_map,
    time_embedding,
)

TOLERANCE = 2e-5


def weights(archive) -> dict[str, torch.Tensor]:
    """The golden state dict as float32."""
    return {k[2:]: torch.from_numpy(archive[k].astype(np.float32)) for k in archive.files if k.startswith("w/")}


@pytest.mark.golden
@pytest.mark.parametrize("file", golden_files("a11-unet*.npz"), ids=lambda f: f.stem)
def test_golden_a11_network_parts(file):
    archive = np.load(file)
    head_width = json.loads(str(archive["config"]))["num_head_channels"]
    state = weights(archive)
    net = DuDoDpNet(configuration(state, head_width=head_width))
    net.load_state_dict(state)
    x, t = torch.from_numpy(archive["in/x"]), torch.from_numpy(archive["in/t"])
    width = net.config.width
    found = {
        "out/patches": torch.nn.functional.pixel_unshuffle(x[:1], net.config.patch),
        "out/t_emb_sin": time_embedding(t, width),
        "out/t_emb": net.time_embed(time_embedding(t, width)),
        "out/pos2d": position_map(width, *archive["out/pos2d"].shape[-2:]),
        "out/y": net(x, t),
    }
    for name, value in found.items():
        assert np.abs(value.detach().numpy() - archive[name]).max() <= TOLERANCE, name


def test_published_configuration_has_the_published_size():
    with torch.device("meta"):
        state = DuDoDpNet(DuDoDpConfig()).state_dict()
    assert len(state) == 344
    assert sum(value.numel() for value in state.values()) == 82_356_128
    assert configuration(state) == DuDoDpConfig()


@pytest.mark.parametrize(
    "config",
    [
        DuDoDpConfig(width=32, multipliers=(1, 2, 2), blocks=1, attention_levels=(), head_width=32),
        DuDoDpConfig(width=64, multipliers=(1, 1, 2), blocks=3, attention_levels=(2,), patch=2, variance=False),
    ],
)
def test_configuration_is_read_from_the_shapes(config):
    with torch.device("meta"):
        state = DuDoDpNet(config).state_dict()
    assert configuration(state, head_width=config.head_width) == config
    assert DuDoDpConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="not a DuDoDp"):
        configuration({"conv.weight": torch.zeros(1)})
    with torch.device("meta"):
        state = dict(DuDoDpNet(DuDoDpConfig(width=32, multipliers=(1,), blocks=1, head_width=32)).state_dict())
    state["input_blocks.1.0.emb_layers.1.weight"] = state["input_blocks.1.0.emb_layers.weight"]
    with pytest.raises(ValueError, match="guided-diffusion"):
        configuration(state)


def test_position_map_has_columns_first_and_no_cosines():
    full = position_map(8, 4, 16)[0]
    assert full.shape == (8, 4, 16)
    assert full[0, 2, 5] == pytest.approx(math.sin(5 * 64 / 16))
    assert full[4, 2, 5] == pytest.approx(math.sin(2 * 64 / 4))
    assert full[3, 0, 7] == pytest.approx(math.sin(7 * 64 / 16 * 1e-4))


def test_residual_block_with_zero_film_is_a_plain_block():
    generator = torch.Generator().manual_seed(3)
    block = ResidualBlock(32, 8, 32)
    torch.nn.init.zeros_(block.emb_layers.weight)
    torch.nn.init.zeros_(block.emb_layers.bias)
    x = torch.randn(2, 32, 4, 4, generator=generator)
    h = block.in_layers(x)
    grouped = (h - h.mean((2, 3), keepdim=True)) / (h.var((2, 3), keepdim=True, unbiased=False) + 1e-3).sqrt()
    expected = x + block.out_layers[2](torch.nn.functional.silu(grouped))
    assert torch.allclose(block(x, torch.ones(2, 8)), expected, atol=1e-6)


def test_wrong_image_side_is_a_sentence():
    net = DuDoDpNet(DuDoDpConfig(width=32, multipliers=(1, 1), blocks=1, attention_levels=(), head_width=32))
    with pytest.raises(ValueError, match="multiples of 8"):
        net(torch.zeros(1, 1, 12, 16), torch.zeros(1))

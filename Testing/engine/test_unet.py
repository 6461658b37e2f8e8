"""The default U-Net: shapes, conditions, independence of the image size, zero output at the start."""

from __future__ import annotations

import pytest
import torch

from diffusion_backend.networks.unet import ChannelNorm, UNet


def awake(network: torch.nn.Module) -> torch.nn.Module:
    """Small random weights everywhere, since output layers start at zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return network.eval()


@pytest.mark.parametrize("dims,shape", [(2, (2, 1, 24, 16)), (3, (1, 1, 8, 12, 4))])
def test_output_has_the_shape_of_the_input_and_starts_at_zero(dims, shape):
    network = UNet(dims=dims, width=8, attention=(2,))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = network(x, torch.zeros(shape[0]))
    assert y.shape == x.shape
    assert torch.count_nonzero(y) == 0
    assert torch.count_nonzero(awake(network)(x, torch.zeros(shape[0]))) > 0


def test_the_published_size_of_ct_image():
    parameters = sum(p.numel() for p in UNet(width=32, multipliers=(1, 2, 4)).parameters())
    assert 1.9e6 < parameters < 2.4e6


def test_noise_class_text_and_image_conditions_change_the_output_and_only_of_their_item():
    network = awake(UNet(width=8, attention=(1, 2), classes=3, context_width=6, condition_channels=1))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 1, 16, 16, generator=generator)
    base = {"class": torch.tensor([0, 1]), "text": torch.randn(2, 4, 6, generator=generator), "image": x.clone()}
    c_noise = torch.tensor([0.1, 0.1])
    reference = network(x, c_noise, base)
    changes = {
        "class": base | {"class": torch.tensor([0, 2])},
        "text": base | {"text": base["text"] + torch.tensor([0.0, 1.0])[:, None, None]},
        "image": base | {"image": base["image"] + torch.tensor([0.0, 1.0])[:, None, None, None]},
    }
    for name, cond in changes.items():
        y = network(x, c_noise, cond)
        assert torch.allclose(y[0], reference[0], atol=1e-6), name
        assert (y[1] - reference[1]).abs().max() > 1e-4, name
    assert (network(x, torch.tensor([0.1, 0.9]), base)[1] - reference[1]).abs().max() > 1e-4


def test_interior_is_the_same_in_a_crop_and_in_the_whole_image():
    """No statistics over the image: away from the border a tile and the whole slice agree."""
    network = awake(UNet(width=8, multipliers=(1, 2)))
    x = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(2))
    whole, tile = network(x, torch.zeros(1)), network(x[..., 16:80, 16:80], torch.zeros(1))
    assert torch.allclose(whole[..., 40:56, 40:56], tile[..., 24:40, 24:40], atol=1e-5)


def test_channel_norm_against_torch_in_2d_and_3d():
    norm = ChannelNorm(5)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, 5))
    for shape in ((2, 5, 7, 3), (2, 5, 4, 3, 2)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        expected = (x - mean) / (variance + 1e-6).sqrt() * norm.weight.view(1, 5, *[1] * (x.ndim - 2))
        assert torch.allclose(norm(x), expected, atol=1e-5)

"""Compact refiner of HiDiff (Chen et al. 2024): a real-valued Bernoulli U-Net of widths 16-32-64, without X-Former.

Blocks as published (shift by the time embedding, 3x3 convolution, batch normalisation, residual, PReLU between two
shifts); the segmentor's features enter at 1/4 and 1/8 of the size. The answer is the flip map |y_t - y_0|, as
published, but the network works out the logit of y_0 as a correction of the prior's: an untrained refiner gives the
prior back, and no layer has to learn the exclusive or of state and mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 1e-4  # of a prior that can still be corrected


def sinusoid(t: Tensor, channels: int) -> Tensor:
    """Embedding [B, channels] of times [B]: cosines, then sines, frequencies 1 to 1/10000."""
    half = channels // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    phase = t.float()[:, None] * frequencies
    return torch.cat([phase.cos(), phase.sin()], 1)


class Shift(nn.Module):
    """x + a bias per channel that depends on the time embedding (0 at first)."""

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.layer = nn.Linear(embedding, channels)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return x + self.layer(F.silu(embedding))[:, :, None, None]


class Block(nn.Module):
    """Real-valued basic block; the residual passes a 1x1 convolution where the width changes."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int):
        super().__init__()
        self.before, self.inner, self.after = (
            Shift(c, embedding) for c in (channels_in, channels_out, channels_out)
        )
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.activation = nn.PReLU(channels_out)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.norm(self.conv(self.before(x, embedding))) + self.skip(x)
        return self.after(self.activation(self.inner(h, embedding)), embedding)


class CompactRefiner(nn.Module):
    """Flip probabilities from image, state and prior. Sides: multiples of `stride`.

    channels : of the image. structures : K. features : channels of the segmentor's maps at 1/4 and 1/8. priors : slices
    whose priors are shown; the first is the image's, the others are its neighbours'."""

    stride = 8

    def __init__(
        self,
        channels: int,
        structures: int,
        features: tuple[int, int] = (64, 128),
        widths: tuple[int, int, int] = (16, 32, 64),
        priors: int = 1,
    ):
        super().__init__()
        a, b, c = widths
        self.width = c
        embedding = 2 * c
        self.embed = nn.Sequential(nn.Linear(c, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.head = nn.Conv2d(channels + (1 + priors) * structures, a, 3, padding=1)
        self.compress = nn.ModuleList(nn.Conv2d(f, c, 1) for f in features)
        sizes = {
            "down1": (a, a), "down2": (a, b), "down4": (b + c, c), "middle": (2 * c, c),
            "up4": (2 * c, c), "up2": (c + b, b), "up1": (b + a, a),
        }  # fmt: skip
        self.blocks = nn.ModuleDict({name: Block(i, o, embedding) for name, (i, o) in sizes.items()})
        self.tail = nn.Conv2d(a, structures, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor, y: Tensor, prior: Tensor, features: Sequence[Tensor], t: Tensor) -> Tensor:
        """image [B, C, H, W]; y [B, K, H, W]; prior [B, priors * K, H, W]; features at 1/4 and 1/8; t [B]
        -> [B, K, H, W] in (0, 1)."""
        e = self.embed(sinusoid(t, self.width))
        quarter, eighth = (layer(f) for layer, f in zip(self.compress, features, strict=True))
        block = self.blocks
        full = block["down1"](self.head(torch.cat([image, y, prior], 1)), e)
        half = block["down2"](F.avg_pool2d(full, 2), e)
        quarter = block["down4"](torch.cat([F.avg_pool2d(half, 2), quarter], 1), e)
        h = block["middle"](torch.cat([F.avg_pool2d(quarter, 2), eighth], 1), e)
        for name, skip in (("up4", quarter), ("up2", half), ("up1", full)):
            h = block[name](torch.cat([F.interpolate(h, scale_factor=2.0, mode="nearest"), skip], 1), e)
        own = prior[:, : y.shape[1]].float()
        mask = self.tail(h).float() + own.clamp(SMALLEST, 1 - SMALLEST).logit()
        return ((1 - 2 * y.float()) * mask).sigmoid()

"""The default network: one compact U-Net for images (2D) and volumes (3D).

Residual blocks with FiLM conditioning on the noise level, optional self-attention at chosen levels, optional class
embedding and optional cross-attention to text tokens. Normalisation is over the channels of each pixel (not over the
image, as GroupNorm does), so that the same weights act alike on a 64-pixel crop, on a 512-pixel slice and on a tile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONV = {2: nn.Conv2d, 3: nn.Conv3d}


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel: x [B, C, ...] -> same shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        # in channels-last layout both movedims are views and the kernel runs over contiguous channels
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, eps=1e-6).movedim(-1, 1)


class NoiseEmbedding(nn.Module):
    """Sinusoidal embedding of the noise coordinate c_noise [B], then two linear layers: -> [B, width]."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        frequencies = torch.exp(torch.linspace(math.log(0.5), math.log(50.0), channels // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, c_noise: Tensor) -> Tensor:
        phase = c_noise[:, None] * self.frequencies
        return self.layers(torch.cat([phase.cos(), phase.sin()], 1))


class ResidualBlock(nn.Module):
    """norm, SiLU, conv; norm, FiLM, SiLU, conv (starts at zero); skip (1x1 where the width changes)."""

    def __init__(self, dims: int, channels_in: int, channels_out: int, embedding: int):
        super().__init__()
        conv = CONV[dims]
        self.norm1 = ChannelNorm(channels_in)
        self.conv1 = conv(channels_in, channels_out, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * channels_out)
        self.norm2 = ChannelNorm(channels_out)
        self.conv2 = conv(channels_out, channels_out, 3, padding=1)
        self.skip = conv(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(F.silu(embedding)).view(h.shape[0], -1, *[1] * (h.ndim - 2)).chunk(2, 1)
        return self.skip(x) + self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))


class Attention(nn.Module):
    """Multi-head attention of the pixels to themselves, or to `context` tokens [B, L, context_width]."""

    def __init__(self, channels: int, context_width: int = 0, head_width: int = 32):
        super().__init__()
        self.heads = max(1, channels // head_width)
        self.norm = ChannelNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(context_width or channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B, pixels, C]
        source = tokens if context is None else context
        key, value = self.key_value(source).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.query(tokens), key, value))
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(h).transpose(1, 2).reshape(x.shape)


class Level(nn.Module):
    """One residual block, then self-attention and cross-attention where the configuration asks for them."""

    def __init__(self, dims: int, channels_in: int, channels_out: int, embedding: int, attention: bool, context: int):
        super().__init__()
        self.block = ResidualBlock(dims, channels_in, channels_out, embedding)
        self.attention = Attention(channels_out) if attention else None
        self.cross = Attention(channels_out, context) if attention and context else None

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        x = self.block(x, embedding)
        if self.attention is not None:
            x = self.attention(x)
        if self.cross is not None and context is not None:
            x = self.cross(x, context)
        return x


class UNet(nn.Module):
    """U-Net over images [B, in_channels, H, W] (dims=2) or volumes [B, in_channels, D, H, W] (dims=3).

    Every side must be a multiple of 2 ** (len(multipliers) - 1) (`stride`; the denoiser pads).

    width, multipliers : channels of level l are width * multipliers[l].
    blocks : residual blocks of a level on the way down (one more on the way up).
    attention : levels with self-attention, and with cross-attention if context_width > 0.
    classes : number of classes of `cond["class"]` (int64 [B]; -1 = none); 0 = unconditional.
    context_width : channels of the tokens `cond["text"]` [B, L, context_width]; 0 = none.
    condition_channels : channels of `cond["image"]`, concatenated to x; 0 = none.
    """

    def __init__(
        self,
        dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 4),
        blocks: int = 1,
        attention: tuple[int, ...] = (),
        classes: int = 0,
        context_width: int = 0,
        condition_channels: int = 0,
    ):
        super().__init__()
        conv, embedding = CONV[dims], 4 * width
        self.stride = 2 ** (len(multipliers) - 1)
        widths = [width * m for m in multipliers]
        self.embed = NoiseEmbedding(2 * width, embedding)
        self.class_embed = nn.Embedding(classes + 1, embedding) if classes else None
        self.head = conv(in_channels + condition_channels, width, 3, padding=1)

        def level(channels_in: int, channels_out: int, index: int) -> Level:
            return Level(dims, channels_in, channels_out, embedding, index in attention, context_width)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels, skips = width, [width]
        for index, channels_out in enumerate(widths):
            for _ in range(blocks):
                self.down.append(level(channels, channels_out, index))
                channels = channels_out
                skips.append(channels)
            if index < len(widths) - 1:
                self.down.append(conv(channels, channels, 3, stride=2, padding=1))
                skips.append(channels)
        self.middle = level(channels, channels, len(widths) - 1)
        for index, channels_out in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(level(channels + skips.pop(), channels_out, index))
                channels = channels_out
            if index > 0:
                self.up.append(conv(channels, channels, 3, padding=1))
        self.norm = ChannelNorm(channels)
        self.tail = conv(channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, c_noise: Tensor, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        """x [B, C, ...], c_noise [B] (noise coordinate of the preconditioning) -> [B, out_channels, ...]."""
        cond = cond or {}
        embedding, context = self.embed(c_noise), cond.get("text")
        if self.class_embed is not None and "class" in cond:
            embedding = embedding + self.class_embed(cond["class"] + 1)
        if "image" in cond:
            x = torch.cat([x, cond["image"]], 1)
        h = self.head(x)
        skips = [h]
        for layer in self.down:
            h = layer(h, embedding, context) if isinstance(layer, Level) else layer(h)
            skips.append(h)
        h = self.middle(h, embedding, context)
        for layer in self.up:
            if isinstance(layer, Level):
                h = layer(torch.cat([h, skips.pop()], 1), embedding, context)
            else:
                h = layer(F.interpolate(h, scale_factor=2, mode="nearest"))
        return self.tail(F.silu(self.norm(h)))

"""The published network of DuDoDp (Liu et al., IEEE TMI 43(10), 2024): a U-Net on 4 x 4 patches with a variance head.

Attribute names equal the key names of the published checkpoints, so that their state dicts load as they are. The
network predicts the clean image (x0) and, per pixel, how far the variance lies between its two bounds (v, not used for
artefact reduction)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32
POSITION_SPAN = 64  # the positional map runs over 0..64 whatever the side of the feature map


@dataclass(frozen=True)
class DuDoDpConfig:
    """Configuration of the published network (defaults: the published 82-million-parameter one).

    width: channels of the first level; multipliers: width factor per level; attention_levels: levels with
    self-attention (published: feature maps of side 16 and 8, which are levels 3 and 4 of a 512 x 512 image in patches
    of 4); head_width: channels per head; patch: side of the patches that become channels; variance: variance head."""

    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    attention_levels: tuple[int, ...] = (3, 4)
    head_width: int = 64
    patch: int = 4
    variance: bool = True

    @property
    def divisor(self) -> int:
        """Image sides must be multiples of this."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON form for a model card."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> DuDoDpConfig:
        """The inverse of `to_dict`; unknown fields raise TypeError."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})


def time_embedding(t: Tensor, width: int) -> Tensor:
    """[sin(t f), cos(t f)], f_j = 10000^(-j/(width/2-1)) (their denominator); t [B], returns [B, width]."""
    half = width // 2
    f = torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / max(half - 1, 1))
    phase = t.float()[:, None] * f
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def position_map(width: int, rows: int, columns: int, device: torch.device | str = "cpu") -> Tensor:
    """Fixed positional map [1, width, rows, columns]: sines of the column index, then of the row index (no cosines)."""
    half = width // 2
    f = torch.exp(-math.log(10000.0) * torch.arange(half, device=device, dtype=torch.float32) / max(half - 1, 1))

    def sines(side: int) -> Tensor:  # [half, side]
        return torch.sin(f[:, None] * (torch.arange(side, device=device, dtype=torch.float32) * POSITION_SPAN / side))

    by_column = sines(columns)[:, None, :].expand(half, rows, columns)
    by_row = sines(rows)[:, :, None].expand(half, rows, columns)
    return torch.cat([by_column, by_row])[None]


class ResidualBlock(nn.Module):
    """GroupNorm-SiLU-conv, FiLM from ONE linear layer after a norm without affine terms, SiLU-conv, skip."""

    def __init__(self, channels: int, embedding: int, out: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Linear(embedding, 2 * out)
        self.out_layers = nn.Sequential(nn.SiLU(), nn.Identity(), nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x [B, channels, h, w], embedding [B, E] -> [B, out, h, w]."""
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        h = F.group_norm(self.in_layers(x), GROUPS, eps=1e-3)
        return self.skip_connection(x) + self.out_layers(h * (1 + scale) + shift)


class Attention(nn.Module):
    """Self-attention over all pixels; q, k and v are the three thirds of the channels, split into heads afterwards."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        if head_width < 1 or channels % head_width:
            raise ValueError(
                f"An attention layer of {channels} channels can't be split into heads of {head_width}. "
                "Give the head width of the network (option head_width)."
            )
        self.heads = channels // head_width
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, h, w] -> the same shape."""
        flat = x.flatten(2)  # [B, C, h*w]
        b, c, n = flat.shape
        q, k, v = (
            part.reshape(b, self.heads, c // self.heads, n).transpose(2, 3)
            for part in self.qkv(self.norm(flat)).chunk(3, dim=1)
        )  # [B, heads, h*w, head_width]
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, n)
        return x + self.proj_out(h).reshape(x.shape)


class Downsample(nn.Module):
    """Stride-2 convolution that changes the width; padded at the bottom and right only (even sides)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, channels, h, w] -> [B, out, h/2, w/2]."""
        return self.op(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a convolution that changes the width."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, channels, h, w] -> [B, out, 2h, 2w]."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Stage(nn.Sequential):
    """Layers in a row; residual blocks also get the time embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x [B, C, h, w], embedding [B, E]."""
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x


class DuDoDpNet(nn.Module):
    """The published U-Net. Image sides are multiples of `config.divisor`."""

    def __init__(self, config: DuDoDpConfig) -> None:
        super().__init__()
        self.config = config
        c, mult = config.width, config.multipliers
        emb = c * mult[-1]
        self.time_embed = nn.Sequential(nn.Linear(c, 4 * c), nn.SiLU(), nn.Linear(4 * c, emb), nn.SiLU())
        self.input_blocks, skips = self._encoder(emb)
        self.middle_block = Stage(
            ResidualBlock(emb, emb, emb), Attention(emb, config.head_width), ResidualBlock(emb, emb, emb)
        )
        self.output_blocks = self._decoder(emb, skips)
        pixels = config.patch**2
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, c), nn.SiLU(), nn.Conv2d(c, pixels, 3, padding=1))
        if config.variance:
            self.variance_output_t_emb = nn.Conv2d(emb, 2 * c, 1)
            self.variance_output_model = nn.Sequential(
                nn.Conv2d(2 * c, c, 3, padding=1), nn.SiLU(), nn.Conv2d(c, pixels, 3, padding=1)
            )

    def _encoder(self, emb: int) -> tuple[nn.ModuleList, list[int]]:
        """Input blocks and the widths of their outputs (= widths of the skip connections)."""
        cfg, ch = self.config, self.config.width
        blocks = [Stage(nn.Conv2d(cfg.patch**2, ch, 3, padding=1))]
        widths = [ch]
        for level, m in enumerate(cfg.multipliers):
            for _ in range(cfg.blocks):
                blocks.append(self._level_stage(ch, emb, level))
                ch = cfg.width * m
                widths.append(ch)
            if level < len(cfg.multipliers) - 1:
                blocks.append(Stage(Downsample(ch, ch := cfg.width * cfg.multipliers[level + 1])))
                widths.append(ch)
        return nn.ModuleList(blocks), widths

    def _decoder(self, emb: int, skips: list[int]) -> nn.ModuleList:
        cfg, ch, blocks = self.config, emb, []
        for level in reversed(range(len(cfg.multipliers))):
            for i in range(cfg.blocks + 1):
                stage = self._level_stage(ch + skips.pop(), emb, level)
                ch = cfg.width * cfg.multipliers[level]
                if level > 0 and i == cfg.blocks:
                    stage.append(Upsample(ch, ch := cfg.width * cfg.multipliers[level - 1]))
                blocks.append(stage)
        return nn.ModuleList(blocks)

    def _level_stage(self, channels: int, emb: int, level: int) -> Stage:
        out = self.config.width * self.config.multipliers[level]
        layers: list[nn.Module] = [ResidualBlock(channels, emb, out)]
        if level in self.config.attention_levels:
            layers.append(Attention(out, self.config.head_width))
        return Stage(*layers)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x [B, 1, H, W] noisy image at the ORIGINAL time indices t [B] (0..999).

        Returns [B, 2, H, W]: x0 prediction (not clipped) and variance interpolation v in (0, 1); [B, 1, H, W] without
        a variance head. Raises ValueError where H or W is no multiple of `config.divisor`."""
        if x.shape[-2] % self.config.divisor or x.shape[-1] % self.config.divisor:
            raise ValueError(
                f"The image is {x.shape[-2]} x {x.shape[-1]}, but this network needs sides that are multiples "
                f"of {self.config.divisor}."
            )
        emb = self.time_embed(time_embedding(t, self.config.width))
        patches = F.pixel_unshuffle(x, self.config.patch)
        first = self.input_blocks[0](patches, emb)
        first = first + position_map(self.config.width, *first.shape[-2:], device=x.device)
        h, skips = first, [first]
        for block in self.input_blocks[1:]:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        x0 = F.pixel_shuffle(self.out(h), self.config.patch)
        return torch.cat([x0, self._variance(first, h, emb)], dim=1) if self.config.variance else x0

    def _variance(self, first: Tensor, last: Tensor, emb: Tensor) -> Tensor:
        """Variance head; gradients stop at its input. SiLU acts a second time on the already activated embedding."""
        u = torch.cat([first, last], dim=1).detach() + self.variance_output_t_emb(F.silu(emb)[:, :, None, None])
        return F.pixel_shuffle(self.variance_output_model(u).sigmoid(), self.config.patch)


def configuration(state: Mapping[str, Tensor], *, head_width: int = 64) -> DuDoDpConfig:
    """The configuration that a published state dict was made with, read from its tensor shapes.

    The head width leaves no trace in the shapes and must be told where it isn't the published 64. Raises ValueError
    with a sentence where the state dict is of another network."""
    if "input_blocks.0.0.weight" not in state or "time_embed.2.weight" not in state:
        raise ValueError(
            "The checkpoint has no tensors 'input_blocks.0.0.weight' and 'time_embed.2.weight', so it is not a DuDoDp "
            "network."
        )
    if any(".emb_layers.1." in key or ".out_layers.3." in key for key in state):
        raise ValueError(
            "The checkpoint is a guided-diffusion network (its blocks have 'emb_layers.1' or 'out_layers.3'), not a "
            "DuDoDp network."
        )
    width, pixels = state["input_blocks.0.0.weight"].shape[:2]
    multipliers, attention, blocks, level, count = [], set(), 0, 0, 0
    index = 1
    while any(key.startswith(f"input_blocks.{index}.") for key in state):
        if f"input_blocks.{index}.0.op.weight" in state:
            level, blocks, count = level + 1, count, 0
        else:
            count += 1
            convolution = state.get(f"input_blocks.{index}.0.out_layers.2.weight")
            if convolution is None:
                raise ValueError(
                    f"The block 'input_blocks.{index}' of the checkpoint is neither a residual block nor a "
                    "down-sampling, so it is not a DuDoDp network."
                )
            if count == 1:
                multipliers.append(convolution.shape[0] // width)
            if f"input_blocks.{index}.1.qkv.weight" in state:
                attention.add(level)
        index += 1
    return DuDoDpConfig(
        width=width,
        multipliers=tuple(multipliers),
        blocks=blocks or count,
        attention_levels=tuple(sorted(attention)),
        head_width=head_width,
        patch=math.isqrt(pixels),
        variance="variance_output_model.0.weight" in state,
    )

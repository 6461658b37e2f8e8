"""The published refiner of HiDiff (Chen et al. 2024): a Bernoulli U-Net with cross-attention (X-Former), in two kinds.

Weights and activations are real, or binary (one bit). Both kinds have the same names and shapes of weights: which
one a checkpoint is, must be known from elsewhere. The state is a mask of K independent bits; the answer is the flip
map |y_t - y_0| in (0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .hidiff import sinusoid

GROUPS = 32
HEADS = 4
ATTENDED = 0.35  # of a row's largest score: what binary attention looks at


class _Sign(torch.autograd.Function):
    """sign(x) in {-1, 0, 1}; the derivative is that of a piecewise quadratic: 2 - 2|x| within (-1, 1), else 0."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        return gradients[0] * (2 - 2 * x.abs()).clamp(min=0)


def sign(x: Tensor) -> Tensor:
    """The binary activation."""
    return _Sign.apply(x)  # type: ignore[no-any-return]


class BinaryConv(nn.Conv2d):
    """3x3 convolution with one bit a weight, scaled by each filter's mean |w|; gradients pass where |w| <= 1."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.detach().abs().mean((1, 2, 3), keepdim=True)
        passing = self.weight.clamp(-1, 1)
        weight = (scale * self.weight.sign() - passing).detach() + passing
        return self._conv_forward(sign(x), weight, self.bias)


class BinaryLinear(nn.Linear):
    """Linear layer with one bit a weight (sign of the deviation from the row's mean), scaled by each row's mean |w|."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.detach().abs().mean(1, keepdim=True)
        centred = (self.weight - self.weight.mean(1, keepdim=True)).clamp(-1, 1)
        weight = (scale * centred.sign() - centred).detach() + centred
        return F.linear(sign(x), weight, self.bias)


def _from_time(embedding: int, channels: int) -> nn.Sequential:
    """SiLU and a linear layer that is 0 at first: a shift by the time embedding."""
    layer = nn.Linear(embedding, channels)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.SiLU(), layer)


class Shift(nn.Module):
    """x [B, C, H, W] plus a bias per channel that depends on the time embedding."""

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.bias = _from_time(embedding, channels)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return x + self.bias(e)[:, :, None, None]


def pair_mean(x: Tensor, channels: int) -> Tensor:
    """x itself, or with twice the wanted channels the mean of channels 2j and 2j + 1."""
    return x if x.shape[1] == channels else x.unflatten(1, (channels, -1)).mean(2)


class BasicBlock(nn.Module):
    """Convolution, normalisation, residual (halved widths by pair means), PReLU between two shifts."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int, binary: bool):
        super().__init__()
        if channels_in not in (channels_out, 2 * channels_out):
            raise ValueError(f"A basic block keeps or halves its {channels_in} channels, not to {channels_out}.")
        self.move1 = Shift(channels_in, embedding)
        conv = BinaryConv if binary else nn.Conv2d
        self.binary_3x3 = conv(channels_in, channels_out, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels_out)
        self.move2, self.move3 = Shift(channels_out, embedding), Shift(channels_out, embedding)
        self.prelu = nn.PReLU(channels_out)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.bn(self.binary_3x3(self.move1(x, e)))
        return self.move3(self.prelu(self.move2(h + pair_mean(x, h.shape[1]), e)), e)


class DownBlock(nn.Module):
    """Half the size; once or twice the width by as many convolutions side by side."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int, binary: bool):
        super().__init__()
        if channels_out not in (channels_in, 2 * channels_in):
            raise ValueError(f"A down block keeps or doubles its {channels_in} channels, not to {channels_out}.")
        conv, branches = BinaryConv if binary else nn.Conv2d, channels_out // channels_in
        self.move1 = Shift(channels_in, embedding)
        self.binary_3x3 = nn.ModuleList(conv(channels_in, channels_in, 3, 2, 1) for _ in range(branches))
        self.bn = nn.ModuleList(nn.BatchNorm2d(channels_in) for _ in range(branches))
        self.move2, self.move3 = Shift(channels_out, embedding), Shift(channels_out, embedding)
        self.prelu = nn.PReLU(channels_out)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        moved, pooled = self.move1(x, e), F.avg_pool2d(x, 2)
        branches = [norm(conv(moved)) + pooled for conv, norm in zip(self.binary_3x3, self.bn, strict=True)]
        return self.move3(self.prelu(self.move2(torch.cat(branches, 1), e)), e)


class UpBlock(BasicBlock):
    """Twice the size by repetition, then a basic block."""

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"), e)


class ResBlock(nn.Module):
    """Residual block of a feature map of the segmentor, scaled and shifted by the time embedding."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int):
        super().__init__()
        conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, channels_in), nn.SiLU(), conv)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * channels_out))
        last = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.out_layers = nn.Sequential(nn.GroupNorm(GROUPS, channels_out), nn.SiLU(), last)
        same = channels_in == channels_out
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.emb_layers(e)[:, :, None, None].chunk(2, 1)
        norm, *rest = self.out_layers
        h = norm(self.in_layers(x)) * (1 + scale) + shift
        for layer in rest:
            h = layer(h)
        return self.skip_connection(x) + h


class ConcatLayer(BasicBlock):
    """Takes a feature map of the segmentor in."""

    def __init__(self, condition: int, channels: int, embedding: int, binary: bool):
        super().__init__(2 * channels, channels, embedding, binary)
        self.condition_conv = ResBlock(condition, channels, embedding)

    def forward(self, x: Tensor, condition: Tensor, e: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat([x, self.condition_conv(condition, e)], 1), e)


class TokenNorm(nn.BatchNorm1d):
    """Batch normalisation of tokens [B, N, d] over batch and tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class TokenShifts(nn.Module):
    """PReLU of tokens [B, N, d] between two shifts by the time embedding."""

    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.move1, self.move2 = _from_time(embedding, width), _from_time(embedding, width)
        self.prelu = nn.PReLU(width)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        x = x + self.move1(e)[:, None]
        return self.prelu(x.transpose(1, 2)).transpose(1, 2) + self.move2(e)[:, None]


class LayerScale(nn.Module):
    """x alpha + shift, both from the time embedding."""

    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.alpha, self.move = _from_time(embedding, width), _from_time(embedding, width)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return x * self.alpha(e)[:, None] + self.move(e)[:, None]


class LayerScaleModule(nn.Module):
    """Residual linear layer of tokens, scaled."""

    def __init__(self, width: int, embedding: int, binary: bool):
        super().__init__()
        self.dense = (BinaryLinear if binary else nn.Linear)(width, width)
        self.move = _from_time(embedding, width)
        self.norm = TokenNorm(width)
        self.rprelu = TokenShifts(width, embedding)
        self.layerscale = LayerScale(width, embedding)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.norm(self.dense(x + self.move(e)[:, None])) + x
        return self.layerscale(self.rprelu(h, e), e)


class CrossAttention(nn.Module):
    """Attention of one sequence of tokens (queries) to another of the same length (keys, values)."""

    def __init__(self, width: int, embedding: int, binary: bool):
        super().__init__()
        self.binary = binary
        linear = BinaryLinear if binary else nn.Linear
        for letter, name in (("q", "query1"), ("k", "key1"), ("v", "value1")):
            setattr(self, f"move{letter}1", _from_time(embedding, width))
            setattr(self, name, linear(width, width))
            setattr(self, f"norm{letter}1", TokenNorm(width))
            setattr(self, f"rprelu{letter}1", TokenShifts(width, embedding))
            setattr(self, f"move{letter}2", _from_time(embedding, width))
        self.norm_context = TokenNorm(width)
        self.rprelu_context = TokenShifts(width, embedding)

    def forward(self, source: Tensor, queries: Tensor, e: Tensor) -> Tensor:
        """source: tokens of keys and values [B, N, d]; queries [B, N, d]."""
        q, k, v = (
            self._prepared(x, letter, name, e)
            for x, letter, name in ((queries, "q", "query1"), (source, "k", "key1"), (source, "v", "value1"))
        )
        split = [self._heads(x + getattr(self, f"move{n}2")(e)[:, None]) for x, n in ((q, "q"), (k, "k"), (v, "v"))]
        context = self._attention(*split).transpose(1, 2).flatten(2)
        return self.rprelu_context(self.norm_context(context) + q + k + v, e)

    def _prepared(self, x: Tensor, letter: str, name: str, e: Tensor) -> Tensor:
        moved = x + getattr(self, f"move{letter}1")(e)[:, None]
        h = getattr(self, f"norm{letter}1")(getattr(self, name)(moved)) + x
        return getattr(self, f"rprelu{letter}1")(h, e)

    def _heads(self, x: Tensor) -> Tensor:
        x = sign(x) if self.binary else x
        return x.unflatten(2, (HEADS, -1)).transpose(1, 2)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        weights = scores.softmax(-1)
        if self.binary:  # a row without a positive score attends to nothing, as published
            chosen = (scores > ATTENDED * scores.amax(-1, keepdim=True)).to(scores.dtype)
            weights = (chosen - weights).detach() + weights
        return weights @ v


class _Expand(nn.Module):
    """Linear layer of tokens with the residual `kept(x)`, which has as many channels as the result."""

    def __init__(self, width_in: int, width_out: int, embedding: int, binary: bool):
        super().__init__()
        self.dense = (BinaryLinear if binary else nn.Linear)(width_in, width_out)
        self.move = _from_time(embedding, width_in)
        self.norm = TokenNorm(width_out)
        self.rprelu = TokenShifts(width_out, embedding)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.norm(self.dense(x + self.move(e)[:, None]))
        return self.rprelu(h + self._residual(x, h.shape[-1]), e)

    @staticmethod
    def _residual(x: Tensor, width: int) -> Tensor:
        """Copies side by side where the width grows, means of neighbours where it shrinks."""
        if width > x.shape[-1]:
            return x.repeat(1, 1, width // x.shape[-1])
        return x.unflatten(2, (width, -1)).mean(3)


class _Contract(_Expand):
    def __init__(self, width_in: int, width_out: int, embedding: int, binary: bool):
        super().__init__(width_in, width_out, embedding, binary)
        self.layerscale = LayerScale(width_out, embedding)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.layerscale(super().forward(x, e), e)


class FeedForward(nn.Module):
    """Four times the width and back, plus local means of the tokens along rows and columns."""

    WINDOWS = {"layerscale_h3": (3, 1), "layerscale_w3": (1, 3), "layerscale_h5": (5, 1), "layerscale_w5": (1, 5)}

    def __init__(self, width: int, embedding: int, binary: bool):
        super().__init__()
        self.layernorm_before = TokenNorm(width)  # of the checkpoints, used by nothing
        self.layernorm_after = TokenNorm(width)
        self.intermediate = _Expand(width, 4 * width, embedding, binary)
        self.output = _Contract(4 * width, width, embedding, binary)
        for name in self.WINDOWS:
            setattr(self, name, LayerScale(width, embedding))

    def forward(self, x: Tensor, attended: Tensor, e: Tensor, size: tuple[int, int]) -> Tensor:
        h = attended + x
        n = self.layernorm_after(h)
        total = self.output(self.intermediate(n, e), e) + h
        image = n.transpose(1, 2).unflatten(2, size)
        for name, window in self.WINDOWS.items():
            padding = (window[0] // 2, window[1] // 2)
            means = F.avg_pool2d(image, window, 1, padding).flatten(2).transpose(1, 2)
            total = total + getattr(self, name)(means, e)
        return total


class XFormer(nn.Module):
    """Cross-attention of the refiner's deepest features with those of the segmentor.

    legacy_token_layout : the release takes the tokens [B, N, d] for an image [B, d, h, w] without transposing."""

    def __init__(self, condition: int, width: int, embedding: int, binary: bool, legacy_token_layout: bool = False):
        super().__init__()
        self.legacy_token_layout = legacy_token_layout
        self.condition_conv = ResBlock(condition, width, embedding)
        for n in (1, 2):
            setattr(self, f"norm_condition{n}", TokenNorm(width))
            setattr(self, f"norm_embedding{n}", TokenNorm(width))
            setattr(self, f"cross_attention{n}", CrossAttention(width, embedding, binary))
            setattr(self, f"layerscale{n}", LayerScaleModule(width, embedding, binary))
            setattr(self, f"fnn{n}", FeedForward(width, embedding, binary))

    def forward(self, condition: Tensor, x: Tensor, e: Tensor) -> Tensor:
        """condition [B, C, h, w] of the segmentor, x [B, d, h, w] -> [B, d, h, w]."""
        size = (x.shape[2], x.shape[3])
        c0 = self.condition_conv(condition, e).flatten(2).transpose(1, 2)
        x0 = x.flatten(2).transpose(1, 2)
        queries = self.norm_embedding1(x0)
        attended = self.layerscale1(self.cross_attention1(self.norm_condition1(c0), queries, e), e)
        c1 = self.fnn1(c0, attended, e, size)
        again = self.norm_embedding2(queries)
        attended = self.layerscale2(self.cross_attention2(again, self.norm_condition2(c1), e), e)
        tokens = self.fnn2(x0, attended, e, size)
        return tokens.reshape(x.shape) if self.legacy_token_layout else tokens.transpose(1, 2).reshape(x.shape)


class BernoulliUNet(nn.Module):
    """Flip probabilities from image, state and prior. Sides: multiples of `stride`.

    channels : of the image. structures : K. conditions : channels of the segmentor's maps at 1/4, 1/8, 1/16 and 1/32.
    width : channels of the first level. ValueError where group normalisation needs another number of channels."""

    stride = 32
    PLAN = ((1, 1), (1, 2), (2, 2), (2, 4), (4, 4))  # width of each level and after its down block

    def __init__(self, channels: int, structures: int, conditions: Sequence[int], width: int = 128, *,
                 binary: bool = False, legacy_token_layout: bool = False):  # fmt: skip
        super().__init__()
        if len(conditions) != 4 or any(n % GROUPS for n in (*conditions, width)):
            raise ValueError(
                f"The refiner's width is {width} and its conditions have {list(conditions)} channels; four conditions, and "
                f"multiples of {GROUPS}, are needed."
            )
        self.width, e, deep = width, 4 * width, 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, e), nn.SiLU(), nn.Linear(e, e))
        self.input_conv = nn.Conv2d(channels + 2 * structures, width, 3, padding=1)
        for n, (before, after) in enumerate(self.PLAN, 1):
            setattr(self, f"block{n}_conv", BasicBlock(before * width, before * width, e, binary))
            setattr(self, f"block{n}_down", DownBlock(before * width, after * width, e, binary))
            if n >= 3:
                setattr(self, f"concat{n - 2}", ConcatLayer(conditions[n - 3], before * width, e, binary))
            ups, skip = self.PLAN[5 - n][::-1], self.PLAN[5 - n][0]
            setattr(self, f"up_block{n}_up", UpBlock(ups[0] * width, skip * width, e, binary))
            setattr(self, f"up_block{n}_conv", BasicBlock(2 * skip * width, skip * width, e, binary))
        self.middle_block1, self.middle_block2 = (BasicBlock(deep, deep, e, binary) for _ in range(2))
        self.cross1 = XFormer(conditions[3], deep, e, binary, legacy_token_layout)
        last = nn.Conv2d(width, structures, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), last)

    def forward(self, image: Tensor, y: Tensor, prior: Tensor, features: Sequence[Tensor], t: Tensor) -> Tensor:
        """image [B, C, H, W]; y, prior [B, K, H, W]; four features; t [B] -> [B, K, H, W] in (0, 1)."""
        e = self.time_embed(sinusoid(t, self.width))
        h = self.input_conv(torch.cat([image, y, prior], 1))
        skips = []
        for n in range(1, 6):
            h = getattr(self, f"block{n}_conv")(h, e)
            if n >= 3:
                h = getattr(self, f"concat{n - 2}")(h, features[n - 3], e)
            skips.append(h)
            h = getattr(self, f"block{n}_down")(h, e)
        h = self.middle_block2(self.cross1(features[3], self.middle_block1(h, e), e), e)
        for n in range(1, 6):
            h = getattr(self, f"up_block{n}_up")(h, e)
            h = getattr(self, f"up_block{n}_conv")(torch.cat([h, skips.pop()], 1), e)
        return self.out(h).sigmoid()

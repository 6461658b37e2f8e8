"""A compact 2.5D U-Net for segmentation: neighbouring slices in, one logit per structure out, deep supervision.

Each structure has a logit of its own (sigmoid, not softmax), so that a structure that a patient lacks as a label can be
masked in the loss without a guess about the others. Batch normalisation: in evaluation mode a slice's answer depends
neither on the rest of the batch nor on how much air surrounds the patient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Segmented(NamedTuple):
    """logits : [B, K, H, W], then the same at 1/2, 1/4 ... of the size (deep supervision).
    features : encoder maps at 1/4 and 1/8 of the size, for a refiner."""

    logits: list[Tensor]
    features: list[Tensor]


def double_conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """Twice: 3x3 convolution, batch normalisation, leaky ReLU; `stride` is that of the first."""
    layers: list[nn.Module] = []
    for source, step in ((channels_in, stride), (channels_out, 1)):
        layers += [nn.Conv2d(source, channels_out, 3, step, 1, bias=False), nn.BatchNorm2d(channels_out)]
        layers += [nn.LeakyReLU(0.01, inplace=True)]
    return nn.Sequential(*layers)


class Segmentor(nn.Module):
    """U-Net over images [B, channels, H, W] (windows of neighbouring slices as channels); sides: multiples of `stride`.

    structures : K. widths : channels of the levels."""

    def __init__(self, channels: int, structures: int, widths: tuple[int, ...] = (16, 32, 64, 128)):
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList([double_conv(channels, widths[0])])
        self.down.extend(double_conv(a, b, stride=2) for a, b in zip(widths, widths[1:]))
        pairs = list(zip(widths, widths[1:]))[::-1]
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(double_conv(2 * a, a) for a, _ in pairs)
        self.out = nn.ModuleList(nn.Conv2d(a, structures, 1) for a, _ in pairs)
        for layer in self.out:
            nn.init.constant_(layer.bias, -4.0)  # most pixels belong to no structure

    def forward(self, x: Tensor) -> Segmented:
        """x [B, channels, H, W] -> logits, finest first, and features."""
        if any(side % self.stride for side in x.shape[2:]):
            raise ValueError(f"The sides of {tuple(x.shape)} must be multiples of {self.stride}; pad the image.")
        maps = []
        for layer in self.down:
            x = layer(x)
            maps.append(x)
        logits = []
        for enlarge, up, out, skip in zip(self.enlarge, self.up, self.out, maps[-2::-1], strict=True):
            x = up(torch.cat([enlarge(x), skip], 1))
            logits.append(out(x))
        return Segmented(logits[::-1], maps[2:])


def supervise(logits: list[Tensor], target: Tensor, known: Tensor) -> Tensor:
    """Loss of deep supervision: binary cross-entropy plus 1 - Dice over the batch, weights 1, 1/2, 1/4 ... by level.

    target : 0 or 1 [B, K, H, W]. known : 1 where the structure is labelled, [B, K]; the rest teaches nothing."""
    total, weights = logits[0].new_zeros((), dtype=torch.float32), 0.0
    for level, estimate in enumerate(logits):
        coarse = F.avg_pool2d(target, 2**level) if level else target
        total = total + 0.5**level * one_level(estimate.float(), coarse, known)
        weights += 0.5**level
    return total / weights


def one_level(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy plus Dice loss of one level; structures unlabelled in the whole batch are left out of both."""
    mask = known[:, :, None, None]
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * mask
    pixels = mask.sum().clamp(min=1) * logits[0, 0].numel()
    probability = logits.sigmoid() * mask
    axes = (0, 2, 3)
    overlap, size = (probability * target).sum(axes), (probability + target * mask).sum(axes)
    labelled = (known.sum(0) > 0).float()
    dice = (1 - (2 * overlap + 1) / (size + 1)) * labelled
    return 10 * entropy.sum() / pixels + dice.sum() / labelled.sum().clamp(min=1)

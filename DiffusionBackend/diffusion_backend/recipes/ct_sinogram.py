"""Recipe of `ct-sinogram`: an unconditional prior of metal-free CT sinograms, for inpainting the metal's shadow (A10).

The network sees the ratio of a sinogram to the projection of its NMAR prior image (`physics.metal.to_ratio`): near 1,
free of scale, patient size and most bone. Data: the clean training slices of `ct-image`, measured by the virtual
scanner with about 320 views and bins. The prior image is made as at inference, from the interpolation across the
shadow of a random disc, so that it carries the errors that it has there; the target stays the metal-free sinogram.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..physics.ct import ImageGrid, hu_to_mu, projector
from ..physics.fbp import fbp
from ..physics.metal import metal_trace, prior_image, to_ratio, virtual_geometry
from ..training import Parts, Phase
from ._denoiser import DenoiserRecipe
from .ct_image import provenance, read_slices

VIEWS, BINS = 320, 321
PATCH, BATCH = 64, 16
OFFSET, SCALE = 1.0, 0.08  # network unit: (ratio - 1) / 0.08, spread about 0.5
SIGMA = (0.0008, 1.6)                       # ratio
NETWORK = {"dims": 2, "in_channels": 1, "out_channels": 1, "width": 24, "multipliers": (1, 2, 3), "blocks": 1}
VALIDATION_SIGMA = (0.002, 0.005, 0.01, 0.02, 0.05, 0.2)
DISC_PIXELS = (2.0, 12.0)                   # radius of the random metal


def ratio_sinograms(hu: Tensor, rng: np.random.Generator) -> Tensor:
    """Ratios [B, VIEWS, BINS] of clean slices [B, H, W] in HU to the projection of their NMAR prior images.

    The pixel size doesn't matter: the virtual scanner scales with the slice, and a ratio has no unit."""
    grid = ImageGrid(hu.shape[-2], hu.shape[-1], 1.0)
    geometry = virtual_geometry(grid, VIEWS, BINS)
    scanner = projector(geometry, grid)
    metal = torch.stack([random_disc(slice_hu, rng) for slice_hu in hu])
    sinogram, trace = scanner.forward(hu_to_mu(hu)), metal_trace(metal, scanner)
    prior = prior_image(sinogram, trace, metal, lambda s: fbp(s, geometry, grid), keep_lung=True)
    return to_ratio(sinogram, scanner.forward(prior))


def random_disc(hu: Tensor, rng: np.random.Generator) -> Tensor:
    """A disc somewhere in the body of a slice [H, W], boolean."""
    inside = (hu > -200).nonzero()
    row, column = inside[rng.integers(len(inside))].tolist() if len(inside) else (hu.shape[0] // 2, hu.shape[1] // 2)
    y, x = torch.meshgrid(*(torch.arange(n) for n in hu.shape), indexing="ij")
    return (y - row) ** 2 + (x - column) ** 2 < rng.uniform(*DISC_PIXELS) ** 2


def random_patch(ratio: Tensor, rng: np.random.Generator) -> Tensor:
    """A window [PATCH, PATCH] of a sinogram [V, D]: any first view (views are periodic), both axes stretched by 0.8 to
    1.25, half of them mirrored (patient mirrored: views and bins run backwards)."""
    sides = [round(PATCH * math.exp(rng.uniform(-1, 1) * math.log(1.25))) for _ in range(2)]
    first, left = int(rng.integers(ratio.shape[0])), int(rng.integers(ratio.shape[1] - sides[1] + 1))
    rows = torch.arange(first, first + sides[0]) % ratio.shape[0]
    window = ratio[rows, left : left + sides[1]][None, None]
    patch = F.interpolate(window, (PATCH, PATCH), mode="bicubic", align_corners=False)[0, 0]
    return patch.flip((0, 1)) if rng.random() < 0.5 else patch


class CtSinogram(DenoiserRecipe):
    """One phase: batches of 16 windows of 64 views and 64 bins."""

    unit, offset, scale, sigma, network = "ratio", OFFSET, SCALE, SIGMA, NETWORK

    def __init__(self, data: Path):
        self.slices = {split: read_slices(data, split) for split in ("train", "val")}
        rng = np.random.default_rng(0)
        self.train = {patient: self._measure(slices, rng) for patient, slices in sorted(self.slices["train"].items())}
        self.validation = torch.cat([self._measure(slices[len(slices) // 2 :][:1], rng)
                                     for _, slices in sorted(self.slices["val"].items())])  # fmt: skip

    @staticmethod
    def _measure(slices: list[np.ndarray], rng: np.random.Generator) -> Tensor:
        hu = torch.from_numpy(np.stack(slices)).float().clamp(min=-1000)
        return torch.cat([ratio_sinograms(part, rng) for part in hu.split(BATCH)])

    def phases(self) -> list[Phase]:
        return [Phase("64", "denoiser", 1.0, self.loss)]

    def batch(self, phase: Phase, rng: np.random.Generator) -> dict[str, Tensor]:
        patients = sorted(self.train)
        patches = []
        for _ in range(BATCH):
            sinograms = self.train[patients[rng.integers(len(patients))]]
            patches.append(random_patch(sinograms[rng.integers(len(sinograms))], rng))
        return self.noisy(patches, rng)

    def validate(self, parts: Parts) -> dict[str, float]:
        """RMSE in thousandths of the ratio per noise level, one sinogram of each validation patient; score: their
        geometric mean."""
        device = next(parts["denoiser"].parameters()).device
        generator = torch.Generator().manual_seed(1)
        rmse: dict[str, float] = {}
        x0 = ((self.validation[:, None, :, : BINS - 1] - OFFSET) / SCALE).to(device)  # bins: a multiple of 4
        for sigma in VALIDATION_SIGMA:
            s = torch.full((1,), sigma / SCALE, device=device)
            noise = torch.randn(x0.shape, generator=generator).to(device)
            errors = [self.edm.denoise(parts["denoiser"], (x + s * n)[None], s) - x for x, n in zip(x0, noise)]
            rmse[f"rmse_{sigma:g}"] = 1000 * SCALE * math.sqrt(float(torch.cat(errors).square().mean()))
        return {"score": math.exp(np.mean(np.log(list(rmse.values())))), **rmse}

    def card(self) -> dict[str, Any]:
        return provenance(self.slices["train"], self.slices["val"]) | self.interface()

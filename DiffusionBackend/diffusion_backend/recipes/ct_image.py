"""Recipe of `ct-image`: an unconditional 2D prior of clean axial CT in HU, for noise of 5 to 3000 HU.

Data: a folder with `ct-tcia-slices` (README there). Only metal-free training slices are used, and none of the patients
of `ct-metal-clinical`; slices are drawn by patient, so that long scans don't outweigh short ones.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..training import Parts, Phase
from ._denoiser import DenoiserRecipe

EXCLUDED = {"p012", "p027", "p038", "p054", "p057", "p059", "p062", "p070"}  # patients of ct-metal-clinical
SIGMA_HU = (5.0, 3000.0)
OFFSET_HU, SCALE_HU = -500.0, 1000.0  # network unit: (HU + 500) / 1000, spread about 0.5
NETWORK = {"dims": 2, "in_channels": 1, "out_channels": 1, "width": 32, "multipliers": (1, 2, 4), "blocks": 1}
VALIDATION_SIGMA_HU = (10, 20, 50, 100, 200, 300, 1000)


def read_slices(folder: Path, split: str) -> dict[str, list[np.ndarray]]:
    """Metal-free slices (int16 HU [256, 256]) of a split of `ct-tcia-slices`, by patient."""
    table = folder / "ct-tcia-slices" / "slices.csv"
    if not table.exists():
        raise InputError(f"'{folder}' has no ct-tcia-slices/slices.csv.", "Give --data the folder that holds it.")
    wanted = defaultdict(list)
    with open(table, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            use = row["split"] == split and row["px_over_2500"] == "0" and row["patient"] not in EXCLUDED
            if use and not row["npz"].startswith("test"):
                wanted[row["npz"]].append((int(row["index"]), row["patient"]))
    slices = defaultdict(list)
    for name, entries in sorted(wanted.items()):
        hu = np.load(table.parent / name, allow_pickle=False)["hu"]
        for index, patient in entries:
            slices[patient].append(hu[index])
    return dict(slices)


def random_crop(image: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """A crop [size, size] of a slice [H, W] (HU): pixel as it is, or 2 or 4 times as large; half of the crops are
    flipped only, half also turned by up to 10 degrees and scaled by 0.8 to 1.25 (bicubic)."""
    largest = int(math.log2(min(image.shape) // size))
    pooling = 2 ** min(int(rng.choice(3, p=(0.7, 0.25, 0.05))), largest)
    image = F.avg_pool2d(image[None, None], pooling)[0, 0] if pooling > 1 else image
    rows, columns = image.shape
    for _ in range(5):  # prefer crops with some body in them: air teaches little
        top, left = int(rng.integers(rows - size + 1)), int(rng.integers(columns - size + 1))
        if (image[top : top + size, left : left + size] > -500).float().mean() > 0.2:
            break
    if rng.random() < 0.5:
        crop = image[top : top + size, left : left + size]
    else:
        angle, scale = math.radians(rng.uniform(-10, 10)), math.exp(rng.uniform(-1, 1) * math.log(1.25))
        offsets = (torch.arange(size) - (size - 1) / 2) * scale
        y, x = torch.meshgrid(offsets, offsets, indexing="ij")
        column = x * math.cos(angle) - y * math.sin(angle) + left + (size - 1) / 2
        row = x * math.sin(angle) + y * math.cos(angle) + top + (size - 1) / 2
        grid = torch.stack([(2 * column + 1) / columns - 1, (2 * row + 1) / rows - 1], -1)[None]
        crop = F.grid_sample(image[None, None], grid, "bicubic", "border", align_corners=False)[0, 0]
    flips = [axis for axis in (0, 1) if rng.random() < 0.5]
    return crop.flip(flips).clamp(min=-1000)


def provenance(train: dict[str, list[np.ndarray]], validation: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """The part of a card that tells where these slices come from, and the terms that go with them."""
    return {
        "domain": {"anatomy": "axial CT: chest, abdomen, neck, head, pelvis", "pixel_mm": [0.4, 4.0]},
        "licence": "CC BY 4.0",
        "attribution": "Trained on images of The Cancer Imaging Archive (17 collections, CC BY 3.0 and 4.0; "
        "Clark et al., J. Digit. Imaging 26, 2013) and a head CT of Aliza Medical Imaging (BSD-2-Clause).",
        "training": {
            "data": "ct-tcia-slices: metal-free training slices, by patient",
            "patients": {"train": sorted(train), "validation": sorted(validation)},
            "slices": sum(map(len, train.values())),
        },
    }


class CtImage(DenoiserRecipe):
    """Two phases of equal cost a step: 16 crops of 64 pixels (70 % of the time), then 4 crops of 128 pixels."""

    unit, offset, scale, sigma, network = "HU", OFFSET_HU, SCALE_HU, SIGMA_HU, NETWORK

    def __init__(self, data: Path):
        self.train = read_slices(data, "train")
        self.validation = read_slices(data, "val")

    def phases(self) -> list[Phase]:
        return [Phase("64", "denoiser", 0.7, self.loss), Phase("128", "denoiser", 0.3, self.loss)]

    def batch(self, phase: Phase, rng: np.random.Generator) -> dict[str, Tensor]:
        size = int(phase.name)
        patients = sorted(self.train)
        crops = []
        for _ in range(16 * 64**2 // size**2):
            slices = self.train[patients[rng.integers(len(patients))]]
            crops.append(random_crop(torch.from_numpy(slices[rng.integers(len(slices))]).float(), size, rng))
        return self.noisy(crops, rng)

    def validate(self, parts: Parts) -> dict[str, float]:
        """RMSE in HU per noise level over one middle slice of each validation patient; score: their geometric mean."""
        device = next(parts["denoiser"].parameters()).device
        generator = torch.Generator().manual_seed(1)
        squares: dict[int, list[float]] = {s: [] for s in VALIDATION_SIGMA_HU}
        for _, slices in sorted(self.validation.items()):
            hu = torch.from_numpy(slices[len(slices) // 2]).float()[None, None]
            x0 = ((hu - OFFSET_HU) / SCALE_HU).to(device)
            for sigma in VALIDATION_SIGMA_HU:
                s = torch.tensor([sigma / SCALE_HU], device=device)
                x = x0 + s * torch.randn(x0.shape, generator=generator).to(device)
                estimate = self.edm.denoise(parts["denoiser"], x, s)
                squares[sigma].append(float((estimate - x0).square().mean()) * SCALE_HU**2)
        rmse = {f"rmse_{s}": math.sqrt(np.mean(v)) for s, v in squares.items()}
        return {"score": math.exp(np.mean(np.log(list(rmse.values())))), **rmse}

    def card(self) -> dict[str, Any]:
        return provenance(self.train, self.validation) | self.interface()

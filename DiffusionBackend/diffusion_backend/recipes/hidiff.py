"""Recipe of `hidiff-hn`: segmentor and Bernoulli refiner (HiDiff) of seven structures in head-and-neck CT (OpenKBP).

The segmentor is trained alone first, then the refiner, then they take turns (alternate-collaborative training). Slices
are brought to 3.5 mm pixels; a channel is one window of one of five slices 3 mm apart. Structures that weren't
contoured in a patient are unlabelled: they count neither in the loss nor in the Dice coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.bernoulli import even_times, forward_mean, mix_loss, process, sample
from ..io import openkbp
from ..networks.hidiff import CompactRefiner
from ..networks.segmentor import Segmentor, supervise
from ..training import Parts, Phase

PIXEL_MM, CROP, BATCH = 3.5, 96, 16
SLICES_MM = (-6.0, -3.0, 0.0, 3.0, 6.0)     # neighbours that the networks see, to superior
WINDOWS_HU = ((-200.0, 300.0), (-1000.0, 2000.0))
CHANNELS = len(SLICES_MM) * len(WINDOWS_HU)
STRUCTURES = openkbp.STRUCTURES
MIRRORED = [STRUCTURES.index(n.replace("Right", "?").replace("Left", "Right").replace("?", "Left"))
            for n in STRUCTURES]  # fmt: skip
STEPS, SCHEDULE = 10, "cosine"
FEWEST_SLICES = 10
COLLABORATION = 0.1                         # weight of the refiner's loss in the segmentor's
VALIDATION_PATIENTS, VALIDATION_STRIDE = 12, 5
VALIDATION_CALLS, VALIDATION_DRAWS = 5, 1


@dataclass(frozen=True)
class Case:
    """A patient as tensors: hu int16 and bits uint8 (bit = index in STRUCTURES) [k, j, i], known float [structures].

    pixel, thickness : mm. centre : (j, i) of the contoured region. slices : per structure those that contain it."""

    name: str
    hu: Tensor
    bits: Tensor
    known: Tensor
    pixel: float
    thickness: float
    centre: tuple[float, float]
    slices: list[np.ndarray]


def case(patient: openkbp.Patient) -> Case:
    """The scanned slices of a patient."""
    first, last = patient.scanned
    bits = (patient.masks[first:last] & (2 ** len(STRUCTURES) - 1)).astype(np.uint8)
    slices = [np.flatnonzero(((bits >> b) & 1).any(axis=(1, 2))) for b in range(len(STRUCTURES))]
    region = np.argwhere(bits.any(axis=0)) if bits.any() else np.array([[64, 64]])
    j, i = (region.min(0) + region.max(0)) / 2
    known = torch.tensor([float(len(s) > 0 and n in patient.present) for s, n in zip(slices, STRUCTURES)])
    return Case(
        patient.name, torch.from_numpy(patient.hu[first:last].copy()), torch.from_numpy(bits), known,
        patient.spacing[0], patient.spacing[2], (float(j), float(i)), slices,
    )  # fmt: skip


@dataclass(frozen=True)
class View:
    """Where the networks look: centre (j, i) in pixels of the patient, degrees, magnification, mirrored or not."""

    centre: tuple[float, float]
    sides: tuple[int, int] = (CROP, CROP)
    degrees: float = 0.0
    scale: float = 1.0
    mirrored: bool = False


def look(patient: Case, index: int, view: View) -> tuple[Tensor, Tensor]:
    """HU of the neighbouring slices [len(SLICES_MM), h, w] and masks [structures, h, w] at 3.5 mm, bilinear."""
    _, rows, columns = patient.hu.shape
    step, angle = PIXEL_MM / patient.pixel / view.scale, math.radians(view.degrees)
    y, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in view.sides), indexing="ij")
    x = -x if view.mirrored else x
    column = (x * math.cos(angle) - y * math.sin(angle)) * step + view.centre[1]
    row = (x * math.sin(angle) + y * math.cos(angle)) * step + view.centre[0]
    grid = torch.stack([(2 * column + 1) / columns - 1, (2 * row + 1) / rows - 1], -1)[None]
    near = [min(max(index + round(mm / patient.thickness), 0), len(patient.hu) - 1) for mm in SLICES_MM]
    masks = (patient.bits[index] >> torch.arange(len(STRUCTURES))[:, None, None]) & 1
    above_air = torch.cat([patient.hu[near].float() + openkbp.OFFSET, masks.float()])[None]  # outside: air, no mask
    seen = F.grid_sample(above_air, grid, "bilinear", "zeros", align_corners=False)[0]
    masks = (seen[len(near) :] >= 0.5).float()
    return seen[: len(near)] - openkbp.OFFSET, masks[MIRRORED] if view.mirrored else masks


def channels(hu: Tensor) -> Tensor:
    """Windows of HU [..., slices, h, w] as channels [..., CHANNELS, h, w], each -1 to 1."""
    return torch.cat([((hu - (a + b) / 2) / ((b - a) / 2)).clamp(-1, 1) for a, b in WINDOWS_HU], -3)


def random_slice(cases: Sequence[Case], rng: np.random.Generator) -> tuple[Case, int]:
    """A patient and one of its slices: two thirds with a contoured structure, each structure alike however few the
    patients that have it; the rest any scanned slice of any patient."""
    structure = int(rng.integers(len(STRUCTURES)))
    having = [c for c in cases if c.known[structure]]
    if having and rng.random() < 2 / 3:
        patient = having[rng.integers(len(having))]
        return patient, int(rng.choice(patient.slices[structure]))
    patient = cases[rng.integers(len(cases))]
    return patient, int(rng.integers(len(patient.hu)))


def random_view(patient: Case, rng: np.random.Generator) -> View:
    """Turned by up to 15 degrees, scaled by 0.85 to 1.18, moved by up to 35 mm (a fifth of them: anywhere)."""
    if rng.random() < 0.2:
        centre = tuple(float(v) for v in rng.uniform(0.2, 0.8, 2) * patient.hu.shape[1:])
    else:
        centre = tuple(float(c + v) for c, v in zip(patient.centre, rng.uniform(-35, 35, 2) / patient.pixel))
    scale = math.exp(rng.uniform(-1, 1) * math.log(1.18))
    return View(centre, (CROP, CROP), rng.uniform(-15, 15), scale, bool(rng.random() < 0.5))  # type: ignore[arg-type]


def random_intensity(hu: Tensor, rng: np.random.Generator) -> Tensor:
    """HU shifted by up to 40, soft tissue stretched by up to 10 %, in a third of the slices noise of up to 40 HU."""
    hu = hu * rng.uniform(0.9, 1.1) + rng.uniform(-40, 40)
    if rng.random() < 1 / 3:
        noise = rng.standard_normal(hu.shape, dtype=np.float32) * np.float32(rng.uniform(0, 40))
        hu = hu + torch.from_numpy(noise)
    return hu


def disturbed(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Logits [B, K, h, w] of a prior, in every second slice blurred or sharpened, with smooth errors, moved by up to 2
    pixels: on new patients, or drawn by hand, a prior is worse than on the training patients."""
    device, count = logits.device, len(logits[::2])

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator, device=device)

    coarse = torch.randn(count, logits.shape[1], 8, 8, generator=generator, device=device)
    errors = F.interpolate(coarse, logits.shape[2:], mode="bicubic", align_corners=False)
    worse = logits[::2] * uniform(0.5, 1.5) + errors * uniform(0, 2)
    shifts = torch.randint(-2, 3, (2,), generator=generator, device=device).tolist()
    result = logits.clone()
    result[::2] = worse.roll(shifts, (2, 3))
    return result


class HiDiff:
    """Phases `segmentor` (65 % of the time), `refiner`, and `together`: refiner and segmentor by turns."""

    chain = process(SCHEDULE, STEPS)

    def __init__(self, data: Path):
        cache = data / ".packed"
        self.train, cases = ([case(p) for p in openkbp.patients(data, split, cache)
                              if p.scanned[1] - p.scanned[0] >= FEWEST_SLICES] for split in ("train", "validation"))
        cases.sort(key=lambda c: -int(c.known.sum()))  # stable: those with most structures, then by number
        self.validation = cases[:VALIDATION_PATIENTS]

    def parts(self) -> dict[str, nn.Module]:
        segmentor, refiner = Segmentor(CHANNELS, len(STRUCTURES)), CompactRefiner(CHANNELS, len(STRUCTURES))
        layout = torch.channels_last
        return {"segmentor": segmentor.to(memory_format=layout), "refiner": refiner.to(memory_format=layout)}

    def phases(self) -> list[Phase]:
        collaborating = Phase("collaborating", "segmentor", 0.0, self.collaborative_loss, rate=0.3)
        return [
            Phase("segmentor", "segmentor", 0.65, self.segmentor_loss),
            Phase("refiner", "refiner", 0.2, self.refiner_loss, fresh=True),
            Phase("together", "refiner", 0.15, self.refiner_loss, partner=collaborating),
        ]

    def batch(self, phase: Phase, rng: np.random.Generator) -> dict[str, Tensor]:
        images, targets, known = [], [], []
        for _ in range(BATCH):
            patient, index = random_slice(self.train, rng)
            view = random_view(patient, rng)
            hu, masks = look(patient, index, view)
            images.append(channels(random_intensity(hu, rng)))
            targets.append(masks)
            known.append(patient.known[MIRRORED] if view.mirrored else patient.known)
        image = torch.stack(images).contiguous(memory_format=torch.channels_last)
        return {"image": image, "target": torch.stack(targets), "known": torch.stack(known)}

    def segmentor_loss(self, parts: Parts, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        parts["segmentor"].train()
        return supervise(parts["segmentor"](batch["image"]).logits, batch["target"], batch["known"])

    def refiner_loss(self, parts: Parts, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        parts["segmentor"].eval()
        parts["refiner"].train()
        with torch.no_grad():
            logits, features = parts["segmentor"](batch["image"])
        prior = disturbed(logits[0].float(), generator).sigmoid()
        return self._refined(parts["refiner"], batch, prior, features, generator)

    def collaborative_loss(self, parts: Parts, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """The segmentor's own loss plus the refiner's, which reaches the segmentor through prior and features."""
        parts["segmentor"].train()
        parts["refiner"].eval()
        logits, features = parts["segmentor"](batch["image"])
        refined = self._refined(parts["refiner"], batch, logits[0].float().sigmoid(), features, generator)
        return supervise(logits, batch["target"], batch["known"]) + COLLABORATION * refined

    def _refined(
        self, refiner: nn.Module, batch: dict[str, Tensor], p: Tensor, features: Sequence[Tensor], generator: Any
    ) -> Tensor:
        """`mix` loss at random times, mean over the labelled structures' pixels, in bits."""
        y0, device = batch["target"], p.device
        t = torch.randint(STEPS, (len(p),), generator=generator, device=device)
        draw = torch.rand(p.shape, generator=generator, device=device)
        y = (draw < forward_mean(self.chain, y0, p.detach(), t)).float()
        flip = refiner(batch["image"], y, p, features, t)
        mask = batch["known"][:, :, None, None]
        loss = mix_loss(self.chain, y, y0, flip, p, t) * mask
        return 100 * loss.sum() / (mask.sum().clamp(min=1) * p[0, 0].numel())

    def validate(self, parts: Parts) -> dict[str, float]:
        """Dice (%) per structure of segmentor and refiner, mean over validation patients in which it is contoured,
        every fifth slice at 3.5 mm; score: 100 - mean Dice of the last part that has been trained."""
        refine = bool(parts["refiner"].tail.weight.any())  # starts at zero: then it hasn't been trained
        counts: dict[str, list[Tensor]] = {"segmentor": []} | ({"refiner": []} if refine else {})
        generator = torch.Generator().manual_seed(1)
        for patient in self.validation:
            totals = {name: torch.zeros(len(STRUCTURES), 2) for name in counts}
            for indices in np.array_split(range(0, len(patient.hu), VALIDATION_STRIDE), 4):
                for name, (found, truth) in self._compare(parts, patient, indices, refine, generator).items():
                    both = (found & truth).sum((0, 2, 3))
                    totals[name] += torch.stack([2 * both, found.sum((0, 2, 3)) + truth.sum((0, 2, 3))], 1)
            for name, total in totals.items():
                counts[name].append(torch.where(patient.known > 0, total[:, 0] / total[:, 1].clamp(min=1), torch.nan))
        row: dict[str, float] = {}
        for name, rows in counts.items():
            per_structure = 100 * torch.stack(rows).nanmean(0)
            row[f"dice_{name}"] = float(per_structure.nanmean())
            row |= {f"dice_{name}_{s}": round(float(v), 2) for s, v in zip(STRUCTURES, per_structure)}
        return {"score": 100 - row[f"dice_{'refiner' if refine else 'segmentor'}"], **row}

    def _compare(
        self, parts: Parts, patient: Case, indices: Sequence[int], refine: bool, generator: torch.Generator
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Boolean results and truth [slices, structures, h, w] of whole slices."""
        rows, columns = (math.ceil(n * patient.pixel / PIXEL_MM / 8) * 8 for n in patient.hu.shape[1:])
        view = View(((patient.hu.shape[1] - 1) / 2, (patient.hu.shape[2] - 1) / 2), (rows, columns))
        seen = [look(patient, int(index), view) for index in indices]
        device = next(parts["segmentor"].parameters()).device
        image = channels(torch.stack([hu for hu, _ in seen])).to(device, memory_format=torch.channels_last)
        truth = torch.stack([masks for _, masks in seen]) > 0.5
        with torch.autocast(device.type, torch.bfloat16):
            logits, features = parts["segmentor"](image)
            p = logits[0].float().sigmoid()
            result = {"segmentor": ((p > 0.5).cpu(), truth)}
            if refine:
                result["refiner"] = (self._draws(parts["refiner"], image, p, features, generator).cpu() > 0.5, truth)
        return result

    def _draws(
        self, refiner: nn.Module, image: Tensor, p: Tensor, features: Sequence[Tensor], generator: torch.Generator
    ) -> Tensor:
        """Mean of a few draws of the refined probabilities."""
        chain = self.chain.respaced(even_times(STEPS, VALIDATION_CALLS))

        def predict(y: Tensor, t: int) -> Tensor:
            return refiner(image, y, p, features, torch.full((len(p),), t, device=p.device))

        def uniform(k: int) -> Tensor:
            return torch.rand(p.shape, generator=generator).to(p.device)

        return torch.stack([sample(predict, p, chain, uniform) for _ in range(VALIDATION_DRAWS)]).mean(0)

    def card(self) -> dict[str, Any]:
        networks = {"channels": CHANNELS, "structures": len(STRUCTURES)}
        return {
            "interface": "BernoulliRefiner",
            "dims": 2,
            "channels": CHANNELS,
            "unit": "HU",
            "structures": list(STRUCTURES),
            "activation": "sigmoid",
            "grid": {"pixel_mm": PIXEL_MM, "slices_mm": list(SLICES_MM), "windows": [list(w) for w in WINDOWS_HU]},
            "process": {"schedule": SCHEDULE, "steps": STEPS, "prediction": "flip"},
            "network": {"architecture": "HiDiffCompact", "segmentor": networks, "refiner": networks},
            "domain": {"anatomy": "head-and-neck CT for radiotherapy", "pixel_mm": [1.9, 5.5]},
            "licence": "MIT",
            "attribution": "Trained on OpenKBP (Babier et al., Med. Phys. 48, 5549-5561, 2021, "
                           "doi:10.1002/mp.14845; MIT licence), whose CT and contours come from The Cancer Imaging "
                           "Archive.",
            "training": {
                "data": "OpenKBP, official split, patients with a CT; structures that weren't contoured are masked",
                "patients": {"train": len(self.train), "validation": [c.name for c in self.validation]},
            },
        }  # fmt: skip

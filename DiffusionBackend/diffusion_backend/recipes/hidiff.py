"""Recipe of `hidiff-hn`: segmentor and Bernoulli refiner (HiDiff) of seven structures in head-and-neck CT (OpenKBP).

The segmentor is trained alone first, then the refiner, then they take turns (alternate-collaborative training). Slices
are brought to 3.5 mm pixels; a channel is one window of one of five slices 3 mm apart. The refiner is also shown the
priors of the slices 6 mm below and above: without them it would know nothing that the segmentor doesn't. Structures
that weren't contoured in a patient are unlabelled: they count neither in the loss nor in the Dice coefficients.

Weights and thresholds are chosen on training patients that are held out; the official validation patients are never
read, so that they can be reported.
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

from ..diffusion.bernoulli import calibrate, even_times, forward_mean, mix_loss, process, sample
from ..io import openkbp
from ..networks.hidiff import CompactRefiner
from ..networks.segmentor import Segmented, Segmentor, supervise
from ..training import Parts, Phase

PIXEL_MM, CROP, BATCH = 3.5, 96, 16
SLICES_MM = (-6.0, -3.0, 0.0, 3.0, 6.0)     # neighbours that the networks see, to superior
WINDOWS_HU = ((-200.0, 300.0), (-1000.0, 2000.0))
CHANNELS = len(SLICES_MM) * len(WINDOWS_HU)
PRIORS_MM = (0.0, -6.0, 6.0)                # slices whose priors the refiner is shown, the slice itself first
STRUCTURES = openkbp.STRUCTURES
MIRRORED = [STRUCTURES.index(n.replace("Right", "?").replace("Left", "Right").replace("?", "Left"))
            for n in STRUCTURES]  # fmt: skip
TEMPERATURE = 1.6                           # of the segmentor: its logits, divided by this, are true ones
STEPS, SCHEDULE = 10, "cosine"
FEWEST_SLICES = 10
COLLABORATION = 0.1                         # weight of the refiner's loss in the segmentor's
SMALL_SHARE = 0.002                         # of the pixels: a structure counts as larger by this
LAST_TIME = 1 / 3                           # of the refiner's images: at the time at which sampling starts
HELD_OUT, HELD_OUT_STRIDE = 12, 8           # training patients, slices
CALLS, DRAWS = 2, 3                         # of the refiner per slice; one draw alone is a sample, not the best mask
THRESHOLDS = tuple(k / 20 for k in range(3, 15))


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


def look(
    patient: Case, index: int, view: View, slices_mm: Sequence[float] = SLICES_MM, masks_mm: Sequence[float] = (0.0,)
) -> tuple[Tensor, Tensor]:
    """HU [slices_mm, h, w] and masks [masks_mm, structures, h, w] of slices so far above `index`, at 3.5 mm."""
    _, rows, columns = patient.hu.shape
    step, angle = PIXEL_MM / patient.pixel / view.scale, math.radians(view.degrees)
    y, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in view.sides), indexing="ij")
    x = -x if view.mirrored else x
    column = (x * math.cos(angle) - y * math.sin(angle)) * step + view.centre[1]
    row = (x * math.sin(angle) + y * math.cos(angle)) * step + view.centre[0]
    grid = torch.stack([(2 * column + 1) / columns - 1, (2 * row + 1) / rows - 1], -1)[None]

    def near(offsets: Sequence[float]) -> list[int]:
        return [min(max(index + round(mm / patient.thickness), 0), len(patient.hu) - 1) for mm in offsets]

    masks = (patient.bits[near(masks_mm)][:, None] >> torch.arange(len(STRUCTURES))[:, None, None]) & 1
    above_air = torch.cat([patient.hu[near(slices_mm)].float() + openkbp.OFFSET, masks.flatten(0, 1).float()])
    seen = F.grid_sample(above_air[None], grid, "bilinear", "zeros", align_corners=False)[0]  # outside: air, no mask
    hu, masks = seen[: len(slices_mm)] - openkbp.OFFSET, (seen[len(slices_mm) :] >= 0.5).float()
    masks = masks.unflatten(0, (len(masks_mm), len(STRUCTURES)))
    return hu, masks[:, MIRRORED] if view.mirrored else masks


def look_around(patient: Case, index: int, view: View) -> tuple[Tensor, Tensor]:
    """As `look`, for the slice and its neighbours of `PRIORS_MM`: HU [3, slices, h, w], masks [3, structures, h, w]."""
    slices = [slice_ + prior for prior in PRIORS_MM for slice_ in SLICES_MM]
    hu, masks = look(patient, index, view, slices, PRIORS_MM)
    return hu.unflatten(0, (len(PRIORS_MM), len(SLICES_MM))), masks


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


def disturbed(logits: Tensor, truth: Tensor, generator: torch.Generator) -> Tensor:
    """Priors [B, slices, K, h, w] of the refiner's training, from the segmentor's logits and the true masks.

    Every second is the segmentor's. Of the rest one half are the segmentor's with smooth errors, because it is worse on
    new patients; the other half are drawn by an unsteady hand, because users give masks to be refined."""
    p = logits.sigmoid()
    p[1::4] = (logits[1::4] + smooth_errors(logits[1::4], 1.5, generator)).sigmoid()
    p[3::4] = by_hand(truth[3::4], generator)
    return p


def smooth_errors(like: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Random maps of the shape [B, slices, K, h, w], 30 mm wide, half of each alike in all slices; 0 to `largest`."""
    count, slices, structures = like.shape[:3]

    def normal(of: int) -> Tensor:
        coarse = torch.randn(count * of, structures, 10, 10, generator=generator, device=like.device)
        maps = F.interpolate(coarse, like.shape[3:], mode="bicubic", align_corners=False)
        return maps.unflatten(0, (count, of))

    size = largest * torch.rand(count, 1, structures, 1, 1, generator=generator, device=like.device)
    return size * (normal(1) + normal(slices)) / math.sqrt(2)


def by_hand(truth: Tensor, generator: torch.Generator) -> Tensor:
    """Priors of masks drawn by an unsteady hand: borders moved, each structure left out in a fifth of the slices."""
    blurred = F.avg_pool2d(truth.flatten(0, 1), 5, 1, 2).unflatten(0, truth.shape[:2])
    errors = smooth_errors(truth, 0.5, generator)
    keep = torch.rand(*truth.shape[:3], 1, 1, generator=generator, device=truth.device) > 0.2
    return prior_of_masks(((blurred + errors * (blurred > 0) > 0.5) & keep).float())


def prior_of_masks(masks: Tensor) -> Tensor:
    """Priors of masks [..., h, w] that a user starts from: certain but for the pixels at a border."""
    soft = F.avg_pool2d(masks.flatten(0, -3)[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
    return (0.02 + 0.96 * soft).view_as(masks)


def segmented(segmentor: nn.Module, images: Tensor) -> tuple[Segmented, Tensor, list[Tensor]]:
    """What the segmentor finds in images [B, 3, C, h, w] as a batch of 3 B; logits of the priors [B, 3, K, h, w];
    features of the first of each 3.

    The prior's probabilities must be true ones: draws of an over-sure prior don't differ, and the refiner would spend
    its training on making it less sure."""
    found = segmentor(images.flatten(0, 1).contiguous(memory_format=torch.channels_last))
    logits = found.logits[0].float().unflatten(0, images.shape[:2]) / TEMPERATURE
    return found, logits, [f[:: images.shape[1]] for f in found.features]


class HiDiff:
    """Phases `segmentor` (65 % of the time), `refiner`, and `together`: refiner and segmentor by turns."""

    chain = process(SCHEDULE, STEPS)

    def __init__(self, data: Path):
        cases = [case(p) for p in openkbp.patients(data, "train", data / ".packed")
                 if p.scanned[1] - p.scanned[0] >= FEWEST_SLICES]  # fmt: skip
        cases.sort(key=lambda c: -int(c.known.sum()))  # stable: those with most structures, then by number
        self.held_out = cases[: 4 * HELD_OUT : 4]
        self.train = [c for k, c in enumerate(cases) if k % 4 or k >= 4 * HELD_OUT]
        self.thresholds = [0.5] * len(STRUCTURES)

    def parts(self) -> dict[str, nn.Module]:
        segmentor = Segmentor(CHANNELS, len(STRUCTURES))
        refiner = CompactRefiner(CHANNELS, len(STRUCTURES), priors=len(PRIORS_MM))
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
        """image [B, C, h, w], or with the refiner [B, 3, C, h, w]; target likewise with K; known [B, K]."""
        images, targets, known = [], [], []
        for _ in range(BATCH):
            patient, index = random_slice(self.train, rng)
            view = random_view(patient, rng)
            hu, masks = look(patient, index, view) if phase.name == "segmentor" else look_around(patient, index, view)
            images.append(channels(random_intensity(hu, rng)))
            targets.append(masks[0] if phase.name == "segmentor" else masks)
            known.append(patient.known[MIRRORED] if view.mirrored else patient.known)
        return {"image": torch.stack(images), "target": torch.stack(targets), "known": torch.stack(known)}

    def segmentor_loss(self, parts: Parts, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        parts["segmentor"].train()
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        return supervise(parts["segmentor"](image).logits, batch["target"], batch["known"])

    def refiner_loss(self, parts: Parts, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        parts["segmentor"].eval()
        parts["refiner"].train()
        with torch.no_grad():
            _, logits, features = segmented(parts["segmentor"], batch["image"])
            prior = disturbed(logits, batch["target"], generator)
        return self._refined(parts["refiner"], batch, prior, features, generator)

    def collaborative_loss(self, parts: Parts, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """The segmentor's own loss plus the refiner's, which reaches the segmentor through priors and features."""
        parts["segmentor"].train()
        parts["refiner"].eval()
        found, logits, features = segmented(parts["segmentor"], batch["image"])
        refined = self._refined(parts["refiner"], batch, logits.sigmoid(), features, generator)
        known = batch["known"].repeat_interleave(len(PRIORS_MM), 0)
        return supervise(found.logits, batch["target"].flatten(0, 1), known) + COLLABORATION * refined

    def _refined(
        self, refiner: nn.Module, batch: dict[str, Tensor], prior: Tensor, features: Sequence[Tensor], generator: Any
    ) -> Tensor:
        """Loss at random times, in bits: of each labelled structure, divided by its size, so that small ones count as
        much as large ones; within a structure all pixels weigh the same, so that probabilities stay calibrated.

        States of every second image hold the refiner's own first estimate instead of the truth, as in sampling: bits of
        its state are no news about the truth then, and a refiner that takes them for news repeats its own errors."""
        y0, image, p, device = batch["target"][:, 0], batch["image"][:, 0], prior[:, 0].detach(), prior.device
        last = torch.full((len(p),), STEPS - 1, device=device)
        t = torch.randint(STEPS, (len(p),), generator=generator, device=device)
        t = torch.where(torch.rand(len(p), generator=generator, device=device) < LAST_TIME, last, t)
        draws = torch.rand(3, *p.shape, generator=generator, device=device)
        with torch.no_grad():
            own = slice(0, None, 2)
            y = (draws[0] < p).float()
            few = [f[own] for f in features]
            flip = refiner(image[own], y[own], prior[own].flatten(1, 2), few, last[own])
            origin = y0.clone()
            origin[own] = (draws[1][own] < calibrate(y[own], flip)).float()
        y = (draws[2] < forward_mean(self.chain, origin, p, t)).float()
        flip = refiner(image, y, prior.flatten(1, 2), features, t)
        mask, axes = batch["known"][:, :, None, None], (0, 2, 3)
        loss = (mix_loss(self.chain, y, y0, flip, p, t, gamma=0.0) * mask).sum(axes)
        labelled = batch["known"].sum(0)
        size = (y0 * mask).sum(axes) + SMALL_SHARE * labelled * p[0, 0].numel()
        return (loss / size.clamp(min=1)).sum() / (labelled > 0).sum().clamp(min=1)

    def validate(self, parts: Parts) -> dict[str, float]:
        """Dice (%) per structure of segmentor and refiner at the best threshold of each structure, mean over the
        held-out patients in which it is contoured, every eighth slice at 3.5 mm. score: 100 - mean Dice of the last
        part that has been trained, whose thresholds go to the card."""
        refine = bool(parts["refiner"].tail.weight.any())  # starts at zero: then it hasn't been trained
        counts: dict[str, list[Tensor]] = {"segmentor": []} | ({"refiner": []} if refine else {})
        generator = torch.Generator().manual_seed(1)
        for patient in self.held_out:
            totals = {name: torch.zeros(len(THRESHOLDS), len(STRUCTURES), 2) for name in counts}
            for indices in np.array_split(range(0, len(patient.hu), HELD_OUT_STRIDE), 4):
                for name, (p, truth) in self._compare(parts, patient, indices, refine, generator).items():
                    for k, threshold in enumerate(THRESHOLDS):
                        found = p > threshold
                        both = (found & truth).sum((0, 2, 3))
                        totals[name][k] += torch.stack([2 * both, found.sum((0, 2, 3)) + truth.sum((0, 2, 3))], 1)
            for name, total in totals.items():
                dice = total[..., 0] / total[..., 1].clamp(min=1)
                counts[name].append(torch.where(patient.known > 0, dice, torch.nan))
        row: dict[str, float] = {}
        for name, rows in counts.items():
            best = (100 * torch.stack(rows).nanmean(0)).nan_to_num(-1).max(0)
            per_structure = torch.where(best.values < 0, torch.nan, best.values)
            row[f"dice_{name}"] = float(per_structure.nanmean())
            row |= {f"dice_{name}_{s}": round(float(v), 2) for s, v in zip(STRUCTURES, per_structure)}
            self.thresholds = [THRESHOLDS[k] for k in best.indices]
        return {"score": 100 - row[f"dice_{'refiner' if refine else 'segmentor'}"], **row}

    def _compare(
        self, parts: Parts, patient: Case, indices: Sequence[int], refine: bool, generator: torch.Generator
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Probabilities and true masks [slices, structures, h, w] of whole slices."""
        rows, columns = (math.ceil(n * patient.pixel / PIXEL_MM / 8) * 8 for n in patient.hu.shape[1:])
        view = View(((patient.hu.shape[1] - 1) / 2, (patient.hu.shape[2] - 1) / 2), (rows, columns))
        seen = [look_around(patient, int(index), view) for index in indices]
        device = next(parts["segmentor"].parameters()).device
        image = channels(torch.stack([hu for hu, _ in seen])).to(device)
        truth = torch.stack([masks[0] for _, masks in seen]) > 0.5
        with torch.autocast(device.type, torch.bfloat16):
            _, logits, features = segmented(parts["segmentor"], image)
            prior = logits.sigmoid()
            result = {"segmentor": (prior[:, 0].cpu(), truth)}
            if refine:
                refined = self._draws(parts["refiner"], image[:, 0], prior, features, generator)
                result["refiner"] = (refined.cpu(), truth)
        return result

    def _draws(
        self, refiner: nn.Module, image: Tensor, prior: Tensor, features: Sequence[Tensor], generator: torch.Generator
    ) -> Tensor:
        """Mean of a few draws of the refined probabilities."""
        chain, p = self.chain.respaced(even_times(STEPS, CALLS)), prior[:, 0]

        def predict(y: Tensor, t: int) -> Tensor:
            return refiner(image, y, prior.flatten(1, 2), features, torch.full((len(p),), t, device=p.device))

        def uniform(k: int) -> Tensor:
            return torch.rand(p.shape, generator=generator).to(p.device)

        return torch.stack([sample(predict, p, chain, uniform) for _ in range(DRAWS)]).mean(0)

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
            "thresholds": self.thresholds,
            "process": {"schedule": SCHEDULE, "steps": STEPS, "prediction": "flip", "calls": CALLS, "draws": DRAWS,
                        "priors_mm": list(PRIORS_MM), "temperature": TEMPERATURE},
            "network": {"architecture": "HiDiffCompact", "segmentor": networks,
                        "refiner": {**networks, "priors": len(PRIORS_MM)}},
            "domain": {"anatomy": "head-and-neck CT for radiotherapy", "pixel_mm": [1.9, 5.5]},
            "licence": "MIT",
            "attribution": "Trained on OpenKBP (Babier et al., Med. Phys. 48, 5549-5561, 2021, "
                           "doi:10.1002/mp.14845; MIT licence), whose CT and contours come from The Cancer Imaging "
                           "Archive.",
            "training": {
                "data": "OpenKBP, official training patients with a CT; structures that weren't contoured are masked",
                "patients": {"train": len(self.train), "held_out": [c.name for c in self.held_out]},
            },
        }  # fmt: skip

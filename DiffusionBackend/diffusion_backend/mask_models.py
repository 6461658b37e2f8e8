"""Segmentation models: a segmentor with, where the bundle has one, the Bernoulli refiner that was trained beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .diffusion import bernoulli
from .errors import ModelError
from .models import REINSTALL, Bundle, misfits
from .networks.hidiff import CompactRefiner
from .networks.segmentor import Segmentor


@dataclass(frozen=True)
class MaskModel:
    """Probabilities of structures from slices. The card tells structures, grid and process."""

    card: Mapping[str, Any]
    segmentor: Segmentor
    refiner: CompactRefiner | None
    chain: bernoulli.Process | None

    @property
    def structures(self) -> tuple[str, ...]:
        return tuple(self.card["structures"])

    def channels(self, hu: Tensor) -> Tensor:
        """Windows of neighbouring slices [B, slices, H, W] in HU as channels [B, channels, H, W], each -1 to 1."""
        windows = self.card["grid"]["windows"]
        return torch.cat([((hu - (a + b) / 2) / ((b - a) / 2)).clamp(-1, 1) for a, b in windows], 1)

    def __call__(self, x: Tensor, sigma: Any = None, cond: Any = None) -> Tensor:
        """Probabilities of the segmentor [B, K, H, W] for channels x [B, channels, H, W]."""
        return self.prior(x)[0]

    def prior(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Probabilities of the segmentor and its features for the refiner."""
        logits, features = self.segmentor(x)
        return logits[0].float().sigmoid(), features

    def refine(self, x: Tensor, prior: Tensor, features: list[Tensor], uniform: bernoulli.Uniform, *, calls: int,
               sampler: str) -> Tensor:  # fmt: skip
        """One draw of the refiner from a prior: probabilities [B, K, H, W]. uniform: see `bernoulli.sample`."""
        assert self.refiner is not None and self.chain is not None
        refiner, chain = self.refiner, self.chain.respaced(bernoulli.even_times(self.chain.steps, calls))

        def predict(y: Tensor, t: int) -> Tensor:
            return refiner(x, y, prior, features, torch.full((len(prior),), t, device=prior.device))

        return bernoulli.sample(predict, prior, chain, uniform, sampler=sampler)


def mask_model(bundle: Bundle, device: str = "cpu") -> MaskModel:
    """Build the networks of a loaded bundle (float32). ModelError where card and weights don't fit."""
    card = bundle.card
    try:
        if card["network"].get("architecture") != "HiDiffCompact":
            raise ValueError(f"the architecture {card['network'].get('architecture')!r} is unknown")
        segmentor = Segmentor(**card["network"]["segmentor"])
        refiner = CompactRefiner(**card["network"]["refiner"]) if "refiner" in card["network"] else None
        chain = bernoulli.process(card["process"]["schedule"], card["process"]["steps"]) if refiner else None
        for part, module in (("segmentor", segmentor), ("refiner", refiner)):
            if module is not None:
                _fill(module, bundle.parts[part])
                module.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        wanted = (len(card["grid"]["slices_mm"]) * len(card["grid"]["windows"]), len(card["structures"]))
        found = tuple(card["network"]["segmentor"][key] for key in ("channels", "structures"))
        if wanted != found:
            raise ValueError(f"the grid gives {wanted[0]} channels and {wanted[1]} structures, the network has {found}")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"The model '{card['id']}' doesn't fit its card: {error}.", REINSTALL) from None
    return MaskModel(card, segmentor, refiner, chain)


def _fill(module: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    problems = misfits(module, state)
    if problems:
        raise ValueError("; ".join(problems[:10]))
    module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})

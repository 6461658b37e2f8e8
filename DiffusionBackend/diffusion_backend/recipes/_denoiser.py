"""What the recipes of 2D denoisers share: network, noisy batches, EDM loss, the technical part of the card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.denoiser import EDM
from ..networks.unet import UNet
from ..training import Parts


class DenoiserRecipe:
    """Base of a recipe; a network unit is (value - offset) / scale with a spread of about `sigma_data`.

    unit : of the values. sigma : trained noise levels in that unit, drawn evenly in their logarithm."""

    unit: str
    offset: float
    scale: float
    sigma: tuple[float, float]
    network: Mapping[str, Any]
    edm = EDM(0.5)

    def parts(self) -> dict[str, nn.Module]:
        return {"denoiser": UNet(**self.network).to(memory_format=torch.channels_last)}  # type: ignore[call-overload]

    def noisy(self, images: Sequence[Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """A batch of images [H, W] with a noise level each."""
        low, high = (math.log(s / self.scale) for s in self.sigma)
        sigma = np.exp(rng.uniform(low, high, len(images))).astype(np.float32)
        x0 = (torch.stack(list(images))[:, None] - self.offset) / self.scale
        return {"x0": x0.contiguous(memory_format=torch.channels_last), "sigma": torch.from_numpy(sigma)}

    def loss(self, parts: Parts, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        x0 = batch["x0"]
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        return self.edm.loss(parts["denoiser"], x0, batch["sigma"], noise)

    def interface(self) -> dict[str, Any]:
        """The part of the card that a program reads."""
        normalisation = {"offset": self.offset, "scale": self.scale, "sigma_data": self.edm.sigma_data}
        return {
            "interface": "Denoiser",
            "dims": 2,
            "channels": 1,
            "unit": self.unit,
            "sigma_range": list(self.sigma),
            "normalisation": normalisation,
            "network": {"architecture": "UNet", "parametrisation": "EDM", **self.network},
        }

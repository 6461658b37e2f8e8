"""The published DuDoDp loop, rebuilt from product pieces with its own conventions, to meet the golden arrays.

Published errors that the product doesn't have: delta counts in hundredths whatever the number of steps (note A11,
section 5, flaw 1), every step resizes between network and projector grid (flaw 7), the filtered backprojection is a
plain adjoint with one global factor (flaw 5), and the metal is never put back (flaw 8).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_backend.diffusion.schedules import DiscreteVP, linear_vp, section_indices
from diffusion_backend.methods.a11_dudodp import Measurement, dual_domain_loop

PUBLISHED_DELTA_PERIOD = 100
PUBLISHED_LEVEL = 4.0  # upper limit of known line integrals, and height of the projected trace


class Archive:
    """One a11-loop archive: configuration, arrays, and the two operators that it stores as matrices (float32)."""

    def __init__(self, file: Path) -> None:
        self.arrays = np.load(file)
        self.config = json.loads(str(self.arrays["config"]))
        cfg = self.config
        indices = torch.from_numpy(np.stack([self.arrays["in/A_row"], self.arrays["in/A_col"]]).astype(np.int64))
        values = torch.from_numpy(self.arrays["in/A_val"].astype(np.float32))
        size = (cfg["n_views"] * cfg["n_det"], cfg["n_grid"] ** 2)
        self.matrix = torch.sparse_coo_tensor(indices, values, size, check_invariants=True).coalesce()

    def tensor(self, name: str) -> Tensor:
        """The array `name` as a float32 tensor."""
        return torch.from_numpy(self.arrays[name].astype(np.float32))

    def project(self, mu: Tensor) -> Tensor:
        """Line integrals [B, 1, V, D] of mu [B, 1, n, n], resized to the projector's grid first."""
        mu = self._resize(mu, self.config["n_grid"])
        sinogram = (self.matrix @ mu.flatten(1).T).T
        return sinogram.reshape(-1, 1, self.config["n_views"], self.config["n_det"])

    def reconstruct(self, sinogram: Tensor) -> Tensor:
        """B(s) = c A^T (s F^T) [B, 1, n, n], resized to the network's grid."""
        filtered = (sinogram @ self.tensor("in/F").T).flatten(1)
        image = self.config["fbp_scale"] * (self.matrix.T @ filtered.T).T
        side = self.config["n_grid"]
        return self._resize(image.reshape(-1, 1, side, side), self.config["image_size"])

    def _resize(self, image: Tensor, side: int) -> Tensor:
        if image.shape[-1] == side:
            return image
        return F.interpolate(image, (side, side), mode="bilinear", align_corners=False, antialias=False)

    def schedule(self) -> DiscreteVP:
        """The respaced schedule named by the configuration."""
        steps = self.config["diffusion_steps"]
        return linear_vp(0.1 / steps, 20 / steps, steps).respaced(
            section_indices(steps, self.config["timestep_respacing"])
        )

    def noises(self) -> tuple[Tensor, Tensor]:
        """x_T [1, 1, n, n] and the noise of every step [T, 1, 1, n, n], by the recipe where they aren't stored."""
        if "in/noises" in self.arrays:
            return self.tensor("in/x_T"), self.tensor("in/noises")
        side = self.config["image_size"]
        seed = int(self.config["noise_recipe"].split("RandomState(")[1].split(")")[0])
        draw = np.random.RandomState(seed).standard_normal  # the recipe of the archive, not a generator of the product
        start = torch.from_numpy(draw((1, 1, side, side)).astype(np.float32))
        assert torch.equal(start, self.tensor("in/x_T")), "The noise recipe doesn't give the stored x_T."
        return start, torch.from_numpy(draw((self.schedule().steps, 1, 1, side, side)).astype(np.float32))


def run_published(archive: Archive, predict: Callable[[Tensor, int], Tensor]) -> dict[int, dict[str, Tensor]]:
    """States of the published loop by respaced step: x0 (clipped), x (after the step), m_t, m_y."""
    cfg, (start, noises) = archive.config, archive.noises()
    data = Measurement(
        archive.tensor("in/S_ma"),
        archive.tensor("in/trace") > 0.5,
        archive.project,
        archive.reconstruct,
        PUBLISHED_LEVEL,
    )
    schedule, states = archive.schedule(), {}
    with torch.no_grad():
        dual_domain_loop(
            predict,
            lambda i: start if i == schedule.steps else noises[i],
            schedule,
            data,
            a=cfg["a"],
            n=cfg["n"],
            delta_y=cfg["delta_y"],
            delta_period=PUBLISHED_DELTA_PERIOD,
            on_step=lambda i, state: states.__setitem__(i, state),
        )
    return states

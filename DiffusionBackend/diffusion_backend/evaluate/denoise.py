"""`evaluate denoise`: how well a CT prior denoises held-out patients, beside Gaussian, TV and wavelet denoisers.

Images: `ct-tcia-slices/test-native512.npz` (patients that no recipe trains on), 2 x 2 means, one slice a patient.
Figure: RMSE in HU inside the body for white Gaussian noise of sigma HU. The strengths of the classical denoisers were
chosen per sigma on the validation patients by `tune`, so that the network is compared with well-set ones.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import models
from ..diffusion import classical
from ..diffusion.denoiser import Denoise
from ..errors import InputError
from ..io.folders import write_text
from ..metrics.image import body_mask
from ..recipes.ct_image import read_slices
from ..run import keyed_noise
from .tables import Cases, cases_path, write_table

SIGMAS_HU = (10.0, 20.0, 50.0, 100.0, 200.0, 300.0, 1000.0)
MAKERS: dict[str, Callable[[classical.Strength], Denoise]] = {
    "gaussian": classical.gaussian_smoother,
    "tv": classical.tv_denoiser,
    "wavelet": classical.wavelet_denoiser,
}
# strength at each of SIGMAS_HU, printed by `tune` on the validation patients of ct-tcia-slices
TUNED: dict[str, tuple[float, ...]] = {
    "gaussian": (0.3, 0.4, 0.5, 0.7, 1.0, 1.2, 2.5),
    "tv": (0.3, 0.4, 0.6, 0.7, 0.8, 0.95, 0.95),
    "wavelet": (3.0, 2.5, 1.5, 1.2, 1.0, 0.8, 0.8),
}
CANDIDATES = {
    "gaussian": (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0),
    "tv": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95, 1.2),
    "wavelet": (0.45, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0),
}


def interpolated(strengths: tuple[float, ...]) -> classical.Strength:
    """Strength at any sigma (HU): linear in log sigma between the tuned ones, constant outside."""
    return lambda sigma: float(np.interp(np.log(sigma), np.log(SIGMAS_HU), strengths))


def classical_denoisers() -> dict[str, Denoise]:
    """The three tuned classical denoisers for CT in HU."""
    return {name: make(interpolated(TUNED[name])) for name, make in MAKERS.items()}


def held_out_slices(data: Path) -> Iterator[tuple[str, Tensor]]:
    """(case, HU [1, 1, H, W]) of one slice of every held-out patient, on a grid of half the native resolution."""
    pack = data / "ct-tcia-slices" / "test-native512.npz"
    if not pack.exists():
        raise InputError(f"'{data}' has no ct-tcia-slices/test-native512.npz.", "Give --data the folder that holds it.")
    with np.load(pack, allow_pickle=False) as arrays:
        hu, patients = arrays["hu"], arrays["patient"]
    for patient in sorted(set(patients.tolist())):
        indices = np.flatnonzero(patients == patient)
        index = int(indices[len(indices) // 2])
        image = torch.from_numpy(hu[index].astype(np.float32))[None, None]
        yield f"{patient}/{index}", torch.nn.functional.avg_pool2d(image, 2)


def rmse_hu(denoise: Denoise, case: str, hu: Tensor, sigma: float) -> float:
    """RMSE inside the body of the denoised slice; the noise depends on case and sigma alone."""
    noisy = hu + sigma * keyed_noise(("evaluate denoise", case, sigma), hu.shape)
    inside = torch.from_numpy(body_mask(hu[0, 0].numpy()))
    with torch.inference_mode():
        error = (denoise(noisy, sigma, None) - hu)[0, 0][inside]
    return float(error.square().mean().sqrt())


def tune(data: Path) -> dict[str, tuple[float, ...]]:
    """The strength of each classical denoiser with the smallest RMSE at each sigma on the validation patients."""
    patients = sorted(read_slices(data, "val").items())
    cases = [(p, torch.from_numpy(s[len(s) // 2]).float()[None, None]) for p, s in patients]

    def error(name: str, strength: float, sigma: float) -> float:
        denoise = MAKERS[name](lambda _: strength)
        return sum(rmse_hu(denoise, case, hu, sigma) for case, hu in cases)

    return {
        name: tuple(min(CANDIDATES[name], key=lambda c, n=name, s=sigma: error(n, c, s)) for sigma in SIGMAS_HU)
        for name in MAKERS
    }


def evaluate(
    data: Path, output: Path, *, model: str = "ct-image", device: str = "cpu", record: bool = False
) -> list[Mapping[str, str | float]]:
    """Write `output` (method, sigma_hu, rmse_hu: means over patients) and the cases behind it; print the table.

    record : also write the model's figures into its card, with three cases that a test repeats.
    """
    start = time.perf_counter()
    denoisers = {"noisy": lambda x, sigma, cond: x, **classical_denoisers(), model: models.load_denoiser(model, device)}
    cases = Cases(cases_path(output), ("method", "sigma_hu", "case"), ("rmse_hu",))
    images = list(held_out_slices(data))
    for sigma, (name, denoise), (case, hu) in itertools.product(SIGMAS_HU, denoisers.items(), images):
        key = {"method": name, "sigma_hu": f"{sigma:g}", "case": case}
        cases.compute(key, lambda d=denoise, c=case, h=hu, s=sigma: {"rmse_hu": rmse_hu(d, c, h, s)})
    rows = cases.means(("method", "sigma_hu"))
    print(write_table(output, rows))
    print(f"{len(images)} held-out patients, {time.perf_counter() - start:.0f} s.")
    if record:
        _record(model, rows, cases)
    return rows


def _record(model: str, rows: list[dict[str, str | float]], cases: Cases) -> None:
    """Put the figures of `model` and of TV into the card, and three cases at 100 HU."""
    folder = models.find(model)
    card = json.loads((folder / models.CARD).read_text(encoding="utf-8"))
    figures: dict[str, dict[str, float]] = {model: {}, "tv": {}}
    for row in rows:
        if row["method"] in figures:
            figures[str(row["method"])][str(row["sigma_hu"])] = round(float(row["rmse_hu"]), 2)
    three = [(key[2], row["rmse_hu"]) for key, row in cases.rows.items() if key[:2] == (model, "100")][:3]
    card["metrics"] = {
        "evaluation": "evaluate denoise: RMSE in HU in the body of held-out patients, by noise level in HU",
        "rmse_hu": figures,
        "cases_at_100_hu": {case: round(value, 3) for case, value in three},
    }
    write_text(folder / models.CARD, json.dumps(card, indent=1) + "\n")

"""`evaluate mar`: metal artefact reduction on held-out patients with simulated metal, every case behind the table.

Slices: `ct-tcia-slices/test-native512.npz` (patients that no recipe trains on), 2 x 2 means. Metal: outlines of
`metal-shapes` where the folder has them, else generated implants, in four sizes and materials, measured by the
scanner simulator at true size. Methods correct the image (`mode=image`, virtual projections) or the measured
projections (`mode=projections`). Reference: the slice without metal.
Rows besides the methods: `oracle` (A11 with the truth as prior: the ceiling of its loop) and A11 with a Gaussian
smoother or TV in place of the network (what the prior is worth).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from .. import methods, models
from ..data import Item
from ..errors import InputError
from ..execute import Request, Surroundings, execute
from ..metrics import image as metrics
from ..pictures import SOFT_TISSUE_HU, montage
from .denoise import classical_denoisers
from .mar_cases import METALS, Case, held_out, make_case
from .tables import Cases, cases_path, write_table

METHODS = ("uncorrected", "li", "nmar", "a11", "oracle", "a11-gaussian", "a11-tv")
FIGURES = ("rmse_hu", "ring_rmse_hu", "bone_bias_hu", "ssim", "seconds")
BONE_HU, RING_PX = 300.0, (3, 20)


def correct(method: str, case: Case, mode: str, model: str, device: str, parameters: Mapping[str, Any]) -> np.ndarray:
    """The corrected slice [H, W] in HU. The truth reaches a method only in the row `oracle`, as its prior."""
    ct = np.asarray(case.ct.array)[0]
    if method == "uncorrected":
        return ct
    priors: dict[str, Callable[..., Any]] = {f"a11-{n}": d for n, d in classical_denoisers().items()}
    priors["oracle"] = lambda x, sigma, cond=None: torch.from_numpy(case.reference).to(x).expand_as(x)
    name = "a11" if method in priors else method
    around = Surroundings(
        card=lambda m: models.read_card(models.find(m)),
        load=lambda m, where: priors[method] if method in priors else models.load_denoiser(m, where),
    )
    inputs: dict[str, Item] = {"ct": case.ct, "metal": case.mask}
    if mode == "projections":
        inputs["sinogram"] = case.sinogram
    known = {p.name for p in methods.load(name).METHOD.parameters}
    request = Request(name, {k: v for k, v in parameters.items() if k in known}, device=device,
                      models={"prior": model} if name == "a11" else {})  # fmt: skip
    result = execute(methods.load(name), request, inputs, around)
    assert result is not None
    return np.asarray(result.outputs["corrected"].array)[0]  # type: ignore[union-attr]


def figures(image: np.ndarray, case: Case) -> dict[str, float]:
    """RMSE and SSIM in the body outside the metal (grown by 2 pixels), RMSE in the ring around it, bias in bone."""
    metal = np.asarray(case.mask.array)[0] > 0
    body = metrics.body_mask(case.reference) & ~ndimage.binary_dilation(metal, iterations=2)  # partial volume
    distance = ndimage.distance_transform_edt(~metal)
    ring = body & (distance >= RING_PX[0]) & (distance <= RING_PX[1])
    bone = body & (case.reference > BONE_HU)
    inside = metrics.compare(image, case.reference, body)
    return {
        "rmse_hu": inside["rmse"],
        "ring_rmse_hu": metrics.compare(image, case.reference, ring)["rmse"],
        "bone_bias_hu": metrics.compare(image, case.reference, bone)["bias"],
        "ssim": inside["ssim"],
    }


def evaluate(
    data: Path, output: Path, *, patients: int = 6, slices: int = 2, mode: str = "image", model: str = "ct-image",
    device: str = "cpu", seed: int = 0, rows: Sequence[str] = METHODS, pictures: bool = True,
    parameters: Mapping[str, Any] | None = None,
) -> list[Mapping[str, str | float]]:  # fmt: skip
    """Write `output` (method x metric, means over cases), the cases, and a montage per case; print the table.

    rows : which of METHODS. parameters : of the methods, for example {"steps": 10} (JSON on the command line)."""
    if mode not in ("image", "projections"):
        raise InputError(f"The mode is '{mode}', but it must be image or projections.")
    start = time.perf_counter()
    cases = Cases(cases_path(output), ("mode", "case", "metal", "method"), FIGURES)
    for name, clean in held_out(data, patients, slices):
        for number, (material, diameter) in enumerate(METALS):
            about = {"mode": mode, "case": name, "metal": f"{material} {diameter:g} mm"}
            if all((mode, name, about["metal"], method) in cases.rows for method in rows):
                continue
            case = make_case(name, clean, data, number, seed)
            images = {"reference": case.reference}
            for method in rows:
                cases.compute(about | {"method": method}, lambda m=method, c=case, i=images: _measure(
                    m, c, i, lambda: correct(m, c, mode, model, device, parameters or {})))  # fmt: skip
            if pictures and len(images) > 1:
                file = f"{output.stem}-{mode}-{name}-{material}.png".replace("/", "-")
                montage(output.parent / file, [images], SOFT_TISSUE_HU)
    table = cases.means(("mode", "method"))
    print(write_table(output, table))
    print(comparison(cases, mode))
    print(f"{time.perf_counter() - start:.0f} s.")
    return table


def _measure(method: str, case: Case, images: dict[str, np.ndarray], run: Callable[[], np.ndarray]) -> dict[str, float]:
    began = time.perf_counter()
    images[method] = run()
    return figures(images[method], case) | {"seconds": time.perf_counter() - began}


def comparison(cases: Cases, mode: str) -> str:
    """In how many cases A11 is worse than LI by more than 5 %, with their names."""
    keys = [key for key in cases.rows if key[0] == mode and key[3] == "a11" and (*key[:3], "li") in cases.rows]
    worse = [k for k in keys if cases.rows[k]["rmse_hu"] > 1.05 * cases.rows[(*k[:3], "li")]["rmse_hu"]]
    names = ", ".join(f"{k[1]} {k[2]}" for k in worse) or "none"
    return f"A11 is worse than LI by more than 5 % in {len(worse)} of {len(keys)} cases: {names}."

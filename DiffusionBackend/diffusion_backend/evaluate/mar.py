"""`evaluate mar`: metal artefact reduction on held-out patients with simulated metal, every case behind the table.

Cases: see `mar_cases`. `convention` says how the metal was measured: by a clinical scanner at true size (`scanner`), as
in the SynDeepLesion data family (`field`), or by its authors (`syndeeplesion`, one slice). Methods correct the image
(`mode=image`, virtual projections) or the measured projections (`mode=projections`). Reference: the slice without
metal. Rows besides the methods: `oracle` (A11 with the truth as prior: the ceiling of its loop), A10 and A11 with a
Gaussian smoother or TV in place of the network (what the prior is worth), and with other seeds (how much is chance).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from .. import methods, models
from ..data import Grid, Item
from ..errors import InputError
from ..execute import Request, Surroundings, execute
from ..io.folders import write_text
from ..metrics import image as metrics
from ..physics.ct import Geometry, ImageGrid, hu_to_mu, projector
from ..physics.metal import metal_trace
from ..physics.plane import coarsen
from ..pictures import SOFT_TISSUE_HU, montage
from .denoise import classical_denoisers
from .mar_cases import METALS, Case, held_out, make_case, syndeeplesion
from .tables import Cases, cases_path, write_table

CONVENTIONS, MODES = ("scanner", "field", "syndeeplesion"), ("image", "projections")
METHODS = ("uncorrected", "li", "nmar", "a10", "a11", "oracle")
ABLATIONS = ("a10-gaussian", "a10-tv", "a10-seed1", "a10-seed2",
             "a11-gaussian", "a11-tv", "a11-seed1", "a11-seed2")  # fmt: skip
FIGURES = ("rmse_hu", "ring_rmse_hu", "bone_bias_hu", "ssim", "trace_rmse", "seconds")
BONE_HU, RING_PX = 300.0, (3, 20)
HU_PER_RATIO = 500 / 0.08  # spread of CT in HU over that of A10's ratio: classical denoisers are tuned for HU

Corrected = tuple[np.ndarray, Grid | None]  # HU [H, W]; completed line integrals, None where nothing was measured


def correct(method: str, case: Case, mode: str, device: str, parameters: Mapping[str, Any]) -> Corrected:
    """The corrected slice in HU and its line integrals. The truth reaches a method in the row `oracle` alone, as its
    prior."""
    if method == "uncorrected":
        return np.asarray(case.ct.array)[0], None
    name, _, variant = ("a11", "", "oracle") if method == "oracle" else method.partition("-")
    module, seed = methods.load(name), int(variant.removeprefix("seed")) if variant.startswith("seed") else 0
    around = Surroundings(
        card=lambda m: models.read_card(models.find(m)),
        load=lambda m, where: models.load_denoiser(m, where) if seed or not variant else _other(name, variant, case),
    )
    inputs: dict[str, Item] = {"ct": case.ct, "metal": case.mask}
    if mode == "projections":
        inputs["sinogram"] = case.sinogram
    known = {p.name for p in module.METHOD.parameters}
    wanted = {"keep_sinogram": True} | {k: v for k, v in {**case.parameters, **parameters}.items() if k in known}
    result = execute(module, Request(name, wanted, seed=seed, device=device), inputs, around)
    assert result is not None
    image, completed = result.outputs["corrected"], result.outputs["completed"]
    return np.asarray(image.array)[0], completed  # type: ignore[union-attr,return-value]


def _other(name: str, what: str, case: Case) -> Callable[..., Any]:
    """What stands in place of the network: the truth, or a classical denoiser in the unit of the method's prior."""
    if what == "oracle":
        truth = torch.from_numpy(case.reference)[None]
        return lambda x, sigma, cond=None: coarsen(truth, -(-truth.shape[-1] // x.shape[-1])).to(x).expand_as(x)
    classical, unit = classical_denoisers()[what], HU_PER_RATIO if name == "a10" else 1.0
    return lambda x, sigma, cond=None: classical(x * unit, sigma * unit, cond) / unit


def trace_rmse(completed: Grid, case: Case) -> float:
    """RMSE of completed line integrals in the metal's shadow (one bin of margin) against those of the reference."""
    geometry, pixel = Geometry.from_dict(completed.acquisition), case.ct.spacing[0]
    scanner = projector(geometry, ImageGrid(*case.reference.shape, pixel))
    trace = metal_trace(torch.from_numpy(np.asarray(case.mask.array)[:1] > 0), scanner)[0].numpy()
    truth = scanner.forward(hu_to_mu(torch.from_numpy(case.reference)[None]))[0].numpy()
    return float(np.sqrt(np.square(np.asarray(completed.array)[0] - truth)[trace].mean()))


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
    data: Path, output: Path, *, patients: int = 6, slices: int = 2, mode: str = "image", convention: str = "scanner",
    device: str = "cpu", seed: int = 0, rows: Sequence[str] = METHODS, pictures: bool = True,
    parameters: Mapping[str, Any] | None = None, record: bool = False,
) -> list[Mapping[str, str | float]]:  # fmt: skip
    """Write `output` (convention x mode x method, means over cases), the cases, a montage per case; print the table.

    rows : which of METHODS and ABLATIONS. parameters : of the methods, for example {"steps": 10} (JSON on the command
    line). record : also write what `ct-sinogram` gains in the shadow into its card, with three cases that a test
    repeats."""
    for name, value, known in (("mode", mode, MODES), ("convention", convention, CONVENTIONS)):
        if value not in known:
            raise InputError(f"The {name} is '{value}', but it must be {', '.join(known[:-1])} or {known[-1]}.")
    start = time.perf_counter()
    cases = Cases(cases_path(output), ("convention", "mode", "case", "metal", "method"), FIGURES)
    for about, make in _cases(data, patients, slices, convention, seed):
        about |= {"convention": convention, "mode": mode}
        if all((convention, mode, about["case"], about["metal"], method) in cases.rows for method in rows):
            continue
        case = make()
        images = {"reference": case.reference}
        for method in rows:
            cases.compute(about | {"method": method}, lambda m=method, c=case, i=images: _measure(
                m, c, i, lambda: correct(m, c, mode, device, parameters or {})))  # fmt: skip
        if pictures and len(images) > 1:
            file = f"{output.stem}-{convention}-{mode}-{about['case']}-{about['metal']}.png".replace("/", "-")
            montage(output.parent / file.replace(" ", "-"), [images], SOFT_TISSUE_HU)
    table = cases.means(("convention", "mode", "method"))
    print(write_table(output, table))
    print(comparison(cases, convention, mode))
    if record:
        _record(table, cases)
    print(f"{time.perf_counter() - start:.0f} s.")
    return table


def _cases(data: Path, patients: int, slices: int, convention: str, seed: int
           ) -> Iterator[tuple[dict[str, str], Callable[[], Case]]]:
    """Case and metal as they are named in the table, and how to make the case."""
    if convention == "syndeeplesion":
        for made in syndeeplesion(data):
            yield {"case": made.name, "metal": made.metal}, lambda m=made: m
        return
    for name, clean in held_out(data, patients, slices):
        for number, (material, diameter) in enumerate(METALS):
            about = {"case": name, "metal": f"{material} {diameter:g} mm"}
            yield about, lambda n=name, c=clean, k=number: make_case(n, c, data, k, seed, convention)


def _measure(method: str, case: Case, images: dict[str, np.ndarray], run: Callable[[], Corrected]) -> dict[str, float]:
    began = time.perf_counter()
    images[method], completed = run()
    seconds = time.perf_counter() - began
    error = trace_rmse(completed, case) if completed is not None else math.nan
    return figures(images[method], case) | {"trace_rmse": error, "seconds": seconds}


def comparison(cases: Cases, convention: str, mode: str) -> str:
    """How A11 and A10 stand to LI and NMAR on average, and the cases in which A11 is worse than LI by more than 5 %."""
    rows = {key[2:]: figures["rmse_hu"] for key, figures in cases.rows.items() if key[:2] == (convention, mode)}
    complete = {key[:2] for key in rows if all((*key[:2], m) in rows for m in ("li", "nmar", "a11"))}
    if not complete:
        return "No case has all of LI, NMAR and A11."
    means = {m: float(np.mean([rows[(*c, m)] for c in complete])) for m in ("li", "nmar", "a11")}
    worse = sorted(c for c in complete if rows[(*c, "a11")] > 1.05 * rows[(*c, "li")])
    names = "; ".join(f"{c} {m}: {rows[(c, m, 'a11')]:.1f} against {rows[(c, m, 'li')]:.1f} HU" for c, m in worse)
    share = means["a11"] / min(means["li"], means["nmar"])
    return (f"A11 has {share:.2f} times the RMSE of the better of LI and NMAR; it is worse than LI by more than 5 % "
            f"in {len(worse)} of {len(complete)} cases ({names or 'none'}).")


def _record(table: Sequence[Mapping[str, str | float]], cases: Cases) -> None:
    """Errors in the metal's shadow of A10, LI and NMAR into the card of A10's prior."""
    means: dict[str, dict[str, float]] = {}
    for row in table:
        if row["method"] in ("li", "nmar", "a10"):
            group = means.setdefault(f"{row['convention']}, {row['mode']}", {})
            group[str(row["method"])] = round(float(row["trace_rmse"]), 4)
    known = [key for key in cases.rows if key[:2] == ("scanner", "projections") and key[4] == "a10"]
    folder = models.find("ct-sinogram")
    card = json.loads((folder / models.CARD).read_text(encoding="utf-8"))
    card["metrics"] = {
        "evaluation": "evaluate mar: RMSE of line integrals in the metal's shadow, held-out patients",
        "trace_rmse": means,
        "cases": {", ".join(key[2:4]): round(cases.rows[key]["trace_rmse"], 5) for key in known[:3]},
    }
    write_text(folder / models.CARD, json.dumps(card, indent=1) + "\n")

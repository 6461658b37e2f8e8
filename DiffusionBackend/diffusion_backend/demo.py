"""`make demo`: the main job from end to end. A CT with metal is corrected by LI, NMAR and A11, side by side.

Without an input a generated phantom gets a simulated implant; a CT without metal gets one, too; a CT with metal is
corrected as it is. Written: all volumes, `montage.png`, and with a reference `metrics.csv`.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import methods, models
from .data import Grid, Item, Segmentation
from .events import Bar, duration
from .execute import Request, Surroundings, execute
from .io import images
from .io.folders import move_files, temporary
from .params import validate
from .pictures import SOFT_TISSUE_HU, UNCERTAINTY_HU, montage
from .report import METAL_HU, metrics_rows, write_metrics

METHODS = ("li", "nmar", "a11")
SAMPLES = {"a11": 4}
SHOWN = ("corrected", "std")
MOST_ROWS = 3


@dataclass(frozen=True)
class Example:
    """A CT with metal and, where the metal was simulated, the truth."""

    ct: Grid
    reference: Grid | None = None
    metal: Segmentation | None = None

    def items(self) -> dict[str, Item]:
        """What there is, by name."""
        return {name: item for name, item in vars(self).items() if item is not None}


def demo(output: Path, source: Path | None = None) -> None:
    """Make or read the example, run the methods, write everything into `output` and print the table."""
    start, show = time.perf_counter(), Bar(sys.stderr)
    example = make_example(source)
    outputs = example.items()
    for name in METHODS:
        print(f"{name.upper()}: {methods.load(name).METHOD.summary}", file=sys.stderr)
        made = run_method(name, example.ct, show)
        outputs |= {named(name, output): item for output, item in made.items() if output in SHOWN}
    present(outputs, output)
    print(f"Done in {duration(time.perf_counter() - start)}. Volumes, montage.png and metrics are in '{output}'.")


def named(method: str, output: str) -> str:
    """The name under which the demo keeps an output of a method: "a11", "a11-std"."""
    return method if output == "corrected" else f"{method}-{output}"


def present(outputs: dict[str, Item], output: Path) -> None:
    """Write all volumes, `montage.png` and with a reference `metrics.csv` into `output`; print the table."""
    with temporary(output.absolute().parent, ".diffusion-") as work:
        for name, item in outputs.items():
            images.write_item(item, work / f"{name}.nrrd")  # type: ignore[arg-type]
        montage(work / "montage.png", montage_rows(outputs), {"": SOFT_TISSUE_HU, "std (0-100 HU)": UNCERTAINTY_HU})
        if "reference" in outputs:
            compared = {name: outputs[name] for name in METHODS}
            reference: Grid = outputs["reference"]  # type: ignore[assignment]
            rows = metrics_rows({"ct": outputs["ct"]}, compared, reference, METAL_HU)
            write_metrics(rows, work / "metrics.csv")
            print(table(rows))
        move_files(work, output, last="montage.png")


def make_example(source: Path | None) -> Example:
    """The user's CT, or a generated pelvis; metal is simulated where the CT has none."""
    from .simulate import metal

    if source is None:
        files = metal.example()
    else:
        ct = images.read_volume(source, "HU")
        if np.asarray(ct.array).max() > METAL_HU:
            return Example(ct)
        files = metal.simulate({"ct": ct}, validate(metal.PARAMETERS, {}), seed=1)
    simulated = {Path(name).stem: item for name, item in files.items()}
    return Example(simulated["ct"], simulated["reference"], simulated["metal"])  # type: ignore[arg-type]


def run_method(name: str, ct: Grid, show: Bar) -> dict[str, Item]:
    """Outputs of a method with its defaults, as the panel and the terminal run it."""
    around = Surroundings(
        report=show,
        card=lambda model: models.read_card(models.find(model)),
        load=lambda model, device: models.load_denoiser(model, device),
    )
    result = execute(methods.load(name), Request(name, samples=SAMPLES.get(name, 1)), {"ct": ct}, around)
    assert result is not None  # a plan alone was not asked for
    return result.outputs


def montage_rows(outputs: dict[str, Item]) -> list[dict[str, np.ndarray]]:
    """reference | input | LI | NMAR | A11 | std, one row a slice, at most three slices with the largest change."""
    titles = {"reference": "reference", "ct": "input", "li": "LI", "nmar": "NMAR", "a11": "A11"}
    volumes = {t: np.asarray(outputs[n].array) for n, t in titles.items() if n in outputs}  # type: ignore[union-attr]
    if "a11-std" in outputs:
        volumes["std (0-100 HU)"] = np.asarray(outputs["a11-std"].array)  # type: ignore[union-attr]
    change = [np.abs(a.astype(float) - b).mean() for a, b in zip(volumes["A11"], volumes["input"])]
    chosen = sorted(np.argsort(change)[-MOST_ROWS:])
    return [{title: stack[k] for title, stack in volumes.items()} for k in chosen]


def table(rows: list[dict]) -> str:
    """The figures over all slices as text."""
    lines = [f"{'':8}{'RMSE HU':>10}{'bias HU':>10}{'SSIM':>8}   in the body, outside the metal"]
    lines += [f"{r['image']:8}{r['rmse']:10.1f}{r['bias']:10.1f}{r['ssim']:8.3f}" for r in rows if r["slice"] == "all"]
    return "\n".join(lines)

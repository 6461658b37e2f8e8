"""NMAR: metal artefact reduction by interpolation normalised with a prior image, the clinical baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..method import Citation, Method, Sample, Stage
from ..params import Boolean
from . import _metal

if TYPE_CHECKING:
    from torch import Tensor

    from ..run import Batch, Run

METHOD = Method(
    id="nmar",
    name="NMAR",
    module="reconstruction",
    task="metal artefact reduction",
    state="works",
    summary="Interpolates across the metal's shadow after dividing by the projection of a segmented prior "
    "image; keeps bone better than LI.",
    citation=Citation(
        "Meyer, E. and Raupach, R. and Lell, M. and Schmidt, B. and Kachelriess, M.",
        "Normalized metal artifact reduction (NMAR) in computed tomography",
        "Medical Physics 37(10), 5482-5493",
        2010,
        "10.1118/1.3484090",
    ),
    inputs=_metal.INPUTS,
    outputs=_metal.OUTPUTS,
    parameters=(
        *_metal.parameters(views=640, bins=641),
        Boolean("keep_lung", True, level="advanced",
                help="Keep lung (-900 to -500 HU) in the prior image instead of setting it to air."),
    ),
    requires=_metal.REQUIRES,
    presets={
        "quick": {"views": 320, "bins": 321},
        "standard": {},
        "published": {"keep_lung": False, "trace_dilation": 0},
    },
    notes="Image-only mode (no sinogram) measures the damaged slice with a virtual scanner; preset quick halves its "
    "views and bins, so that fine detail is lost. Preset published takes lung for air and the shadow without a safety "
    "margin; the ratio keeps its floor, which the paper hasn't.",
    sample=Sample("metal", "Head phantom with a simulated dental filling", 67.3, 58.0),
)  # fmt: skip


def plan(meta: dict[str, Any], p: Any) -> list[Stage]:
    """Two interpolations and reconstructions per slice."""
    return [Stage("correction", items=_metal.planned_slices(meta, p))]


def run(run: Run, inputs: dict[str, Any], p: Any) -> dict[str, Any]:
    """CT with metal (and its projections) -> corrected CT and what goes with it; see `_metal`."""
    from ..physics.ct import mu_to_hu
    from ..physics.metal import nmar

    case = _metal.prepare(run, inputs, p)

    def correct(batch: Batch, hu: Tensor, metal: Tensor, sinogram: Tensor, trace: Tensor) -> dict[str, Tensor]:
        scanner = case.scanner
        with run.clock("physics"):
            filled = nmar(sinogram, trace, metal, scanner.projector, scanner.reconstruct, keep_lung=p.keep_lung)
            return {"hu": mu_to_hu(scanner.reconstruct(filled)), "sinogram": filled}

    with run.stage("correction"):
        pieces = case.map(run, correct)
    return case.outputs(pieces, p)

"""LI: metal artefact reduction by linear interpolation across the metal's shadow, the oldest baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..method import Citation, Method, Sample, Stage
from ..params import Integer
from . import _metal

if TYPE_CHECKING:
    from torch import Tensor

    from ..run import Batch, Run

METHOD = Method(
    id="li",
    name="Linear interpolation",
    module="reconstruction",
    task="metal artefact reduction",
    state="works",
    summary="Replaces the metal's shadow in every view by a straight line between its edges; robust, but blurs "
    "bone near the metal.",
    citation=Citation(
        "Kalender, W. A. and Hebel, R. and Ebersberger, J.",
        "Reduction of CT artifacts caused by metallic implants",
        "Radiology 164(2), 576-577",
        1987,
        "10.1148/radiology.164.2.3602406",
    ),
    inputs=_metal.INPUTS,
    outputs=_metal.OUTPUTS,
    parameters=(
        *_metal.parameters(views=640, bins=641),
        Integer("anchor", 1, unit="bins", low=1, high=20, level="advanced",
                help="Bins averaged at each edge of the shadow for the ends of the line."),
    ),
    requires=_metal.REQUIRES,
    presets={
        "quick": {"views": 320, "bins": 321},
        "standard": {},
        "published": {"anchor": 1, "trace_dilation": 0},
    },
    notes="Image-only mode (no sinogram) measures the damaged slice with a virtual scanner; preset quick halves its "
    "views and bins, so that fine detail is lost. Preset published interpolates from the bins next to the shadow, "
    "without a safety margin.",
    sample=Sample("metal", "Head phantom with a simulated dental filling", 67.3, 65.0),
)  # fmt: skip


def plan(meta: dict[str, Any], p: Any) -> list[Stage]:
    """One interpolation and reconstruction per slice."""
    return [Stage("correction", items=_metal.planned_slices(meta, p))]


def run(run: Run, inputs: dict[str, Any], p: Any) -> dict[str, Any]:
    """CT with metal (and its projections) -> corrected CT and what goes with it; see `_metal`."""
    from ..physics.ct import mu_to_hu
    from ..physics.metal import interpolate_linear

    case = _metal.prepare(run, inputs, p)

    def correct(batch: Batch, hu: Tensor, metal: Tensor, sinogram: Tensor, trace: Tensor) -> dict[str, Tensor]:
        with run.clock("physics"):
            filled = interpolate_linear(sinogram, trace, p.anchor)
            return {"hu": mu_to_hu(case.scanner.reconstruct(filled)), "sinogram": filled}

    with run.stage("correction"):
        pieces = case.map(run, correct)
    return case.outputs(pieces, p)

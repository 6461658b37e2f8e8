"""Filtered backprojection: the classical reconstruction, baseline of every other."""

from __future__ import annotations

from typing import Any

from ..checks import Check
from ..method import Citation, Input, Method, Output, Sample, Stage
from ..params import Choice, Integer, Real

METHOD = Method(
    id="fbp",
    name="Filtered backprojection",
    module="reconstruction",
    task="reconstruction from projections",
    state="works",
    summary="Reconstructs a CT volume from projections with the exact band-limited ramp filter; the baseline "
    "of the other methods.",
    citation=Citation(
        "Kak, A. C. and Slaney, M.", "Principles of Computerized Tomographic Imaging", "IEEE Press", 1988
    ),
    inputs=(
        Input(
            "projections", kind="projections", help="Line integrals with their geometry: parallel, fan arc or fan flat."
        ),
    ),
    outputs=(Output("volume", kind="volume", unit="HU", help="Reconstructed volume."),),
    parameters=(
        Integer(
            "size",
            0,
            unit="pixels",
            low=0,
            high=2048,
            help="Rows and columns of the slices; 0 takes what the projections say, else 256.",
        ),
        Real(
            "pixel",
            0.0,
            unit="mm",
            low=0,
            high=20,
            help="Pixel size; 0 fills the field of view that the projections tell, else that every view sees.",
        ),
        Choice(
            "window", "ramp", choices=("ramp", "hann"), help="Ramp keeps all detail; Hann is smoother and less noisy."
        ),
    ),
    requires=(Check("min_views", input="projections", low=3),),
    presets={
        "quick": {"size": 128, "window": "hann"},
        "standard": {},
        "published": {"window": "ramp", "size": 0, "pixel": 0.0},
    },
    notes="The standard is the published method: the unwindowed ramp filter. Preset quick gives a coarse, smooth look "
    "at the same field of view.",
    sample=Sample("ct", "Chest phantom seen from 360 views", None, 55.0),
)


def plan(meta: dict[str, Any], p: Any) -> list[Stage]:
    """One call per slice."""
    shape = meta["projections"]["shape"]
    return [Stage("reconstruction", items=shape[0] if len(shape) == 3 else 1)]


def run(run: Any, inputs: Any, p: Any) -> dict[str, Any]:
    """projections ([slice,] view, bin) -> volume (k, j, i) in HU, centred on the rotation axis."""
    import numpy as np

    from ..data import volume
    from ..items import slices
    from ..physics import ct
    from ..physics.fbp import fbp
    from ..reconstruction_grid import reconstruction_grid

    measured = inputs["projections"]
    geometry = ct.Geometry.from_dict(measured.acquisition)
    grid, placed = reconstruction_grid(measured, geometry, p.size, p.pixel)
    stack = measured.array if measured.array.ndim == 3 else measured.array[None]

    def reconstruct(batch: Any, sinogram: Any) -> Any:
        with run.clock("physics"):
            return ct.mu_to_hu(fbp(sinogram.float(), geometry, grid, window=p.window))

    with run.stage("reconstruction"):
        array = run.map(slices(len(stack)), reconstruct, stack).numpy()
    return {"volume": volume(np.ascontiguousarray(array), placed)}

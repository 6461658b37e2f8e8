"""A10, DDPM-MAR: the metal's shadow in the projections is inpainted by a diffusion prior of metal-free sinograms.

Rays that met no metal stay as measured, bit for bit. The prior (`ct-sinogram`) is unconditional: it has never seen
metal, so any implant will do. As in NMAR the sinogram is divided by the projection of a prior image; the network works
on that ratio, averaged to a few hundred views and bins, and what it adds to the NMAR baseline is brought back to full
resolution. Resampling is RePaint's (Lugmayr et al. 2022), the start is the noised NMAR sinogram.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..method import Citation, Method, ModelSlot, Sample, Stage
from ..params import SLICE_NOISE, Choice, Integer, Real
from . import _metal

if TYPE_CHECKING:
    from torch import Tensor

    from ..physics.ct import Geometry
    from ..physics.metal import Gaps
    from ..physics.plane import Scanner
    from ..run import Batch, Run

TRAINED_STEPS = 1000
RATIO_SCALE = 0.08              # spread of the ratio: two standard deviations; the schedule's noise is in this unit
CONTEXT = 32                    # views and bins around the shadow that the network sees

METHOD = Method(
    id="a10",
    name="DDPM-MAR",
    module="reconstruction",
    task="metal artefact reduction",
    state="works",
    summary="Removes metal artefacts from CT: a diffusion prior of metal-free sinograms inpaints the metal's shadow in "
    "the projections; everything else stays as measured.",
    citation=Citation(
        "Karageorgos, G. and Zhang, J. and Peters, N. and Xia, W. and Niu, C. and Paganetti, H. and Wang, G. and "
        "De Man, B.",
        "A Denoising Diffusion Probabilistic Model for Metal Artifact Reduction in CT",
        "IEEE Transactions on Medical Imaging 43(10), 3521-3532",
        2024,
        "10.1109/TMI.2024.3416398",
    ),
    inputs=_metal.INPUTS,
    outputs=(*_metal.OUTPUTS, _metal.STD),
    parameters=(
        Integer("steps", 12, low=5, high=TRAINED_STEPS, help="Noise levels from start to end; 250 as published."),
        Integer("repeats", 1, low=1, high=20,
                help="How often each stretch of `jump` levels is sampled (RePaint's resampling); 10 as published."),
        Real("temperature", 0.0, low=0, high=1,
             help="Share of the noise in the shadow: 0 gives the most plausible sinogram, 1 (published) draws one of "
             "the possible ones; take 1 with several samples for their spread."),
        Integer("jump", 5, low=1, high=500, level="advanced",
                help="Length of a stretch in levels, at most half of `steps`; 10 as published."),
        *_metal.parameters(views=640, bins=641),
        Choice("start", "nmar", choices=("nmar", "li", "noise"), level="advanced",
               help="What is noised at the start: the sinogram completed by NMAR or LI, or nothing (plain RePaint)."),
        Real("start_level", 1.0, low=0.05, high=1, level="advanced",
             help="Where sampling starts, as a share of the noise levels; 1 as published."),
        Integer("edge", 4, unit="bins", low=0, high=50, level="advanced",
                help="Depth in the shadow over which the baseline passes into the inpainting; 0 as published."),
        Integer("sinogram_size", 448, unit="bins", low=64, high=4096, level="advanced",
                help="Views and bins are averaged to at most this for the network."),
        SLICE_NOISE,
    ),
    models=(ModelSlot("prior", default="ct-sinogram", interface="Denoiser", dims=2, channels=1, unit="ratio"),),
    requires=_metal.REQUIRES,
    presets={
        "quick": {"steps": 6},
        "standard": {},
        "published": {"steps": 250, "repeats": 10, "jump": 10, "temperature": 1.0, "edge": 0, "sinogram_size": 1024},
    },
    notes="Image-only mode (no sinogram) measures the damaged slice with a virtual scanner. For large implants NMAR is "
    "often as good: keep its result for comparison.",
    sample=Sample("metal", "Head phantom with a simulated dental filling", 67.3, 60.5),
)


def plan(meta: dict[str, Any], p: Any) -> list[Stage]:
    """One network call per downward step and slice with metal."""
    views, bins = meta["sinogram"]["shape"][-2:] if "sinogram" in meta else (p.views, p.bins)
    rows, columns = (coarse_side(n, p.sinogram_size) for n in (views, bins))
    return [Stage("inpainting", items=_metal.planned_slices(meta, p), calls=network_calls(p), part="prior",
                  shape=(1, rows + 2 * CONTEXT, columns))]  # fmt: skip


def run(run: Run, inputs: dict[str, Any], p: Any) -> dict[str, Any]:
    """CT with metal (and its projections) -> corrected CT and what goes with it; see `_metal`."""
    case = _metal.prepare(run, inputs, p)
    network = run.model("prior")
    with run.stage("inpainting"):
        with run.clock("physics"):
            band = shadow_band(case, p.sinogram_size)
        pieces = case.map(run, lambda batch, *slices: correct(batch, case.scanner, network, band, p, *slices))
    return case.outputs(pieces, p)


def network_calls(p: Any) -> int:
    """Downward steps of one inpainting: levels + (levels - 1) // jump * (repeats - 1) * jump (note, check 1)."""
    levels = len(noise_levels(p)) - 1
    return levels + (levels - 1) // p.jump * (p.repeats - 1) * p.jump


def noise_levels(p: Any) -> list[float]:
    """Noise levels of the ratio, from the start down to 0: `steps` of the 1000 linear VP levels (note, section 2.2)."""
    from ..diffusion.schedules import linear_vp, section_indices

    schedule = linear_vp(steps=TRAINED_STEPS).respaced(section_indices(TRAINED_STEPS, [p.steps]))
    kept = max(1, round(p.start_level * p.steps))
    return [RATIO_SCALE * s for s in schedule.descending_sigmas()[p.steps - kept :]]


def correct(batch: Batch, scanner: Scanner, network: Any, band: slice, p: Any, hu: Tensor, metal: Tensor,
            sinogram: Tensor, trace: Tensor) -> dict[str, Tensor]:
    """Reconstruction [B, H, W] in HU and completed sinogram [B, V, D] of slices, metal, line integrals and shadow."""
    from ..physics.ct import mu_to_hu
    from ..physics.metal import Gaps, from_ratio, interpolate_linear, prior_image, to_ratio

    with batch.run.clock("physics"):  # the network's clock stops this one
        prior = scanner.project(prior_image(sinogram, trace, metal, scanner.reconstruct, keep_lung=True))
        gaps, ratio = Gaps.of(trace), to_ratio(sinogram, prior)
        baseline = interpolate_linear(ratio, trace, gaps=gaps)  # NMAR
        if p.start == "li":
            baseline = to_ratio(interpolate_linear(sinogram, trace, gaps=gaps), prior)
        added = inpaint(batch, network, baseline, trace, band, full_circle(scanner.geometry), p)
        completed = from_ratio(baseline + edge_weight(trace, gaps, p.edge) * added, prior).where(trace, sinogram)
        return {"hu": mu_to_hu(scanner.reconstruct(completed)), "sinogram": completed}


def inpaint(batch: Batch, network: Any, baseline: Tensor, trace: Tensor, band: slice, periodic: bool, p: Any
            ) -> Tensor:
    """What RePaint adds to the baseline ratio [B, V, D] inside the shadow, at full resolution; 0 far from it."""
    from torch.nn import functional as F

    from ..diffusion.samplers import repaint

    shape = [coarse_side(n, p.sinogram_size) for n in baseline.shape[-2:]]
    known = F.adaptive_avg_pool2d(baseline[:, None], shape)[..., band]
    outside = 1 - F.adaptive_max_pool2d(trace[:, None].float(), shape)[..., band]
    levels, calls, done = noise_levels(p), network_calls(p), 0

    def noise(k: int) -> Tensor:
        return batch.noise(k, (1, *shape))[..., band]

    def report(n: int, x0: Tensor) -> None:
        nonlocal done
        done += 1
        batch.progress(done, calls, preview=x0[:, 0])

    first = known if p.start != "noise" else known.new_ones(())
    spread = levels[0] * (outside + p.temperature * (1 - outside))
    filled = repaint(
        lambda x, sigma, cond: around(network, x, sigma) if periodic else network(x, sigma),
        first + spread * noise(0), levels, known=known, mask=outside, jump=p.jump, repeats=p.repeats,
        temperature=p.temperature, noise=noise, on_step=report,
    )  # fmt: skip
    added = F.pad(filled - known, (band.start, shape[1] - band.stop))
    return F.interpolate(added, baseline.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def around(network: Any, x: Tensor, sigma: float) -> Tensor:
    """Clean estimate of x [B, 1, V, D] whose views are periodic: the network sees some views from beyond each end."""
    import torch

    views = min(CONTEXT, x.shape[-2])
    wrapped = torch.cat((x[..., -views:, :], x, x[..., :views, :]), -2)
    return network(wrapped, sigma)[..., views:-views, :]


def edge_weight(trace: Tensor, gaps: Gaps, edge: int) -> Tensor:
    """Weight of the inpainting [..., V, D]: 0 at measured rays, rising to 1 at `edge` bins inside the shadow.

    The network's averaged bins straddle the edges of the shadow, where the baseline is nearer to the truth."""
    weight = ((gaps.depth - 0.5) / max(edge, 0.5)).clamp(0, 1)
    weight = weight * weight * (3 - 2 * weight)
    return weight.new_zeros(trace.numel()).index_copy(0, gaps.inside, weight).view(trace.shape)


def full_circle(geometry: Geometry) -> bool:
    """Whether the views go all the way round, so that the last one is a neighbour of the first."""
    angles = geometry.angles_deg
    step = abs(angles[-1] - angles[0]) / (len(angles) - 1)
    return abs(step * len(angles) - 360) < step / 2


def coarse_side(side: int, size: int) -> int:
    """Views or bins after averaging by the smallest whole number that brings them to at most `size`."""
    return -(-side // -(-side // size))


def shadow_band(case: _metal.Case, size: int) -> slice:
    """The coarse bins that the network looks at: the shadow of all slices and some bins around it. The same for every
    slice, so that no result depends on which slices were worked on together."""
    import torch

    bins = case.scanner.geometry.bins
    coarse = coarse_side(bins, size)
    outline = torch.from_numpy(case.outline[list(case.chosen)].any(0)[None]).to(case.scanner.device)
    hit = torch.nonzero(case.scanner.trace(case.inside(outline))[0].any(0)).flatten().tolist()
    if not hit:
        return slice(0, coarse)
    low, high = math.floor(hit[0] * coarse / bins) - CONTEXT, math.ceil((hit[-1] + 1) * coarse / bins) + CONTEXT
    return slice(max(0, low), min(coarse, high))

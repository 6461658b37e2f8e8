"""A11 DuDoDp: metal artefact reduction with an image diffusion prior plugged into both domains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..method import Citation, Method, ModelSlot, Sample, Stage
from ..params import SLICE_NOISE, Choice, Integer, Real
from . import _metal

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.schedules import DiscreteVP
    from ..physics.metal import Gaps
    from ..run import Batch, Run

MU_CM = 0.192  # attenuation of water, 1/cm: x = 2 mu - 1 is the network's image
HU_PER_X = 1000 / (2 * MU_CM)  # HU = HU_PER_X (x + 1) - 1000
TRAINED_STEPS = 1000

METHOD = Method(
    id="a11",
    name="DuDoDp",
    module="reconstruction",
    task="metal artefact reduction",
    state="works",
    summary="Removes metal artefacts from CT: a diffusion prior of clean slices fills the metal's shadow in the "
    "projections and supports the image where the data are weak.",
    citation=Citation(
        "Liu, X. and Xie, Y. and Diao, S. and Tan, S. and Liang, X.",
        "Unsupervised CT Metal Artifact Reduction by Plugging Diffusion Priors in Dual Domains",
        "IEEE Transactions on Medical Imaging 43(10), 3533-3545",
        2024,
        "10.1109/TMI.2024.3351201",
    ),
    inputs=_metal.INPUTS,
    outputs=(*_metal.OUTPUTS, _metal.STD),
    parameters=(
        Integer("steps", 20, low=5, high=TRAINED_STEPS, help="Reverse steps, one network call each; 100 as published."),
        *_metal.parameters(views=640, bins=641),
        Integer("image_size", 256, unit="pixels", low=64, high=1024, level="advanced",
                help="Slices with longer sides are averaged to at most this for the network; the result keeps "
                "its grid."),
        Choice("trace_fill", "normalised", choices=("normalised", "replaced"), level="advanced",
               help="How the prior fills the shadow: scaled to the data at its edges, or as it is (published)."),
        Choice("prior", "network", choices=("network", "nmar"), level="advanced",
               help="The trained prior, or the NMAR prior image where no weights are at hand."),
        Real("a", 0.4, low=0, high=1, level="advanced", help="Weight of the prior in the image at the end."),
        Real("n", 4.0, low=0, high=10, level="advanced", help="Decay of that weight during sampling."),
        Real("delta_y", 0.8, low=0, high=1, level="advanced",
             help="Weight of the prior in the branch of the uncorrected image."),
        Real("data_clamp", 4.0, low=1, high=20, level="advanced",
             help="Upper limit of known line integrals for a field of view of 15.36 cm, scaled with the real one."),
        Real("start_noise", 0.0, unit="HU", low=0, high=10000, level="advanced",
             help="Start from the NMAR prior image under this noise instead of from noise alone (0, published); "
             "levels beyond the prior's training need no steps then."),
        SLICE_NOISE,
    ),
    models=(ModelSlot("prior", default="ct-image", interface="Denoiser", dims=2, channels=1, unit="HU",
                      when="prior=network"),),
    requires=_metal.REQUIRES,
    presets={
        "quick": {"steps": 8, "start_noise": 3000},  # skips levels beyond the prior's training
        "standard": {},
        "published": {"steps": 100, "image_size": 512, "trace_fill": "replaced", "trace_dilation": 0},
    },
    notes="Image-only mode (no sinogram) measures the damaged slice with a virtual scanner. What lies in the shadow of "
    "the metal is estimated, not measured.",
    sample=Sample("metal", "Head phantom with a simulated dental filling", 67.3, 54.2),
)


def plan(meta: dict[str, Any], p: Any) -> list[Stage]:
    """One network call per step and slice with metal."""
    slices, sides = _metal.planned_slices(meta, p), _metal.planned_sides(meta)
    factor = -(-max(sides) // p.image_size)
    rows, columns = (-(-n // factor) for n in sides)
    calls = respaced(p.steps, p.start_noise).steps
    if p.prior == "nmar":
        return [Stage("correction", items=slices, calls=calls)]
    return [Stage("correction", items=slices, calls=calls, part="prior", shape=(1, rows, columns))]


def run(run: Run, inputs: dict[str, Any], p: Any) -> dict[str, Any]:
    """CT with metal (and its projections) -> corrected CT and what goes with it; see `_metal`."""
    case = _metal.prepare(run, inputs, p)
    schedule = respaced(p.steps, p.start_noise)
    network = run.model("prior") if p.prior == "network" else None
    with run.stage("correction"):
        pieces = case.map(run, lambda batch, *slices: correct(batch, case, schedule, network, p, *slices))
    return case.outputs(pieces, p)


def respaced(steps: int, start_noise: float = 0.0) -> DiscreteVP:
    """The schedule with `steps` of its 1000 steps: for 100 the published ten in each of ten sections, otherwise evenly
    spread, since with few steps the neighbours at the ends of sections would be wasted. start_noise : highest noise
    level, HU; 0 means that of the schedule. Fewer steps where the levels below it are fewer."""
    from ..diffusion.schedules import linear_vp, section_indices

    full = linear_vp(steps=TRAINED_STEPS)
    if start_noise > 0:
        levels = round(full.time_of_sigma(start_noise / HU_PER_X)) + 1
        return full.respaced(section_indices(levels, [min(steps, levels)]))
    return full.respaced(section_indices(TRAINED_STEPS, [10] * 10 if steps == 100 else [steps]))


def correct(batch: Batch, case: _metal.Case, schedule: DiscreteVP, network: Callable[..., Tensor] | None, p: Any,
            hu: Tensor, metal: Tensor, sinogram: Tensor, trace: Tensor) -> dict[str, Tensor]:
    """Corrected slices [B, H, W] in HU, and the line integrals [B, V, D] with what the result puts into the shadow.

    The loop runs on a grid of at most `image_size` pixels; its result then fills the shadow of the projections at full
    resolution, as in the loop's last step."""
    from ..physics.metal import prior_image
    from ..physics.plane import coarse_factor, coarse_grid, coarsen, refine

    run, fine = batch.run, case.scanner
    factor = coarse_factor(fine.grid, p.image_size)
    coarse = fine.on(coarse_grid(fine.grid, factor))
    data = measurement(run, coarse, sinogram, trace, p)
    start = None
    if network is None or p.start_noise > 0:
        with run.clock("physics"):
            outline = coarsen(metal.float(), factor) > 0
            start = 2 * 10 * prior_image(sinogram, trace, outline, coarse.reconstruct)[:, None] - 1
    predict = hu_prior(network, schedule) if network is not None else always(start)
    shape = (1, coarse.grid.rows, coarse.grid.columns)

    def report(i: int, state: dict[str, Tensor]) -> None:
        batch.progress(schedule.steps - i, schedule.steps, preview=_hu(state["x0"][:, 0]))

    with run.clock("physics"):  # the network's clock stops this one
        x = dual_domain_loop(predict, lambda i: batch.noise(i, shape), schedule, data, a=p.a, n=p.n,
                             delta_y=p.delta_y, start=start if p.start_noise > 0 else None, on_step=report)
        full = measurement(run, fine, sinogram, trace, p)
        if factor > 1:
            x = last_step(refine(x[:, 0], factor, fine.grid)[:, None], full,
                          delta=1 - (1 - p.a) * math.exp(-p.n / schedule.steps))
        found = {"hu": _hu(x[:, 0])}
        if p.keep_sinogram:
            found["sinogram"] = full.filled((x + 1) / 2)[:, 0].where(trace, sinogram)
    return found


def measurement(run: Run, scanner: Any, sinogram: Tensor, trace: Tensor, p: Any) -> Measurement:
    """The loop's view of a scanner: mu in 1/cm [B, 1, H, W] instead of 1/mm [B, H, W]."""
    level = scanner.level * p.data_clamp / 4
    return Measurement(
        sinogram[:, None],
        trace[:, None],
        project=lambda mu: scanner.project(mu / 10),
        reconstruct=lambda s: 10 * scanner.reconstruct(s),
        level=level,
        normalised=p.trace_fill == "normalised",
    )


def always(image: Tensor | None) -> Callable[[Tensor, int], Any]:
    """A prior that answers with the same image at every step."""
    return lambda x, i: image


def _hu(x: Tensor) -> Tensor:
    """HU of x = 2 mu - 1 with mu in 1/cm."""
    return ((x + 1) / 2 / MU_CM - 1) * 1000


@dataclass(frozen=True)
class Measurement:
    """What was measured and the two operators between the domains, in units of the published loop.

    sinogram [B, 1, V, D]: line integrals; trace: bool, the same shape, True where metal was hit;
    project: mu in 1/cm [B, 1, H, W] -> line integrals; reconstruct: line integrals -> mu in 1/cm (filtered
    backprojection);
    level: upper limit of known line integrals, 4 for a field of view of 15.36 cm, proportional to it (note section
    2.7);
    normalised: the prior's projection is scaled to the data at the edges of the shadow (as NMAR does) before it fills
    it, so that a bias of the prior leaves no step there; the published loop takes it as it is."""

    sinogram: Tensor
    trace: Tensor
    project: Callable[[Tensor], Tensor]
    reconstruct: Callable[[Tensor], Tensor]
    level: float = 4.0
    normalised: bool = False

    @cached_property
    def known(self) -> Tensor:
        """The measured line integrals within their limits."""
        return self.sinogram.clamp(0, self.level)

    @cached_property
    def gaps(self) -> Gaps:
        """The rays to fill, the same in every step."""
        from ..physics.metal import Gaps

        return Gaps.of(self.trace)

    def spread(self) -> Tensor:
        """Where the shadow matters in the image: reconstruction of `level` over the trace, before weight and
        clipping."""
        return self.reconstruct(self.level * self.trace.to(self.sinogram.dtype))

    def filled(self, mu: Tensor) -> Tensor:
        """Data outside the shadow, the projection of the image mu (1/cm) inside."""
        projected = self.project(mu)
        if self.normalised:
            from ..physics.metal import interpolate_normalised

            return interpolate_normalised(self.known, self.trace, projected, self.gaps)
        return projected.where(self.trace, self.known)


def dual_domain_loop(
    predict: Callable[[Tensor, int], Tensor],
    noise: Callable[[int], Tensor],
    schedule: DiscreteVP,
    data: Measurement,
    *,
    a: float = 0.4,
    n: float = 4.0,
    delta_y: float = 0.8,
    delta_period: int | None = None,
    start: Tensor | None = None,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> Tensor:
    """The sampler of DuDoDp (Liu et al. 2024; published code), images in x = 2 mu - 1 with mu in 1/cm.

    predict(x_i, i): estimate of the clean image at step i (clipped to [-1, 1] here); noise(i): standard normal image,
    i = T for the start and i for going from step i to i - 1. a: weight of the prior in the image domain at the end of
    sampling; n: decay of that weight; delta_y: weight in the branch of the uncorrected image. delta_period: number of
    steps over which delta decays; default T (published code: 100 whatever T is). start: first guess that is brought to
    the noise of step T - 1; None (published) starts from noise alone. Returns the corrected image [B, 1, H, W]."""
    period = delta_period or schedule.steps
    uncorrected = 2 * data.reconstruct(data.sinogram) - 1
    spread = data.spread()  # linear: one backprojection serves all steps
    m_y = (delta_y * spread).clamp(0, 1)
    x = noise(schedule.steps)
    if start is not None:
        x = math.sqrt(schedule.alpha_bar[-1]) * start + math.sqrt(1 - schedule.alpha_bar[-1]) * x
    for i in reversed(range(schedule.steps)):
        x0 = predict(x, i).clamp(-1, 1)
        delta = 1 - (1 - a) * math.exp(-n * (i + 1) / period)
        m_t = (delta * spread).clamp(0, 1)
        r = 2 * data.reconstruct(data.filled((x0 + 1) / 2)) - 1  # sinogram domain: prior fills the trace
        r = m_t * x0 + (1 - m_t) * r  # image domain: prior again, weighted
        q = m_y * x0 + (1 - m_y) * uncorrected
        k = math.sqrt(schedule.alpha_bar[i])
        z = k * r + (1 - k) * q  # noisy steps lean on the uncorrected image
        abar = schedule.alpha_bar_previous[i]
        x = z if i == 0 else math.sqrt(abar) * z + math.sqrt(1 - abar) * noise(i)
        if on_step:
            on_step(i, {"x0": x0, "x": x, "m_t": m_t, "m_y": m_y})
    return x


def last_step(x: Tensor, data: Measurement, delta: float) -> Tensor:
    """The loop's data step, without its branch of the uncorrected image, for a clean estimate x [B, 1, H, W]."""
    m = (delta * data.spread()).clamp(0, 1)
    return m * x + (1 - m) * (2 * data.reconstruct(data.filled((x + 1) / 2)) - 1)


def hu_prior(denoise: Callable[..., Tensor], schedule: DiscreteVP) -> Callable[[Tensor, int], Tensor]:
    """The one border between the loop (VP states in x = 2 mu - 1) and a denoiser of HU images in the VE view.

    mu = 0.192 (1 + HU / 1000) 1/cm, hence HU = HU_PER_X (x + 1) - 1000."""

    def predict(x: Tensor, i: int) -> Tensor:
        hu = (x / math.sqrt(schedule.alpha_bar[i]) + 1) * HU_PER_X - 1000
        return (denoise(hu, schedule.sigmas[i] * HU_PER_X, None) + 1000) / HU_PER_X - 1

    return predict

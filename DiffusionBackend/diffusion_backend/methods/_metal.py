"""What the metal methods (A10, A11, NMAR, LI) share: declarations, slices, grids, measurement, metal put back, outputs.

A method gives a function of slices in HU on a grid of square pixels, their line integrals and the metal's shadow;
what it returns is brought back to the voxels of the volume. In image-only mode slices without metal are copied bit for
bit; with projections every slice is reconstructed from them. Declarations are read without torch, imported late.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import Check
from ..data import Grid, Segmentation, Table, axial_axis, projections
from ..errors import InputError
from ..method import Input, Output
from ..params import Boolean, Choice, Integer, Parameter, Real
from . import _metal_input
from ._metal_input import AIR_HU, BODY_HU, MAX_METAL_SHARE

if TYPE_CHECKING:
    from torch import Tensor

    from ..physics.plane import Plane, Scanner
    from ..run import Batch, Run

INPUTS = (
    Input("ct", kind="volume", unit="HU", help="CT with metal artefacts, in Hounsfield units."),
    Input("sinogram", kind="projections", required=False,
          help="Measured line integrals of the same slices; without them a virtual scanner measures the slices."),
    Input("metal", kind="segmentation", required=False,
          help="Where the metal is; without it voxels above the metal threshold are taken."),
)
OUTPUTS = (
    Output("corrected", kind="volume", unit="HU", display="compare", help="The CT with less artefact."),
    Output("difference", kind="volume", unit="HU", display="overlay", help="Corrected minus original."),
    Output("shadow", kind="volume", display="overlay",
           help="Share of the rays through each voxel that met metal, 0 to 1: what had to be estimated."),
    Output("metal", kind="segmentation", display="overlay", help="The metal that was used."),
    Output("completed", kind="projections", display="none", when="keep_sinogram=True",
           help="Completed line integrals of the slices that were worked on, measured or of the virtual scanner."),
    Output("report", kind="table", display="table", help="Per changed slice: metal, trace and change."),
)
WIDE_SHADOW = 0.15                    # of the projections of a slice: beyond it every method failed on real slices
STD = Output("std", kind="volume", unit="HU", display="overlay", when="samples>1", of="corrected",
             help="Standard deviation of the corrected CT over the samples.")
REQUIRES = (
    Check("unit", "ct", unit="HU"),
    Check("unit_range", "ct", low=-33000, below=-200),
    Check("min_size", "ct", low=16),
    Check("has_metal", "ct", pixels=True, threshold="metal_threshold", unless=("metal", "sinogram")),
    Check("metal_fraction", "ct", pixels=True, threshold="metal_threshold", high=MAX_METAL_SHARE, unless=("metal",)),
    Check("same_slices", "sinogram", other="ct"),
    Check("same_grid", "metal", other="ct"),
)


def parameters(views: int, bins: int) -> tuple[Parameter, ...]:
    """The parameters that all metal methods have, with a method's own default of the virtual scanner."""
    advanced = {"level": "advanced"}
    return (
        Real("metal_threshold", 2500.0, unit="HU", low=1000, high=20000,
             help="Voxels from this value on are metal (3000 in 12-bit data near dense bone, 2000 for titanium)."),
        Choice("reinsert", "original", choices=("original", "fixed", "no"),
               help="What stands where the metal is: the original values, one fixed value, or the estimate."),
        Real("reinsert_hu", 3000.0, unit="HU", low=0, high=65535, help="Value of the metal for 'fixed'.", **advanced),
        Integer("first_slice", 0, unit="slices", low=0, high=100000, help="First slice to correct.", **advanced),
        Integer("last_slice", 100000, unit="slices", low=0, high=100000,
                help="Last slice to correct; a number beyond the end means the end.", **advanced),
        Integer("slice_margin", 0, unit="slices", low=0, high=10,
                help="Slices beyond the ends of the metal that are corrected with its outline, too.", **advanced),
        Real("metal_core", 500.0, unit="HU", low=0, high=10000,
             help="A piece of metal must reach the threshold plus this somewhere, or be compact where none does; "
             "streaks don't.", **advanced),
        Integer("metal_dilation", 0, unit="pixels", low=0, high=5, help="The metal is grown by this much.", **advanced),
        Boolean("fill_holes", True, help="Fill holes of the metal in each slice.", **advanced),
        Integer("trace_dilation", 1, unit="bins", low=0, high=5,
                help="Safety margin of the metal's shadow in the projections, on each side.", **advanced),
        Boolean("restore_detail", True,
                help="Image-only: give back the detail that the virtual scanner lost. Fine streaks of starved rays "
                "come back, too.",
                **advanced),
        Boolean("keep_sinogram", False, help="Also give the completed line integrals.", **advanced),
        Integer("views", views, unit="views", low=90, high=2000, help="Views of the virtual scanner.", **advanced),
        Integer("bins", bins, unit="bins", low=91, high=2001, help="Detector bins of the virtual scanner.", **advanced),
    )


def planned_slices(meta: Mapping[str, Any], p: Any) -> int:
    """Slices that a run works on, as `prepare` chooses them; too many where bright voxels turn out to be no metal."""
    tops = meta["ct"]["tops"]
    if "metal" in meta:
        metal = [top >= meta["metal"]["labels"].get("metal", 1) for top in meta["metal"]["tops"]]
    else:
        metal = [top >= p.metal_threshold for top in tops]
    near = [any(metal[max(0, k - p.slice_margin) : k + p.slice_margin + 1]) for k in range(len(tops))]
    return sum(near[p.first_slice : p.last_slice + 1])


def planned_sides(meta: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of the grid of square pixels on which the physics of a slice runs."""
    ct = meta["ct"]
    sides = [n for axis, n in enumerate(ct["shape"]) if axis != ct["axial_axis"]]
    pitch = [s for axis, s in enumerate(reversed(ct["spacing"] or [1.0] * 3)) if axis != ct["axial_axis"]]
    rows, columns = (max(1, round(n * s / min(pitch))) for n, s in zip(sides, pitch, strict=True))
    return rows, columns


@dataclass(frozen=True)
class Case:
    """A volume to correct. All arrays are (slice, row, column) along the axial axis.

    metal : what is put back; outline : metal that casts the shadow (with slice margin); chosen : slices to work on;
    bare : slices without metal to reconstruct from their projections, and their HU in `plain`;
    scanner : physics of the grid of square pixels; sinogram : measured line integrals (slice, view, bin) or None."""

    ct: Grid
    axis: int
    hu: np.ndarray
    metal: np.ndarray
    outline: np.ndarray
    chosen: tuple[int, ...]
    plane: Plane
    scanner: Scanner
    sinogram: np.ndarray | None
    bare: tuple[int, ...] = ()
    plain: np.ndarray | None = None

    def map(self, run: Run, f: Callable[..., Mapping[str, Tensor]]) -> dict[str, np.ndarray]:
        """Apply `f(batch, hu, metal, sinogram, trace)` to the chosen slices, everything on the grid of square pixels.

        hu, metal [B, H, W]; sinogram: measured or virtual line integrals, trace: metal's shadow [B, V, D]. `f` returns
        the reconstruction as "hu" [B, H, W] and the completed "sinogram" [B, V, D]. Returns "hu" and "shadow" as
        stored (slice, row, column), "trace" as shares, "sinogram" where it is to be kept."""
        from ..items import slices

        def work(batch: Batch, hu: Tensor, metal: Tensor, *measured: Tensor) -> dict[str, Tensor]:
            return self._work(batch, f, hu, metal, *measured)

        if not self.chosen:
            return {}
        arrays = (self.hu, self.outline) if self.sinogram is None else (self.hu, self.outline, self.sinogram)
        pieces = run.map(slices(self.chosen), work, *arrays)
        if bool((pieces["excess"] > 0).any()):
            which = [k for k, bad in zip(self.chosen, pieces["excess"].tolist(), strict=True) if bad]
            run.warn(f"In {len(which)} slices (first: {which[0]}) metal seems to reach beyond its outline; lower "
                     "metal_threshold or raise trace_dilation.")
        if (share := float(pieces["trace"].max())) > WIDE_SHADOW:
            run.warn(f"The metal's shadow covers {100 * share:.0f} % of the projections of a slice: too much is "
                     "missing there for a reliable estimate. Compare with the original and with NMAR, and leave out "
                     "metal that lies outside the body.")
        return {name: piece.numpy() for name, piece in pieces.items()}

    def require_rays(self, run: Run) -> None:
        """Refuse shadows that leave too little before the first network call; methods without one meet them at once."""
        from ..items import slices

        def look(batch: Batch, metal: Tensor) -> Tensor:
            with batch.run.clock("physics"):
                trace = self.scanner.trace(self.inside(metal))
            _metal_input.require_rays(trace, batch.indices)
            return trace.flatten(1).any(1)

        if self.chosen and any(slot.used(run.p) for slot in run.method.models):
            with run.stage("metal"):
                run.map(slices(self.chosen), look, self.outline)

    def reconstructed(self, run: Run) -> Case:
        """With the plain reconstruction of the slices without metal, which no method touches."""
        from ..items import slices
        from ..physics.ct import mu_to_hu

        def work(batch: Batch, sinogram: Tensor) -> Tensor:
            with batch.run.clock("physics"):
                return self.plane.from_grid(mu_to_hu(self.scanner.reconstruct(sinogram.float())))

        if not self.bare:
            return self
        with run.stage("reconstruction"):
            return replace(self, plain=run.map(slices(self.bare), work, self.sinogram).numpy())

    def inside(self, metal: Tensor) -> Tensor:
        """The metal on the grid of square pixels, boolean."""
        if self.plane.square:
            return metal
        share = self.plane.to_grid(metal.float())  # thin metal must not vanish between the pixels of the grid
        return share > share.amax((-2, -1), keepdim=True).clamp(max=0.2) / 2

    def _work(self, batch: Batch, f: Callable[..., Mapping[str, Tensor]], hu: Tensor, metal: Tensor,
              *measured: Tensor) -> dict[str, Tensor]:
        from ..physics.ct import hu_to_mu
        from ..physics.metal import shadow_map, trace_too_small

        image = self.plane.to_grid(hu.float().clamp(min=AIR_HU))
        inside = self.inside(metal)
        with batch.run.clock("physics"):
            sinogram = measured[0].float() if measured else self.scanner.project(hu_to_mu(image))
            trace = self.scanner.trace(inside)
            _metal_input.require_rays(trace, batch.indices)
            shadow = shadow_map(trace, self.scanner.projector)
            excess = trace_too_small(sinogram, trace)
        found = f(batch, image, inside, sinogram, trace)
        if not measured and batch.run.p.restore_detail:
            found = dict(found) | {"hu": found["hu"] + self._lost_detail(batch.run, image, inside, found["hu"])}
        pieces = {"hu": self.plane.from_grid(found["hu"]), "shadow": self.plane.from_grid(shadow).clamp(0, 1),
                  "trace": trace.flatten(1).float().mean(1), "excess": excess.float()}
        return pieces | ({"sinogram": found["sinogram"]} if batch.run.p.keep_sinogram else {})

    def _lost_detail(self, run: Run, image: Tensor, inside: Tensor, corrected: Tensor) -> Tensor:
        """What projecting and reconstructing takes from slices [B, H, W] in HU: fine detail and noise.

        The metal and the pixels that touch it are taken from the corrected slices: their edges are lost otherwise, and
        would come back as rings."""
        from torch.nn.functional import max_pool2d

        from ..physics.ct import hu_to_mu, mu_to_hu

        touched = max_pool2d(inside.float()[:, None], 3, 1, 1)[:, 0] > 0
        seen = image.where(~touched, corrected.clamp(min=AIR_HU))
        with run.clock("physics"):
            return seen - mu_to_hu(self.scanner.reconstruct(self.scanner.project(hu_to_mu(seen))))

    def outputs(self, pieces: Mapping[str, np.ndarray], p: Any) -> dict[str, Any]:
        """All declared outputs, in the axes of the volume; metal is put back."""
        dtype = np.result_type(self.ct.array.dtype, np.float32)
        corrected = np.moveaxis(self.ct.array.astype(dtype), self.axis, 0)
        shadow = np.zeros(self.hu.shape, np.float32)
        chosen = list(self.chosen)
        if self.plain is not None:
            corrected[list(self.bare)] = self.plain
        if chosen:
            before = self.hu[chosen]
            corrected[chosen] = np.where(_metal_input.no_data(before), before, pieces["hu"])
            shadow[chosen] = pieces["shadow"]
            if p.reinsert != "no":
                corrected[self.metal] = self.hu[self.metal] if p.reinsert == "original" else p.reinsert_hu
        difference = (corrected - self.hu).astype(np.float32)
        stored = [np.ascontiguousarray(np.moveaxis(a, 0, self.axis)) for a in (corrected, difference, shadow)]
        metal = np.ascontiguousarray(np.moveaxis(self.metal, 0, self.axis)).astype(np.uint8)
        kept = {}
        if "sinogram" in pieces:
            about = self.scanner.geometry.to_dict() | {"slices": chosen}
            kept["completed"] = projections(pieces["sinogram"], about, self.ct.geometry)
        return kept | {
            "corrected": self.ct.like(stored[0]),
            "difference": self.ct.like(stored[1]),
            "shadow": self.ct.like(stored[2], ""),
            "metal": Segmentation(metal, self.ct.geometry, {"metal": 1}),
            "report": self._report(difference, pieces.get("trace", np.zeros(0))),
        }

    def _report(self, difference: np.ndarray, trace: np.ndarray) -> Table:
        rows: list[tuple[Any, ...]] = []
        for k, share in zip(self.chosen, trace.tolist(), strict=True):
            body = (self.hu[k] > BODY_HU) & ~self.metal[k]
            change = float(np.abs(difference[k][body]).mean()) if body.any() else 0.0
            rows.append((k, int(self.metal[k].sum()), round(100 * share, 2), round(change, 1)))
        return Table(("slice", "metal voxels", "trace %", "mean change in body HU"), rows)


def prepare(run: Run, inputs: Mapping[str, Any], p: Any) -> Case:
    """Check what the declared checks can't, find the metal and choose the slices. InputError before any network
    call."""
    from ..physics.metal import virtual_geometry
    from ..physics.plane import Plane, Scanner

    ct = inputs["ct"]
    axis = axial_axis(ct)
    hu = np.moveaxis(ct.array, axis, 0)
    spacing = [float(s) for s in reversed(ct.spacing)] if ct.geometry else [1.0, 1.0, 1.0]
    del spacing[axis]
    plane = Plane.of((hu.shape[1], hu.shape[2]), (spacing[0], spacing[1]))
    metal = _metal_input.find_metal(inputs, hu, axis, p)
    outline = _metal_input.grown(metal, p.slice_margin)
    sinogram, geometry = None, virtual_geometry(plane.grid, p.views, p.bins)
    if "sinogram" in inputs:
        sinogram, geometry = _metal_input.measured(inputs["sinogram"], axis)
    if p.first_slice > min(p.last_slice, len(hu) - 1):
        raise InputError(f"The slices {p.first_slice} to {p.last_slice} were asked for, but the volume has the "
                         f"slices 0 to {len(hu) - 1}.", "Choose first_slice and last_slice within the volume.")
    wanted = range(p.first_slice, min(p.last_slice, len(hu) - 1) + 1)
    chosen = tuple(k for k in wanted if outline[k].any())
    bare = tuple(k for k in wanted if not outline[k].any()) if sinogram is not None else ()
    scanner = Scanner(geometry, plane.grid, run.device, p.trace_dilation)
    case = Case(ct, axis, hu, metal, outline, chosen, plane, scanner, sinogram, bare)
    if run.sample == 0:  # the same for every sample
        for sentence in _metal_input.doubts(ct, hu, chosen):
            run.warn(sentence)
        case.require_rays(run)
    return case.reconstructed(run)

"""Checks as data: predicates over what is known of an input, evaluated alike by the panel and by the engine.

Most need only `facts` (sizes, units, spacing, value range), which a panel has from its nodes: see `predicates`. Those
declared with `pixels=True` look at the array and run here, in the engine, before the first network call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import predicates
from .data import Grid, Item, Segmentation, Table, Text, axial_axis
from .errors import InputError
from .predicates import PREDICATES, Facts, value_ranges


@dataclass(frozen=True, init=False)
class Check:
    """One requirement: predicate `name` on input `input` with `limits`; `pixels` says that it needs the array.

    A limit `unless` = ("metal", ...) waives the check where one of these inputs is given."""

    name: str
    input: str
    pixels: bool
    limits: Mapping[str, Any]

    def __init__(self, name: str, input: str, pixels: bool = False, **limits: Any) -> None:
        if name not in (PIXEL_PREDICATES if pixels else PREDICATES):
            raise ValueError(f"There is no {'pixel ' if pixels else ''}check named '{name}'.")
        for attribute, value in (("name", name), ("input", input), ("pixels", pixels), ("limits", limits)):
            object.__setattr__(self, attribute, value)

    def to_dict(self) -> dict[str, Any]:
        """The check as plain JSON values."""
        return {"name": self.name, "input": self.input, "pixels": self.pixels, "limits": dict(self.limits)}


def default_checks(name: str, kind: str) -> tuple[Check, ...]:
    """The checks that every input of this kind gets without being asked."""
    if kind == "volume":
        return (
            Check("not_empty", name),
            Check("scalar", name),
            Check("finite", name),
            Check("spacing", name, low=1e-3, high=100),
        )
    if kind == "projections":
        return (
            Check("not_empty", name),
            Check("finite", name),
            Check("sinogram_fits", name),
            Check("line_integrals", name, high=15),
        )
    if kind == "segmentation":
        return Check("not_empty", name), Check("labelled", name)
    if kind == "text":
        return (Check("text_length", name, low=1, high=10000),)
    return ()


def facts(item: Item) -> dict[str, Any]:
    """What the predicates need to know of an input, as plain JSON values."""
    if isinstance(item, Text):
        return predicates.text_facts(item.text)
    if isinstance(item, Table):
        return predicates.table_facts(item.columns, len(item.rows))
    placed = item.geometry
    placement = {"spacing": placed.spacing, "ijkToRAS": placed.ijk_to_ras} if placed else None
    if isinstance(item, Segmentation):
        return predicates.label_facts(item.array, placement, item.labels)
    axes = tuple(axis.name for axis in item.axes)
    return predicates.grid_facts(item.array, placement, axes, item.unit, item.acquisition)


def enforce(checks: tuple[Check, ...], inputs: Mapping[str, Item], p: Any) -> None:
    """Evaluate all checks of the inputs that are there; the first that fails raises InputError with its sentence."""
    known = {name: facts(item) for name, item in inputs.items()}
    for check in sorted(checks, key=lambda c: c.pixels):
        sentence = verdict(check, known, p, inputs)
        if sentence:
            raise InputError(sentence)


def verdict(check: Check, known: Mapping[str, Facts], p: Any, items: Mapping[str, Item]) -> str:
    """The sentence of a check that fails, or ""; "" also for an input that isn't given."""
    plain, parameters = check.to_dict(), vars(p) if p else {}
    if not check.pixels:
        return predicates.verdict(plain, known, parameters)
    limits = predicates.applicable_limits(plain, known, parameters)
    if limits is None:
        return ""
    return PIXEL_PREDICATES[check.name](predicates.subject(plain), items[check.input], limits)


# ---- predicates on pixels: (what, item, limits) -> sentence or "" ----


def _has_metal(what: str, item: Grid, limits: Facts) -> str:
    threshold = limits["threshold"]
    if not any((part > threshold).any() for part in item.array):
        brightest = max(value_ranges(item.array)[1], default=0.0)
        return (
            f"{what} holds no metal: no voxel is above {threshold:g} HU (largest value {brightest:g}). Lower "
            "the threshold."
        )
    return ""


def _metal_fraction(what: str, item: Grid, limits: Facts) -> str:
    """Metal over body (above -500 HU), in the slice where it is largest."""
    threshold, high = limits["threshold"], limits["high"]
    for k, part in enumerate(np.moveaxis(item.array, axial_axis(item), 0)):
        metal, body = int((part > threshold).sum()), int((part > -500).sum())
        if metal > high * body:
            return (
                f"{what} has voxels above {threshold:g} HU in {100 * metal / body:.0f} % of the body of slice {k}, "
                f"but at most {100 * high:g} % can be metal. Raise the metal threshold or check that the values "
                "are in HU."
            )
    return ""


PIXEL_PREDICATES: dict[str, Callable[[str, Any, Facts], str]] = {
    "has_metal": _has_metal,
    "metal_fraction": _metal_fraction,
}

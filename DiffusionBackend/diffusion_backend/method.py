"""What a method declares: identity, inputs, outputs, parameters, models, checks. Imports without torch.

A method file holds `METHOD`, `plan(meta, p)` and `run(run, inputs, p)`; it imports torch and the physics inside
`run`, so that
panel, console, `describe` and documentation read the declaration on a machine without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .checks import Check, default_checks
from .params import PRESETS, Parameter

MODULES = ("reconstruction", "segmentation", "synthesis")
STATES = ("works", "import only", "experimental", "planned")
KINDS = (
    "volume",
    "vector volume",
    "complex volume",
    "sequence",
    "projections",
    "segmentation",
    "structures",
    "table",
    "text",
    "file",
)
DISPLAYS = ("compare", "overlay", "plot", "table", "text", "none")
INTERFACES = (
    "Denoiser",
    "HeatModel",
    "BernoulliRefiner",
    "Segmentor",
    "Classifier",
    "Scorer",
    "Codec",
    "TextEncoder",
    "Regressor",
)


@dataclass(frozen=True)
class Citation:
    """The publication of a method."""

    authors: str
    title: str
    journal: str
    year: int
    doi: str = ""

    def bibtex(self, key: str) -> str:
        """One BibTeX entry, for example for `key` = "a11"."""
        fields = {
            "author": self.authors,
            "title": self.title,
            "journal": self.journal,
            "year": self.year,
            "doi": self.doi,
        }
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@article{{{key},", *lines, "}"])


@dataclass(frozen=True)
class Input:
    """One input. `kind` from KINDS; `unit` of the values ("HU", "Gy", "" for line integrals or labels)."""

    name: str
    kind: str = "volume"
    unit: str = ""
    required: bool = True
    help: str = ""


@dataclass(frozen=True)
class Output:
    """One output. `display` from DISPLAYS; `when` = "samples>1" for what only repeated samples give, or
    "parameter=value" for what a method gives on request.

    `of` names the output whose mean a repeated sampling returns; an output "std" with `of="corrected"` is made by
    the engine.
    """

    name: str
    kind: str = "volume"
    unit: str = ""
    display: str = "compare"
    when: str = ""
    of: str = ""
    help: str = ""


@dataclass(frozen=True)
class ModelSlot:
    """A place for a trained model: `interface` from INTERFACES, the sizes that a model must have, the bundled default.

    when : "parameter=value" where the model is used only then; empty = always."""

    name: str
    default: str
    interface: str = "Denoiser"
    dims: int = 2
    channels: int = 1
    unit: str = "HU"
    when: str = ""

    def used(self, p: Any) -> bool:
        """Whether a run with the parameters `p` loads this model."""
        name, _, value = self.when.partition("=")
        return not name or str(getattr(p, name)) == value


@dataclass(frozen=True)
class Stage:
    """One stage of the plan: `items` pieces of work with `calls` calls each of `part`.

    part : name of a model slot, or "physics". shape : (C, H, W) of one network call, for the time and memory estimate.
    """

    name: str
    items: int
    calls: int = 1
    part: str = "physics"
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sample:
    """Generated data to try a method on: `example()` of the task `simulation` makes them.

    before, after : RMSE in HU against the reference of the damaged input (None where it is no image) and of the main
    output with the standard preset and seed 0, over all slices."""

    simulation: str
    title: str
    before: float | None
    after: float


@dataclass(frozen=True)
class Method:
    """Everything that a user, a panel or a page needs to know about a method."""

    id: str
    name: str
    module: str
    task: str
    state: str
    summary: str
    citation: Citation | None = None
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    models: tuple[ModelSlot, ...] = ()
    requires: tuple[Check, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: str = ""
    sample: Sample | None = None

    def __post_init__(self) -> None:
        names = {p.name for p in self.parameters}
        _must(self.module in MODULES, self.id, f"module '{self.module}'")
        _must(self.state in STATES, self.id, f"state '{self.state}'")
        _must(all(i.kind in KINDS for i in (*self.inputs, *self.outputs)), self.id, "a kind of input or output")
        _must(all(o.display in DISPLAYS for o in self.outputs), self.id, "a display of an output")
        _must(all(s.interface in INTERFACES for s in self.models), self.id, "an interface of a model slot")
        _must(set(self.presets) <= set(PRESETS), self.id, "a preset")
        _must(all(set(values) <= names for values in self.presets.values()), self.id, "a parameter in a preset")
        _must(all(c.input in {i.name for i in self.inputs} for c in self.requires), self.id, "the input of a check")

    def input(self, name: str) -> Input:
        """The declared input `name`."""
        return next(i for i in self.inputs if i.name == name)

    def checks(self) -> tuple[Check, ...]:
        """The checks of this method: those that go with the kind of each input, then its own."""
        return (*(c for i in self.inputs for c in default_checks(i.name, i.kind)), *self.requires)

    def to_dict(self) -> dict[str, Any]:
        """The declaration as plain JSON values, as written to `Resources/methods.json`."""
        plain = {name: getattr(self, name) for name in ("id", "name", "module", "task", "state", "summary", "notes")}
        citation = {**vars(self.citation), "bibtex": self.citation.bibtex(self.id)} if self.citation else None
        return plain | {
            "citation": citation,
            "inputs": [dict(vars(i)) for i in self.inputs],
            "outputs": [dict(vars(o)) for o in self.outputs],
            "parameters": [p.to_dict() for p in self.parameters],
            "presets": {name: dict(self.presets.get(name, {})) for name in PRESETS},
            "models": [dict(vars(s)) for s in self.models],
            "requires": [c.to_dict() for c in self.checks()],
            "sample": dict(vars(self.sample)) if self.sample else None,
        }


def _must(condition: bool, method: str, what: str) -> None:
    if not condition:
        raise ValueError(f"The declaration of method '{method}' is wrong: {what} isn't one of the known ones.")

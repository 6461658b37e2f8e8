"""Execute one method on inputs: validate, check, plan, run every sample, describe the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from . import checks, device, estimate, provenance
from .data import Item, kinds
from .errors import InputError, ModelError
from .method import Method, ModelSlot
from .params import nearest, validate
from .run import Denoise, Report, Run, Settings
from .samples import Samples

BATCH = 8  # slices at once unless asked otherwise
THREADS = torch.get_num_threads()  # unless asked otherwise; a worker comes back to it after a run with others


@dataclass
class Request:
    """What a user asks for. `device` "auto" takes the best there is; `threads` and `batch` None take the defaults."""

    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    preset: str = "standard"
    models: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    samples: int = 1
    device: str = "auto"
    threads: int | None = None
    batch: int | None = None
    plan_only: bool = False
    keep_partial: bool = False


@dataclass
class Result:
    """Outputs by name and the record of the run."""

    outputs: dict[str, Item]
    record: dict[str, Any]


@dataclass
class Surroundings:
    """Who watches the run, and where models come from: `card(model id)` and `load(model id, device)`."""

    report: Report = lambda event: None
    cancelled: Callable[[], bool] = lambda: False
    card: Callable[[str], Mapping[str, Any]] | None = None
    load: Callable[[str, str], Denoise] | None = None
    keep: Any = None
    show_preview: Any = None


def execute(module: Any, request: Request, inputs: Mapping[str, Item], around: Surroundings) -> Result | None:
    """Run `module` (with METHOD, plan, run) and return outputs and record; None when only the plan was asked for.

    Everything that can be refused is refused before the first network call, with one sentence.
    """
    method: Method = module.METHOD
    p = validate(method.parameters, request.parameters, _preset(method, request.preset))
    _check_inputs(method, inputs)
    checks.enforce(method.checks(), inputs, p)
    settings = _settings(request, around.report)
    models = _models(method, request.models)
    card, load = around.card, around.load
    cards = {s.name: _card(s, card(models[s.name])) for s in method.models if s.used(p)} if card else {}
    run = Run(
        method,
        p,
        settings,
        models=models,
        load=(lambda model: load(model, settings.device)) if load else None,
        report=around.report,
        cancelled=around.cancelled,
        keep=around.keep,
        plan=module.plan({name: checks.facts(item) for name, item in inputs.items()}, p),
    )
    run.progress.show_preview = around.show_preview
    around.report(estimate.prepare(run, inputs))
    if request.plan_only:
        return None
    outputs = _repeat(module, run, inputs)
    with run.clock("io"):
        return Result(outputs, provenance.record(run, inputs, cards))


def _repeat(module: Any, run: Run, inputs: Mapping[str, Item]) -> dict[str, Item]:
    """All samples; a method that drew no noise gives the same result each time and runs once."""
    samples = Samples(run.method, run.settings.samples)
    for sample in range(run.settings.samples):
        run.sample = sample
        run.progress.begin_sample(run.sample)
        samples.add(module.run(run, inputs, run.p))
        if run.draws == 0:
            break
    return samples.outputs()


def _settings(request: Request, report: Report) -> Settings:
    for name, value, low, high in (
        ("samples", request.samples, 1, 64),
        ("seed", request.seed, 0, 2**63 - 1),
        ("threads", request.threads, 1, 1024),
        ("batch", request.batch, 1, 4096),
    ):
        if value is not None and not low <= value <= high:
            raise InputError(f"'{name}' is {value}, but it must be a whole number from {low} to {high}.")
    torch.set_num_threads(request.threads or THREADS)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        False  # full float32, see architecture §4.3
    )
    chosen = device.choose(request.device, lambda sentence: report({"event": "warning", "message": sentence}))
    return Settings(request.seed, request.samples, chosen, torch.get_num_threads(), request.batch or BATCH)


def _preset(method: Method, preset: str) -> Mapping[str, Any]:
    if preset == "standard":
        return method.presets.get("standard", {})
    if preset not in method.presets:
        known = ["standard", *(name for name in method.presets if name != "standard")]
        raise InputError(f"The method '{method.id}' has no preset '{preset}'. Known are: {', '.join(known)}.")
    return method.presets[preset]


def _check_inputs(method: Method, inputs: Mapping[str, Item]) -> None:
    known = [i.name for i in method.inputs]
    for name in inputs:
        if name not in known:
            raise InputError(
                f"The method '{method.id}' has no input '{name}'{nearest(name, known)}. It has: {', '.join(known)}."
            )
    for i in method.inputs:
        if i.required and i.name not in inputs:
            raise InputError(
                f"The method '{method.id}' needs the input '{i.name}' ({i.kind}). Give it with --input {i.name}=PATH."
            )
        if i.name in inputs and i.kind not in kinds(inputs[i.name]):
            raise InputError(f"The input '{i.name}' holds no {i.kind}, but one is needed.")


def _models(method: Method, asked: Mapping[str, str]) -> dict[str, str]:
    slots = [s.name for s in method.models]
    for name in asked:
        if name not in slots:
            known = ", ".join(slots) or "none"
            raise InputError(
                f"The method '{method.id}' has no model slot '{name}'{nearest(name, slots)}. It has: {known}."
            )
    return {s.name: asked.get(s.name, s.default) for s in method.models}


def _card(slot: ModelSlot, card: Mapping[str, Any]) -> Mapping[str, Any]:
    """The card of the model for `slot`, refused when its interface or sizes don't fit."""
    for name in ("interface", "dims", "channels", "unit"):
        wanted, found = getattr(slot, name), card.get(name, getattr(slot, name))
        if found != wanted:
            raise ModelError(
                f"The model '{card.get('id')}' has {name} {found!r}, but the slot '{slot.name}' needs "
                f"{wanted!r}. Choose another model."
            )
    return card

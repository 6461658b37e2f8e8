"""One training loop for all recipes: optimiser, EMA, clock, checkpoints, log, mixed precision, several processes.

`python -m diffusion_backend train ct-image --data FOLDER --output FOLDER --minutes 120 [--resume | --init MODEL]`

A recipe (one file in `recipes/`) supplies `parts()`, `phases()`, `batch(phase, rng)`, `validate(parts)`, `card()`.
The batch of step n depends on (seed, n, process) alone, so a resumed run gets the batches it would have had.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import InputError

Parts = Mapping[str, nn.Module]
Row = dict[str, Any]


@dataclass(frozen=True)
class Phase:
    """A stretch of the training: which part it updates, its share of the whole budget, its loss.

    loss(parts, batch, generator) -> scalar; `generator` is the torch generator of this step.
    partner : takes every second step of the stretch (alternate training); its share isn't used.
    fresh : the learning rate starts anew here instead of going on with the cosine of the phase before.
    rate : factor of the learning rate.
    """

    name: str
    part: str
    share: float
    loss: Callable[[Parts, dict[str, Tensor], torch.Generator], Tensor]
    partner: Phase | None = None
    fresh: bool = False
    rate: float = 1.0


class Recipe(Protocol):
    """What a recipe supplies."""

    def parts(self) -> dict[str, nn.Module]: ...

    def phases(self) -> list[Phase]: ...

    def batch(self, phase: Phase, rng: np.random.Generator) -> dict[str, Tensor]: ...

    def validate(self, parts: Parts) -> dict[str, float]:
        """Figures on validation patients; `score` is the one that a better model lowers."""
        ...

    def card(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Settings:
    """How long and where a recipe trains. Of `steps` and `minutes` (of this leg), the one reached first ends it."""

    output: Path
    steps: int = 1_000_000
    minutes: float = math.inf
    learning_rate: float = 8e-4
    warm_up: int = 200
    ema: float = 0.999
    seed: int = 0
    device: str = "cpu"
    bfloat16: bool = True
    checkpoint_minutes: float = 10.0
    first: str = ""  # name of the phase to begin with, those before it are left out; empty = all
    last: str = ""   # likewise the last one


class Ema:
    """Exponential moving average of parts, buffers included; the decay warms up so that early weights fade fast."""

    def __init__(self, parts: Parts, decay: float):
        self.decay = decay
        self.state = {name: {k: v.detach().clone() for k, v in m.state_dict().items()} for name, m in parts.items()}

    @torch.no_grad()
    def update(self, name: str, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in module.state_dict().items():
            average = self.state[name][key]
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)


def learning_rate(progress: float, step: int, peak: float, warm_up: int) -> float:
    """Linear warm-up over `warm_up` steps, then a cosine from `peak` to 1 % of it at progress 1."""
    cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return peak * min(1.0, (step + 1) / max(1, warm_up)) * cosine


def new_parts(recipe: Recipe, seed: int) -> dict[str, nn.Module]:
    """Parts with initial weights of `seed`; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return recipe.parts()


class Training:
    """State of one leg: parts, EMA, optimisers, step and clock; everything that a checkpoint holds."""

    def __init__(self, recipe: Recipe, settings: Settings, init: Mapping[str, Mapping[str, Tensor]] | None = None):
        self.recipe, self.settings = recipe, settings
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if settings.device.startswith("cuda") else "gloo")
        self.parts = new_parts(recipe, settings.seed)
        for name, module in self.parts.items():
            if init and name in init:
                module.load_state_dict({k: v.float() for k, v in init[name].items()})
            module.to(settings.device)
        self.ema = Ema(self.parts, settings.ema)
        self.optimisers = {
            name: torch.optim.AdamW(module.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
            for name, module in self.parts.items()
        }
        self.step, self.seconds, self.best = 0, 0.0, math.inf
        self.earlier: Row = {"steps": 0, "hours": 0.0}  # of the legs before this one
        self.curve: list[Row] = []  # score against steps and hours, all legs

    @property
    def progress(self) -> float:
        """Share of the budget that is used, 0 to 1; the same in all processes."""
        share = max(self.step / self.settings.steps, self.seconds / (60 * self.settings.minutes))
        if self.world > 1:
            shared = torch.tensor(share)
            dist.broadcast(shared, 0)
            share = float(shared)
        return share

    def phase(self, progress: float) -> tuple[Phase, float]:
        """The phase at this share of the budget, and how far its cosine of the learning rate is, 0 to 1."""
        phases = self.recipe.phases()
        names = [p.name for p in phases]
        begin, end = self.settings.first or names[0], self.settings.last or names[-1]
        phases = phases[names.index(begin) : names.index(end) + 1]
        ends = np.cumsum([p.share for p in phases]) / sum(p.share for p in phases)
        index = min(int(np.searchsorted(ends, progress, side="right")), len(phases) - 1)
        starts = [0.0, *(float(ends[i - 1]) for i, p in enumerate(phases) if p.fresh and i), 1.0]
        low = max(s for s in starts[:-1] if s <= progress or s == 0)
        high = starts[starts.index(low) + 1]
        phase = phases[index]
        return (phase.partner if phase.partner and self.step % 2 else phase), (progress - low) / (high - low)

    def updates(self, part: str) -> int:
        """How often this leg has updated a part: warm-up and EMA of a part begin when its training does."""
        states = list(self.optimisers[part].state.values())
        return int(states[0]["step"]) if states else 0

    def advance(self, progress: float) -> tuple[str, float]:
        """One optimisation step; returns the phase's name and the loss."""
        settings = self.settings
        phase, within = self.phase(progress)
        rng = np.random.default_rng((settings.seed, self.step, self.rank))
        generator = torch.Generator(settings.device).manual_seed(int(rng.integers(2**62)))
        batch = {k: v.to(settings.device) for k, v in self.recipe.batch(phase, rng).items()}
        module, optimiser = self.parts[phase.part], self.optimisers[phase.part]
        done = self.updates(phase.part)
        for group in optimiser.param_groups:
            group["lr"] = phase.rate * learning_rate(within, done, settings.learning_rate, settings.warm_up)
        device_type = settings.device.split(":")[0]
        with torch.autocast(device_type, torch.bfloat16, enabled=settings.bfloat16):
            loss = phase.loss(self.parts, batch, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.world > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.world
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        self.ema.update(phase.part, module, done)
        self.step += 1
        return phase.name, loss.item()

    def save(self, path: Path) -> None:
        """Write everything that resuming needs, under a temporary name first."""
        state = {
            "parts": {n: m.state_dict() for n, m in self.parts.items()},
            "ema": self.ema.state,
            "optimisers": {n: o.state_dict() for n, o in self.optimisers.items()},
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "earlier": self.earlier,
            "curve": self.curve,
        }
        temporary = path.with_suffix(".part")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint of `save`."""
        if not path.exists():
            raise InputError(f"There is no checkpoint '{path}' to resume from.", "Start without --resume.")
        state = torch.load(path, map_location=self.settings.device, weights_only=True)
        for name in self.parts:
            self.parts[name].load_state_dict(state["parts"][name])
            self.optimisers[name].load_state_dict(state["optimisers"][name])
        self.ema.state = state["ema"]
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.earlier, self.curve = state["earlier"], state["curve"]

    def validate(self) -> dict[str, float]:
        """Figures of the EMA weights on the recipe's validation data."""
        averaged = new_parts(self.recipe, self.settings.seed)
        for name, module in averaged.items():
            module.load_state_dict(self.ema.state[name])
            module.to(self.settings.device).eval()
        with torch.inference_mode():
            return self.recipe.validate(averaged)


def train(training: Training, report: Callable[[Row], None], finish: Callable[[Training, Row], None]) -> None:
    """Run until the budget is used. `report` gets a row per checkpoint, `finish` is called at each better score."""
    settings, losses = training.settings, []
    clock = last = time.monotonic()
    start, first = training.seconds, training.step
    while (progress := training.progress) < 1:
        phase, loss = training.advance(progress)
        losses.append(loss)
        now = time.monotonic()
        training.seconds = start + now - clock
        if not math.isfinite(loss):
            raise RuntimeError(f"The loss is {loss} at step {training.step}; lower --learning-rate.")
        if now - last > 60 * settings.checkpoint_minutes or training.progress >= 1:
            last = now
            if training.rank == 0:
                row = {
                    "step": training.step,
                    "hours": round(training.seconds / 3600, 3),
                    "steps_per_s": round((training.step - first) / (now - clock), 3),
                    "phase": phase,
                    "loss": round(float(np.mean(losses)), 5),
                    **training.validate(),
                }
                better = row["score"] < training.best
                training.best = min(training.best, row["score"])
                training.curve.append({
                    "step": training.earlier["steps"] + training.step,
                    "hours": round(training.earlier["hours"] + training.seconds / 3600, 3),
                    "score": round(row["score"], 2),
                })  # fmt: skip
                training.save(settings.output / "checkpoint.pt")
                report(row)
                if better:
                    finish(training, row)
            losses.clear()


def main(arguments: list[str]) -> int:
    """The command `train RECIPE --data FOLDER --output FOLDER …`; returns the exit code."""
    from . import models, recipes

    parser = argparse.ArgumentParser(prog="diffusion_backend train", description="Train the weights of a recipe.")
    parser.add_argument("recipe", choices=sorted(recipes.RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder of the training data")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoint, log and model bundle")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time of this leg, minutes")
    parser.add_argument("--steps", type=int, default=1_000_000, help="optimisation steps of this leg")
    parser.add_argument("--learning-rate", type=float, default=8e-4, help="peak learning rate of AdamW")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 mixed precision")
    parser.add_argument("--checkpoint-minutes", type=float, default=10.0)
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --output")
    parser.add_argument("--init", metavar="MODEL", help="start from the weights of this model (id or folder)")
    parser.add_argument("--first", metavar="PHASE", default="", help="begin with this phase of the recipe")
    parser.add_argument("--last", metavar="PHASE", default="", help="end with this phase of the recipe")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        output=options.output, steps=options.steps, minutes=options.minutes, learning_rate=options.learning_rate,
        seed=options.seed, device=options.device, bfloat16=not options.float32,
        checkpoint_minutes=options.checkpoint_minutes, first=options.first, last=options.last,
    )  # fmt: skip
    initial = models.load_bundle(options.init) if options.init else None
    recipe = recipes.RECIPES[options.recipe](options.data)
    names = [phase.name for phase in recipe.phases()]
    for chosen in (options.first or names[0], options.last or names[-1]):
        if chosen not in names:
            raise InputError(f"The recipe has no phase '{chosen}'; it has: {', '.join(names)}.", "Choose one of them.")
    training = Training(recipe, settings, initial.parts if initial else None)
    if initial and "training" in initial.card:
        before = initial.card["training"]
        training.earlier = {"steps": before.get("steps", 0), "hours": before.get("hours", 0.0)}
        training.curve = list(before.get("curve", []))
    if options.resume:
        training.resume(options.output / "checkpoint.pt")

    def report(row: Row) -> None:
        with open(options.output / "log.jsonl", "a", encoding="ascii") as log:
            log.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def finish(state: Training, row: Row) -> None:
        card = recipe.card()
        card["training"] |= {
            "recipe": options.recipe,
            "seed": options.seed,
            "steps": state.earlier["steps"] + state.step,
            "hours": round(state.earlier["hours"] + state.seconds / 3600, 2),
            "curve": state.curve,
            "validation": {k: v for k, v in row.items() if k.startswith(("score", "rmse", "dice"))},
        }
        models.save_bundle(options.output / options.recipe, card, state.ema.state)

    try:
        train(training, report, finish)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0

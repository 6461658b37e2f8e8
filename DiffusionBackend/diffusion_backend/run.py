"""One run of a method: stages, models, noise, batches, clocks, progress, cancel. What `run(run, inputs, p)` of a
method works with."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import memory
from .errors import Cancelled, MemoryExhausted
from .items import Items, Slices
from .method import Method, Stage
from .progress import Progress

Report = Callable[[dict[str, Any]], None]
Denoise = Callable[..., Tensor]
Pieces = Tensor | dict[str, Tensor]


@dataclass
class Settings:
    """What doesn't belong to the method: seed, repeats, device, batch and thread counts. Written to the provenance."""

    seed: int = 0
    samples: int = 1
    device: str = "cpu"
    threads: int = 1
    batch: int = 8


@dataclass
class Run:
    """State of one run.

    load : model id -> denoiser, for `model()`. models : slot name -> model id. report : receives every event.
    cancelled : asked often.
    keep : receives (stage, items, chosen, pieces) of every finished batch, for partial results.
    """

    method: Method
    p: Any
    settings: Settings = field(default_factory=Settings)
    models: Mapping[str, str] = field(default_factory=dict)
    load: Callable[[str], Denoise] | None = None
    report: Report = lambda event: None
    cancelled: Callable[[], bool] = lambda: False
    keep: Callable[[str, Items, Sequence[int], Pieces], None] | None = None
    plan: Sequence[Stage] = ()

    sample: int = 0
    draws: int = 0  # noise arrays drawn so far: a run without any gives the same result for every sample
    evaluations: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"network": 0.0, "physics": 0.0, "io": 0.0, "other": 0.0})

    def __post_init__(self) -> None:
        self.progress = Progress(self.plan, self.settings.samples, self.report)
        self.batch = self.settings.batch
        self._loaded: dict[str, Model] = {}
        self._part, self._since = "other", time.perf_counter()
        self._stage = "run"

    @property
    def device(self) -> str:
        """The device on which batches live: "cpu", "cuda", "mps"."""
        return self.settings.device

    # ---- what a method calls ----

    def model(self, slot: str) -> Model:
        """The model in `slot` as `denoise(x, sigma, cond) -> x0_hat`, loaded once; its calls are counted, timed,
        cancellable."""
        if slot not in self._loaded:
            if self.load is None:
                raise ValueError("This run has no model store.")
            with self.clock("io"):
                self._loaded[slot] = Model(self, self.load(self.models[slot]))
        return self._loaded[slot]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Open the stage `name` of the plan: progress and noise keys carry its name."""
        outer, self._stage = self._stage, name
        self.check()
        self.progress.begin(name)
        try:
            yield
        finally:
            self.progress.end()
            self._stage = outer

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        """Count the time inside to "network", "physics" or "io"; an inner clock stops the outer one."""
        outer = self._switch(part)
        try:
            yield
        finally:
            self._switch(outer)

    def map(self, items: Items, f: Callable[..., Pieces], *arrays: Any) -> Any:
        """Apply `f(batch, *tensors)` to batches of items and put the results together.

        arrays : numpy or tensors that hold all items; each batch gets [B, ...] on the device, in the array's own type.
        f : returns a tensor [B, ...] or a dict of such. Returns a CPU tensor or a dict of them: stacked in item
        order (slices, frames),
        blended (slabs, tiles) or as they are (whole). Batches are halved when memory runs out; a single item that
        doesn't fit raises
        MemoryExhausted. Gradients are off inside unless `f` turns them on.
        """
        collected: dict[str, Any] = {}
        done, single = 0, False
        self.progress.items(len(items))
        while done < len(items):
            self.check()
            chosen = range(done, min(done + self.batch, len(items)))
            pieces = self._attempt(items, chosen, f, arrays)
            if pieces is None:
                self._halve(len(chosen))
                continue
            single = isinstance(pieces, Tensor)
            named: dict[str, Tensor] = {"": pieces} if isinstance(pieces, Tensor) else pieces
            for name, piece in named.items():
                if name not in collected:
                    collected[name] = items.collector(piece)
                collected[name].add(chosen, piece.detach().cpu())
            if self.keep:
                self.keep(self._stage, items, chosen, pieces)
            done = chosen[-1] + 1
            self.progress.finished(done)
        results = {name: collector.result() for name, collector in collected.items()}
        return results[""] if single else results

    def warn(self, sentence: str) -> None:
        """Tell the user something that doesn't stop the run."""
        self.report({"event": "warning", "message": sentence})

    def check(self) -> None:
        """Raise Cancelled when somebody asked for it."""
        if self.cancelled():
            raise Cancelled()

    # ---- inside ----

    def _attempt(self, items: Items, chosen: range, f: Callable[..., Pieces], arrays: Sequence[Any]) -> Pieces | None:
        """The results of one batch, or None when memory ran out (and everything of the attempt is released)."""
        try:
            with torch.no_grad():
                tensors = [items.take(a, chosen).to(self.device) for a in arrays]
                return f(Batch(self, items, chosen), *tensors)
        except (MemoryError, RuntimeError) as error:
            if not memory.is_out_of_memory(error):
                raise
        memory.release(self.device)
        return None

    def _halve(self, size: int) -> None:
        if size == 1:
            free = memory.available_bytes(self.device) // memory.MB
            raise MemoryExhausted(
                f"One item of the stage '{self._stage}' needs more memory than the {free} MB that are free on "
                f"{self.device}.",
                "Choose a smaller image size, crop the volume or close other programs.",
            )
        self.batch = max(size // 2, 1)
        self.warn(f"Memory ran out with {size} items at once; going on with {self.batch}.")

    def _switch(self, part: str) -> str:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        now, outer = time.perf_counter(), self._part
        self.seconds[outer] = self.seconds.get(outer, 0.0) + now - self._since
        self._part, self._since = part, now
        return outer


@dataclass(frozen=True)
class Model:
    """A denoiser whose calls are counted, timed and cancellable. `card` is the model's card, empty where it has
    none."""

    run: Run
    denoise: Denoise

    def __call__(self, x: Tensor, sigma: Any, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        """x0 estimate of x [B, C, ...] at noise level sigma (number or [B]), both in the model's unit."""
        self.run.check()
        self.run.evaluations += len(x)
        with self.run.clock("network"):
            return self.denoise(x, sigma, cond)

    @property
    def card(self) -> Mapping[str, Any]:
        return getattr(self.denoise, "card", {})


@dataclass(frozen=True)
class Batch:
    """The items that `f` of `Run.map` works on at the moment."""

    run: Run
    items: Items
    chosen: range

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def indices(self) -> tuple[int, ...]:
        """Identity of each item: slice or frame number, tile number."""
        return tuple(self.items.keys[c] for c in self.chosen)

    def noise(self, step: int | str, shape: Sequence[int]) -> Tensor:
        """Standard normal noise [B, *shape], float32, on the device; `shape` is that of ONE item, without B.

        Keyed by (seed, sample, stage, step, item), so that it is the same for every batch size, order and device.
        With shared slice
        noise (the default for slices; parameter `slice_noise`) all items get the same.
        """
        run = self.run
        run.draws += 1
        shared = getattr(run.p, "slice_noise", "shared") == "shared" and isinstance(self.items, Slices)
        key = (run.settings.seed, run.sample, run._stage, step)
        if shared:
            drawn = [keyed_noise((*key, "shared"), shape)] * len(self)
        else:
            drawn = [keyed_noise((*key, i), shape) for i in self.indices]
        return torch.stack(drawn).to(run.device)

    def progress(self, step: int, steps: int, preview: Tensor | None = None) -> None:
        """Say that `step` of `steps` is done (step counts from 1); `preview` is the current estimate [B, ...]. May
        raise Cancelled."""
        self.run.check()
        self.run.progress.step(step, steps, len(self), None if preview is None else preview[0])


def keyed_noise(key: tuple[Any, ...], shape: Sequence[int]) -> Tensor:
    """float32 standard normal numbers that depend on `key` and `shape` alone (Philox counter generator, Salmon et
    al. 2011)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(digest, np.uint64)))
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))

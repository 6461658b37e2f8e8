"""Counts the network, projector and FBP calls of a metal method, or repeats each of them bare right behind it.

Bare means with the same arguments and nothing around: for the network the module's forward pass, without padding,
scaling and preconditioning. The repetitions run on clocks of their own ("bare network", "bare physics" of the run)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from diffusion_backend.methods._metal import Case
from diffusion_backend.models import Denoiser
from diffusion_backend.physics import plane
from diffusion_backend.physics.ct import Projector


@dataclass
class Bare:
    """Repeats every network, projector and FBP call of a stage bare (or only counts them)."""

    repeat: bool
    calls: Counter[str] = field(default_factory=Counter)
    cpu: float = 0.0                      # processor seconds of the repetitions
    stage: dict[str, float] = field(default_factory=dict)
    arguments: tuple[Any, ...] = ()       # of the network's latest forward pass
    run: Any = None

    def wrap(self, name: str, call: Callable[..., Any], bare: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """`call`, counted under `name` and followed by `bare` (default: itself) on the run's clock "bare ..."."""
        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = call(*arguments, **options)
            if self.run is None:
                return result
            self.calls[name] += 1
            if self.repeat:
                clock, start = "bare network" if name == "network" else "bare physics", time.process_time()
                with self.run.clock(clock):
                    (bare or call)(*arguments, **options)
                self.cpu += time.process_time() - start
            return result
        return wrapped

    def network(self, prior: Denoiser) -> Callable[..., Any]:
        """The prior; its bare form is the module's forward pass on the same tensors."""
        prior.module.register_forward_pre_hook(lambda module, arguments: setattr(self, "arguments", arguments))
        return self.wrap("network", prior, lambda *_: prior.module.forward(*self.arguments))

    def watch(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """`Case.map` with the clocks of this stage alone, in `stage`."""
        def watched(case: Case, run: Any, f: Callable[..., Any]) -> Any:
            self.run, cpu = run, time.process_time()
            with run.clock("other"):
                before = dict(run.seconds)
                result = inner(case, run, f)
            self.run, cpu = None, time.process_time() - cpu
            self.stage = {part: s - before.get(part, 0.0) for part, s in run.seconds.items()} | {"cpu": cpu - self.cpu}
            return result
        return watched


@contextmanager
def watching(bare: Bare) -> Iterator[None]:
    """Every projector and FBP call goes through `bare`."""
    with (mock.patch.object(Projector, "forward", bare.wrap("forward", Projector.forward)),
          mock.patch.object(Projector, "adjoint", bare.wrap("adjoint", Projector.adjoint)),
          mock.patch.object(plane, "fbp", bare.wrap("fbp", plane.fbp)),
          mock.patch.object(Case, "map", bare.watch(Case.map))):
        yield

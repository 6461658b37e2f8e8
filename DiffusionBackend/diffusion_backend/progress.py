"""Progress of a run in the units of its plan: which stage, step and item, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from . import memory
from .method import Stage

PREVIEW_SECONDS = 2.0
REPORT_SECONDS = 0.2


class Progress:
    """Turns the steps of a method into progress events with the remaining time.

    Remaining time = the rest of the open stage at its measured pace + the planned stages behind it (per-call seconds
    measured in an
    earlier sample, else from the calibration, else unknown and left out) + the samples to come.
    """

    def __init__(self, plan: Sequence[Stage], samples: int, report: Callable[[dict[str, Any]], None]) -> None:
        self.plan = {s.name: s for s in plan}
        self.report = report
        self.samples, self.sample = samples, 0
        self.measured: dict[str, float] = {}  # stage -> seconds of the whole stage
        self.show_preview: Callable[[Any, str], None] | None = None
        self._last_report = self._last_preview = -1e9
        self._finished: set[str] = set()
        self.stage, self._total, self._done = "", 1, 0
        self._opened = time.perf_counter()

    def estimate(self, seconds_per_call: dict[str, float]) -> None:
        """Take the calibrated seconds per call of each part (model slot) as first estimates."""
        for s in self.plan.values():
            if s.part in seconds_per_call:
                self.measured[s.name] = s.items * s.calls * seconds_per_call[s.part]

    def begin_sample(self, sample: int) -> None:
        self.sample, self._finished = sample, set()

    def begin(self, name: str) -> None:
        """A stage opens."""
        self.stage, self._done, self._step = name, 0, (0, 1)
        self._total = max(self.plan[name].items, 1) if name in self.plan else 1
        self._opened = time.perf_counter()
        self._emit(force=True)

    def items(self, count: int) -> None:
        """The stage turns out to have `count` items."""
        self._total, self._done = max(count, 1), 0

    def step(self, step: int, steps: int, batch: int, preview: Any = None) -> None:
        """`step` of `steps` of the current batch of `batch` items is done."""
        self._step, self._batch = (step, steps), batch
        now = time.perf_counter()
        if preview is not None and self.show_preview and now - self._last_preview > PREVIEW_SECONDS:
            self._last_preview = now
            self.show_preview(preview, self.stage)
        self._emit()

    def finished(self, done: int) -> None:
        """`done` items of the stage are complete."""
        self._done, self._step = done, (0, 1)
        self._emit(force=done == self._total)

    def end(self) -> None:
        """The stage closes."""
        self.measured[self.stage] = time.perf_counter() - self._opened
        self._finished.add(self.stage)

    def remaining(self) -> float | None:
        """Seconds to the end of the run, or None before anything is known."""
        fraction = self._fraction()
        spent = time.perf_counter() - self._opened
        known = self.measured.get(self.stage)
        if fraction > 0:
            whole = spent / fraction
        elif known is not None:
            whole = max(known, spent)
        else:
            return None
        later = [n for n in self.plan if n not in self._finished and n != self.stage]
        sample = sum(self.measured.get(n, 0.0) for n in self.plan if n != self.stage) + whole
        return whole - spent + sum(self.measured.get(n, 0.0) for n in later) + (self.samples - 1 - self.sample) * sample

    def _fraction(self) -> float:
        step, steps = self._step
        return min((self._done + getattr(self, "_batch", 0) * step / max(steps, 1)) / self._total, 1.0)

    def _emit(self, force: bool = False) -> None:
        now = time.perf_counter()
        if not force and now - self._last_report < REPORT_SECONDS:
            return
        self._last_report = now
        remaining = self.remaining()
        event = {"event": "progress", "stage": self.stage, "step": self._step[0], "steps": self._step[1]}
        event |= {"item": self._done, "items": self._total, "fraction": round(self._fraction(), 4)}
        if self.samples > 1:
            event |= {"sample": self.sample + 1, "samples": self.samples}
        event["eta_s"] = None if remaining is None else round(remaining, 1)
        event["memory_mb"] = memory.resident_bytes() // memory.MB
        self.report(event)

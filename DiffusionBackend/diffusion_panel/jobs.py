"""Jobs: what is known of a run, its signals and its errors."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

FINAL = ("done", "failed", "cancelled")


class EngineFailure(RuntimeError):
    """A run failed: `message` says what was found, `remedy` what to do, `kind` is for programs (internal, input, model,
    memory, disk, installation, cancelled)."""

    def __init__(self, message: str, remedy: str = "", kind: str = "internal") -> None:
        super().__init__(" ".join(part for part in (message, remedy) if part))
        self.message, self.remedy, self.kind = message, remedy, kind


class InputProblem(EngineFailure):
    """Data or a setting doesn't fit."""

    def __init__(self, message: str, remedy: str = "", kind: str = "input") -> None:
        super().__init__(message, remedy, kind)


class Signal:
    """A list of callables that are told about an event; one that raises doesn't keep the others from hearing of it."""

    def __init__(self) -> None:
        self._listeners: list[Callable[..., Any]] = []

    def connect(self, listener: Callable[..., Any]) -> None:
        self._listeners.append(listener)

    def disconnect(self, listener: Callable[..., Any]) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    def emit(self, *arguments: Any) -> None:
        for listener in list(self._listeners):
            try:
                listener(*arguments)
            except Exception as error:  # the application reports it as it does for its own slots
                sys.excepthook(type(error), error, error.__traceback__)


class Job:
    """One run from its start to its result nodes; all members are for reading.

    state : queued, exporting, running, importing, done, failed, cancelled. progress : the last progress event, {}
    before the first. plan : the plan event. preview : the current estimate (rows, columns). nodes : output name ->
    node. record : `result.json`. started, ended : seconds since 1970. Signals (each called with the job) : changed
    for every news, previewed, finished once at the end."""

    def __init__(self, transfer: Transfer, *, method: str, plan_only: bool = False) -> None:
        self.id = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.transfer, self.method, self.plan_only = transfer, method, plan_only
        self.state = "queued"
        self.progress: dict[str, Any] = {}
        self.plan: dict[str, Any] | None = None
        self.preview: np.ndarray | None = None
        self.kind = self.message = self.remedy = ""
        self.warnings: list[str] = []
        self.record: dict[str, Any] = {}
        self.log: list[str] = []
        self.started: float | None = None
        self.ended: float | None = None
        self.changed, self.previewed, self.finished = Signal(), Signal(), Signal()
        self.cancel_asked = False

    @property
    def title(self) -> str:
        """Name of the input, for the screen alone."""
        return self.transfer.title

    @property
    def nodes(self) -> dict[str, Any]:
        """Output name -> result node, those that are still in the scene; empty before the end."""
        return self.transfer.nodes() if self.is_over else {}

    @property
    def inputs(self) -> dict[str, Any]:
        """Input name -> node, text or path that the job was started with; without nodes that left the scene."""
        return self.transfer.inputs()

    @property
    def is_over(self) -> bool:
        return self.state in FINAL

    def failure(self) -> EngineFailure:
        """The exception that tells why the job failed."""
        if self.kind == "input":
            return InputProblem(self.message, self.remedy)
        return EngineFailure(self.message, self.remedy, self.kind)


class Transfer:
    """What a job takes from the scene and gives back to it. Work of more than a few milliseconds is split by `yield`,
    so that the application handles its events in between; both run on the GUI thread."""

    sample = False  # the job makes sample data and runs no method
    parts = 1  # runs of the engine in one job (frames of a sequence)
    title = ""

    def export(self, part: int) -> Iterator[None]:
        """Copy what the job needs; afterwards `job` and `arrays` (file name -> array) are what is to be written."""
        raise NotImplementedError

    def take(self, record: dict[str, Any], arrays: dict[str, np.ndarray], part: int) -> Iterator[None]:
        """Turn a result into nodes."""
        raise NotImplementedError

    def finish(self) -> None:
        """The job is over, complete or not; from here on no node is held, so that removing it frees its memory."""

    def nodes(self) -> dict[str, Any]:
        """What the job has put into the scene, by output name."""
        return {}

    def inputs(self) -> dict[str, Any]:
        """What the job was started with, by input name."""
        return {}

    def forget(self) -> None:
        """The scene is closed: nothing of it is known any more."""

    def secrets(self) -> list[str]:
        """Names and paths that no report may hold."""
        return []

    job: Mapping[str, Any]
    arrays: dict[str, np.ndarray]


class Cancelled(Exception):
    """The user has cancelled the job."""


def end(job: Job, state: str, kind: str = "", message: str = "", remedy: str = "") -> None:
    job.state, job.kind, job.message, job.remedy, job.ended = state, kind, message, remedy, time.time()
    job.changed.emit(job)

"""Jobs: what runs, in which order, and how far it is. All of it on the GUI thread; threads and the engine do the work.

A queue belongs to one logic and has one worker. That is simpler than one for all modules: nothing outlives the reload of
a module, and "cancel all" means the jobs of this module. At most one job of a queue runs at a time."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from . import process
from .recovery import CANCEL, Background, Folders, Stopped, is_complete, read_result, write_job

POLL_MS = 50
PATIENCE_SECONDS = 2.0  # how long a cancelled run may take to stop by itself
LINGER_SECONDS = 5.0  # how long the engine may take to end a job after its result
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
            except Exception:  # the application reports it as it does for its own slots
                sys.excepthook(*sys.exc_info())


class Job:
    """One run from its start to its result nodes; all members are for reading.

    state : queued, exporting, running, importing, done, failed, cancelled. progress : the last progress event, {} before
    the first. plan : the plan event. preview : the current estimate (rows, columns). nodes : output name -> node.
    record : `result.json`. started, ended : seconds since 1970. Signals (each called with the job) : changed for every
    news, previewed, finished once at the end."""

    def __init__(self, transfer: Transfer, *, method: str, title: str = "", plan_only: bool = False) -> None:
        self.id = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.transfer, self.method, self.title, self.plan_only = transfer, method, title, plan_only
        self.state = "queued"
        self.progress: dict[str, Any] = {}
        self.plan: dict[str, Any] | None = None
        self.preview: np.ndarray | None = None
        self.kind = self.message = self.remedy = ""
        self.warnings: list[str] = []
        self.nodes: dict[str, Any] = {}
        self.record: dict[str, Any] = {}
        self.log: list[str] = []
        self.started: float | None = None
        self.ended: float | None = None
        self.changed, self.previewed, self.finished = Signal(), Signal(), Signal()
        self.cancel_asked = False

    @property
    def is_over(self) -> bool:
        return self.state in FINAL

    def failure(self) -> EngineFailure:
        """The exception that tells why the job failed."""
        if self.kind == "input":
            return InputProblem(self.message, self.remedy)
        return EngineFailure(self.message, self.remedy, self.kind)


class Transfer:
    """What a job takes from the scene and gives back to it. Work of more than a few milliseconds is split by `yield`, so
    that the application handles its events in between; both run on the GUI thread."""

    parts = 1  # runs of the engine in one job (frames of a sequence)

    def export(self, part: int) -> Iterator[None]:
        """Copy what the job needs; afterwards `job` and `arrays` (file name -> array) are what is to be written."""
        raise NotImplementedError

    def take(self, record: dict[str, Any], arrays: dict[str, np.ndarray], part: int) -> Iterator[None]:
        """Turn a result into nodes."""
        raise NotImplementedError

    def finish(self, complete: bool) -> dict[str, Any]:
        """The nodes of the job after its last part; when not `complete` only what a cancelled job may keep."""
        raise NotImplementedError

    job: Mapping[str, Any]
    arrays: dict[str, np.ndarray]


class Queue:
    """Runs jobs one after the other. `jobs` holds all of them in order, finished ones included."""

    def __init__(self, folders: Folders, worker: process.Worker | None = None) -> None:
        self.folders, self.worker = folders, worker or process.Worker()
        self.jobs: list[Job] = []
        self._waiting: deque[Job] = deque()
        self._run: _Run | None = None
        self._busy = False
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self.advance)

    def add(self, job: Job) -> None:
        self.jobs.append(job)
        self._waiting.append(job)
        self._timer.start()

    def cancel(self, job: Job | None = None) -> None:
        """Cancel a job, or all; a job that waits ends at once, the running one within about two seconds."""
        for one in list(self.jobs) if job is None else [job]:
            if one in self._waiting:
                self._waiting.remove(one)
                _end(one, "cancelled", "cancelled", _("The run was cancelled; nothing was changed."))
            elif self._run and self._run.job is one:
                one.cancel_asked = True

    def wait(self, job: Job) -> None:
        """Handle events until the job is over."""
        while not job.is_over:
            slicer.app.processEvents()
            self.advance()
            time.sleep(POLL_MS / 5000)

    def shutdown(self) -> None:
        """End everything now: jobs, timer, worker, folders."""
        self.cancel()
        self._timer.stop()
        self.worker.kill()
        if self._run:
            self._run.abandon()
            self._run = None

    def advance(self) -> None:
        """One step of the job whose turn it is."""
        if self._busy:  # a step may handle events, and these may call again
            return
        self._busy = True
        try:
            time.sleep(0.001)  # the application may hold Python's lock between events; here the threads get it
            if self._run is None and self._waiting:
                self._run = _Run(self._waiting.popleft(), self.folders, self.worker)
            if self._run and self._run.step():
                self._run = None
            if self._run is None and not self._waiting:
                self._timer.stop()
        finally:
            self._busy = False


class _Run:
    """The job whose turn it is, as a sequence of small steps."""

    def __init__(self, job: Job, folders: Folders, worker: process.Worker) -> None:
        self.job, self.folders, self.worker = job, folders, worker
        self.folder: Path | None = None
        self.thread: Background | None = None
        self.cancel_at: float | None = None
        job.started = time.time()
        self._steps = self._all()

    def step(self) -> bool:
        """Go on; True when the job is over."""
        try:
            next(self._steps)
            return False
        except StopIteration:
            return True
        except (Cancelled, Stopped):
            self._close("cancelled", "cancelled", _("The run was cancelled; nothing was changed."))
        except EngineFailure as failure:
            self._close("failed", failure.kind, failure.message, failure.remedy)
        except MemoryError:
            message = _("Memory ran out while data were copied.")
            self._close("failed", "memory", message, _("Crop the volume or close other programs."))
        except OSError as error:
            message = _("The folder for temporary files can't be used: {reason}.").format(reason=_reason(error))
            self._close("failed", "disk", message, _("Free space, or choose another folder in the settings."))
        except Exception as error:  # the last border before the user: never a bare traceback
            message = _("Internal error: {type}: {text}").format(type=type(error).__name__, text=error)
            self._close("failed", "internal", message, _("Please report it with the copied report."))
        return True

    def abandon(self) -> None:
        """End without further steps; the worker is gone already."""
        self._close("cancelled", "cancelled", _("The run was cancelled; nothing was changed."))

    def _all(self) -> Iterator[None]:
        for part in range(self.job.transfer.parts):
            yield from self._export(part)
            yield from self._engine()
            if not self.job.plan_only:
                yield from self._import(part)
            self._remove_folder()
        self.job.nodes = self.job.transfer.finish(True)
        _end(self.job, "done")

    def _export(self, part: int) -> Iterator[None]:
        self._enter("exporting")
        self.worker.start()  # it loads its libraries while the data are written
        transfer = self.job.transfer
        for _step in transfer.export(part):
            yield from self._pause()
        folder = self.folder = self.folders.create(f"{self.job.id}-{part}")
        job, arrays = transfer.job, transfer.arrays
        yield from self._background(lambda stop: write_job(folder, job, arrays, stop))

    def _engine(self) -> Iterator[None]:
        """Until the engine is done with the folder. Raises what it has to say."""
        assert self.folder
        again = self.worker.ready  # a warm worker may reach its idle end in this very moment
        self.worker.send(self.folder)
        self._enter("running")
        watch = _Watch(self.job, self.folder)
        while not watch.over:
            yield
            for event in self.worker.events():
                watch.hear(event)
            code = self.worker.exit_code()
            if code is not None and not watch.over:
                if again and code == 0 and not watch.heard:
                    again = False
                    self._restart()
                    self.worker.send(self.folder)
                    continue
                watch.died(code, list(self.worker.log))
            self._check_cancel(watch)
            if watch.lingers():
                self._restart()
                break
        self.job.log = list(self.worker.log)
        if self.job.cancel_asked:
            raise Cancelled
        watch.conclude()

    def _import(self, part: int) -> Iterator[None]:
        assert self.folder
        self._enter("importing")
        folder = self.folder
        yield from self._background(lambda stop: read_result(folder, stop))
        record, arrays = self.thread.result  # type: ignore[union-attr]
        self.job.record = record
        for _step in self.job.transfer.take(record, arrays, part):
            yield from self._pause()

    def _background(self, work: Callable[[Any], Any]) -> Iterator[None]:
        """Wait for a thread. Raises what it raised."""
        self.thread = Background(work)
        while not self.thread.done:
            if self.job.cancel_asked:
                self.thread.stop.set()
            yield
        if self.thread.error:
            raise self.thread.error
        yield from self._pause()

    def _pause(self) -> Iterator[None]:
        yield
        if self.job.cancel_asked:
            raise Cancelled

    def _check_cancel(self, watch: _Watch) -> None:
        """A cancelled run may stop by itself for a while; one that hasn't begun is ended at once."""
        if not self.job.cancel_asked or watch.over:
            return
        if self.cancel_at is None and self.folder:
            (self.folder / CANCEL).touch()
            self.cancel_at = time.monotonic()
        if not self.worker.ready or time.monotonic() - (self.cancel_at or 0) > PATIENCE_SECONDS:
            self.worker.kill()
            raise Cancelled

    def _restart(self) -> None:
        self.worker.kill()
        self.worker.start()

    def _enter(self, state: str) -> None:
        self.job.state = state
        self.job.changed.emit(self.job)

    def _remove_folder(self) -> None:
        if self.folder:
            self.folders.remove(self.folder)
            self.folder = None

    def _close(self, state: str, kind: str, message: str, remedy: str = "") -> None:
        """The end of a job that wasn't completed: no process that works for it, no folder, no half-made nodes. A result
        that only couldn't be loaded stays recoverable."""
        if self.thread:
            self.thread.end(PATIENCE_SECONDS)
        if not self.job.plan_only or not self.worker.ready or self.worker.exit_code() is not None:
            self.worker.kill()
        self.job.log = self.job.log or list(self.worker.log)
        if state == "failed" and self.job.state == "importing" and self.folder and is_complete(self.folder):
            self.folders.release(self.folder)
            self.folder = None
        self._remove_folder()
        self.job.nodes = self.job.transfer.finish(False)
        _end(self.job, state, kind, message, remedy)


class Cancelled(Exception):
    """The user has cancelled the job."""


class _Watch:
    """What the engine says about one job folder."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.over = self.heard = False
        self.failure: EngineFailure | None = None
        self.code = 0
        self._result_at: float | None = None

    def hear(self, event: dict[str, Any]) -> None:
        """Take one event; those of other jobs don't count."""
        if event.get("job", str(self.folder)) != str(self.folder):
            return
        name = event["event"]
        self.heard |= "job" in event
        if name == "progress":
            self.job.progress = event | self._frame()
        elif name == "plan":
            self.job.plan = event
        elif name == "warning":
            self.job.warnings.append(str(event.get("message", "")))
        elif name == "preview":
            self._preview(event)
        elif name == "result":
            self._result_at = time.monotonic()
        elif name == "error":
            text = (str(event.get(key, "")) for key in ("message", "remedy", "kind"))
            self.failure = EngineFailure(*text)
        elif name == "end":
            self.over, self.code = True, int(event.get("exit_code", 0))
        self.job.changed.emit(self.job)

    def died(self, code: int, log: list[str]) -> None:
        """The process ended without ending the job."""
        self.over = True
        if not is_complete(self.folder) and self.failure is None:
            kind, message, remedy = process.describe_end(code, log)
            self.failure = EngineFailure(message, remedy, kind)

    def lingers(self) -> bool:
        """Whether the engine has given its result and doesn't come to an end."""
        return self._result_at is not None and time.monotonic() - self._result_at > LINGER_SECONDS

    def conclude(self) -> None:
        """Raise what went wrong. What counts as a result is the complete folder alone."""
        if self.failure:
            raise self.failure
        if self.job.plan_only and self.code == 0:
            return
        if self.code or not is_complete(self.folder):
            kind, message, remedy = process.describe_end(self.code, self.job.log)
            raise EngineFailure(message, remedy, kind)

    def _preview(self, event: Mapping[str, Any]) -> None:
        try:
            self.job.preview = np.load(self.folder / Path(str(event.get("file"))).name, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # the engine is writing the next one
            return
        self.job.previewed.emit(self.job)

    def _frame(self) -> dict[str, int]:
        parts = self.job.transfer.parts
        return {"frame": int(self.folder.name.rpartition("-")[2]) + 1, "frames": parts} if parts > 1 else {}


def _end(job: Job, state: str, kind: str = "", message: str = "", remedy: str = "") -> None:
    job.state, job.kind, job.message, job.remedy, job.ended = state, kind, message, remedy, time.time()
    job.changed.emit(job)
    job.finished.emit(job)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()

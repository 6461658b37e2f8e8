"""The job whose turn it is: export, engine, import, each a sequence of small steps on the GUI thread."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from . import process
from .jobs import Cancelled, EngineFailure, Job, end
from .provenance import domain_warning
from .recovery import CANCEL, Background, Folders, Stopped, is_complete, read_array, read_result, write_job

PATIENCE_SECONDS = 2.0  # how long a cancelled run may take to stop by itself
NUMBERS = ("step", "steps", "item", "items", "sample", "samples", "fraction", "eta_s", "memory_mb", "available_mb",
           "network_s")  # fmt: skip
FIELDS: dict[str, dict[str, Any]] = {
    "progress": {"stage": str}, "end": {"exit_code": int},
    "plan": {"memory_mb": (int, float), "available_mb": (int, float), "network_s": (int, float), "device": str},
}  # fmt: skip
MOST = 1e15  # no number of an event is larger
LINGER_SECONDS = 5.0  # how long the engine may take to end a job after its result


class Run:
    """The job whose turn it is, as a sequence of small steps."""

    def __init__(self, job: Job, folders: Folders, worker: process.Worker) -> None:
        self.job, self.folders, self.worker = job, folders, worker
        self.folder: Path | None = None
        self.thread: Background | None = None
        self.cancel_at: float | None = None
        self.engine_works = False
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
            self._close("cancelled", "cancelled", _("The run was cancelled."))
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
        self._close("cancelled", "cancelled", _("The run was cancelled."))

    def _all(self) -> Iterator[None]:
        for part in range(self.job.transfer.parts):
            yield from self._export(part)
            yield from self._engine(part)
            if not self.job.plan_only:
                yield from self._import(part)
            self._remove_folder()
        self.job.transfer.finish()
        end(self.job, "done")

    def _export(self, part: int) -> Iterator[None]:
        self._enter("exporting")
        self._start()  # it loads its libraries while the data are written
        transfer = self.job.transfer
        for _step in transfer.export(part):
            yield from self._pause()
        folder = self.folder = self.folders.create(f"{self.job.id}-{part}")
        job, arrays = transfer.job, transfer.arrays
        yield from self._background(lambda stop: write_job(folder, job, arrays, stop))

    def _engine(self, part: int) -> Iterator[None]:
        """Until the engine is done with the folder. Raises what it has to say."""
        assert self.folder
        again = self.worker.ready  # a warm worker may come to its end in this very moment
        self.worker.send(self.folder)
        self.engine_works = True
        self._enter("running")
        watch = Watch(self.job, self.folder, part)
        while not watch.over:
            yield
            for event in self.worker.events():
                watch.hear(event)
            code = self.worker.exit_code()
            if code is not None and not watch.over:
                if again and not watch.heard:
                    again = False
                    self._start()
                    self.worker.send(self.folder)
                    continue
                watch.died(code, list(self.worker.log))
                self.worker.kill()  # what it has started may outlive it
            self._check_cancel(watch)
            if watch.lingers():
                self.worker.kill()
                break
        self.engine_works = False
        self.job.log = list(self.worker.log)
        if self.job.cancel_asked:
            raise Cancelled
        watch.conclude()

    def _import(self, part: int) -> Iterator[None]:
        assert self.folder
        self._enter("importing")
        folder = self.folder
        try:
            yield from self._background(lambda stop: read_result(folder, stop))
        except ValueError as error:
            raise EngineFailure(_("The result can't be read: {reason}.").format(reason=error), "", "disk") from None
        record, arrays = self.thread.result  # type: ignore[union-attr]
        self.job.record = record
        outside = domain_warning(record)
        if outside and outside not in self.job.warnings:
            self.job.warnings.append(outside)
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

    def _check_cancel(self, watch: Watch) -> None:
        """A cancelled run may stop by itself for a while; one that hasn't begun is ended at once."""
        if not self.job.cancel_asked or watch.over:
            return
        if self.cancel_at is None and self.folder:
            (self.folder / CANCEL).touch()
            self.cancel_at = time.monotonic()
        if not self.worker.ready or time.monotonic() - (self.cancel_at or 0) > PATIENCE_SECONDS:
            self.worker.kill()
            raise Cancelled

    def _start(self) -> None:
        try:
            self.worker.start()
        except OSError as error:
            message = _("The engine's Python can't be started: {reason}.").format(reason=_reason(error))
            remedy = _("Choose another Python for the engine in the settings.")
            raise EngineFailure(message, remedy, "installation") from None

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
        if self.engine_works or (state == "cancelled" and not self.job.plan_only):
            self.worker.kill()
        self.job.log = self.job.log or list(self.worker.log)
        if state == "failed" and self.job.state == "importing" and self.folder and is_complete(self.folder):
            self.folders.release(self.folder)
            self.folder = None
            remedy = _("The result is kept: recover it when the cause is gone.")
        self._remove_folder()
        try:
            self.job.transfer.finish()
        except Exception as error:  # the job ends all the same; the application reports the error
            sys.excepthook(type(error), error, error.__traceback__)
        if self.job.transfer.nodes():
            message += " " + _("The frames that were finished are kept.")
        end(self.job, state, kind, message, remedy)


class Watch:
    """What the engine says about one job folder."""

    def __init__(self, job: Job, folder: Path, part: int) -> None:
        self.job, self.folder, self.part = job, folder, part
        self.over = self.heard = False
        self.failure: EngineFailure | None = None
        self.code = 0
        self._result_at: float | None = None

    def hear(self, event: dict[str, Any]) -> None:
        """Take one event; those of other jobs don't count, nor does what a library prints in the form of an event."""
        if event.get("job", str(self.folder)) != str(self.folder) or not _is_whole(event):
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
            image = read_array(self.folder / Path(str(event.get("file"))).name)
        except (OSError, ValueError):  # the engine is writing the next one
            return
        if image.ndim != 2 or not image.size:
            return
        self.job.preview = image
        self.job.previewed.emit(self.job)

    def _frame(self) -> dict[str, int]:
        parts = self.job.transfer.parts
        return {"frame": self.part + 1, "frames": parts} if parts > 1 else {}


def _is_whole(event: Mapping[str, Any]) -> bool:
    """Whether the fields of an event that are shown have their types."""
    needed = FIELDS.get(str(event["event"]), {})
    numbers = [event[name] for name in NUMBERS if event.get(name) is not None]
    return (
        all(isinstance(event.get(name), types) for name, types in needed.items())
        and all(isinstance(n, (int, float)) and abs(n) < MOST for n in numbers)
    )  # fmt: skip


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()

"""The queue of a logic: jobs run one after the other, driven by a timer.

Each logic has a queue and a worker of its own. That is simpler than one for all modules: nothing outlives the reload of
a module, and "cancel all" means the jobs of this module."""

from __future__ import annotations

import time
from collections import deque

import qt
import slicer
from slicer.i18n import tr as _

from . import process
from .jobs import InputProblem, Job, Signal, end
from .recovery import Folders
from .running import Run

POLL_MS = 50


class Queue:
    """Runs jobs one after the other. `jobs` holds all of them in order, finished ones included; `added` is told about
    each new one."""

    def __init__(self, folders: Folders, worker: process.Worker | None = None) -> None:
        self.folders, self.worker = folders, worker or process.Worker()
        self.jobs: list[Job] = []
        self.added = Signal()
        self._waiting: deque[Job] = deque()
        self._run: Run | None = None
        self._busy = False
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self.advance)

    def add(self, job: Job) -> None:
        self.jobs.append(job)
        self._waiting.append(job)
        self._timer.start()
        self.added.emit(job)

    def cancel(self, job: Job | None = None) -> None:
        """Cancel a job, or all; a job that waits ends at once, the running one within about two seconds."""
        for one in list(self.jobs) if job is None else [job]:
            if one in self._waiting:
                self._waiting.remove(one)
                end(one, "cancelled", "cancelled", _("The run was cancelled."))
                one.finished.emit(one)
            elif self._run and self._run.job is one:
                one.cancel_asked = True

    def wait(self, job: Job) -> None:
        """Handle events until the job is over. Not from within a `changed` or `previewed` callback: the queue stands
        still until that returns."""
        if self._busy:
            message = _("A run can't be waited for while another one reports.")
            raise InputProblem(message, _("Connect to 'finished', or use wait=False."))
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
            run, self._run = self._run, None
            run.abandon()
            run.job.finished.emit(run.job)

    def advance(self) -> None:
        """One step of the job whose turn it is."""
        if self._busy:  # a step may handle events, and these may call again
            return
        self._busy, run = True, self._run
        try:
            time.sleep(0.001)  # the application may hold Python's lock between events; here the threads get it
            if run is None and self._waiting:
                run = self._run = Run(self._waiting.popleft(), self.folders, self.worker)
            over = run is None or run.step()
        finally:
            self._busy = False
        if over:
            self._run = None
            if not self._waiting:
                self._timer.stop()
            if run:
                run.job.finished.emit(run.job)  # last, so that a listener may start the next run and wait for it

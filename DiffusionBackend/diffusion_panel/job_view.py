"""The jobs of a panel: progress, preview, queue, log, errors and warnings of the domain."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from . import declarations, views
from .notice import Notice
from .wording import duration

WHOLE = 1000  # steps of the progress bar
PREVIEW_HEIGHT = 160


class JobView:
    """Shows the jobs of a logic. finished : called with a job when it is over."""

    def __init__(self, ui: Any, logic: Any, finished: Callable[[Any], None]) -> None:
        self.ui, self.logic, self._finished = ui, logic, finished
        style = qt.QStyle
        self.error = Notice(ui.errorFrame, ui.errorIcon, ui.errorLabel, style.SP_MessageBoxCritical)
        self.domain = Notice(ui.domainFrame, ui.domainIcon, ui.domainLabel, style.SP_MessageBoxWarning)
        self.watched: list[Any] = []  # the newest first
        ui.queueList.connect("currentRowChanged(int)", self._on_row)
        ui.cancelJobButton.connect("clicked()", self.cancel_selected)
        ui.cancelAllButton.connect("clicked()", self.cancel_all)
        ui.copyReportButton.connect("clicked()", self.copy_report)
        ui.logSection.connect("contentsCollapsed(bool)", self._on_fold)
        logic.queue.added.connect(self.watch)

    def watch(self, job: Any) -> None:
        """Show a new job, from the panel or from the console; estimates have a place of their own."""
        if job.plan_only:
            return
        self.error.say("")
        self.domain.say("")
        job.changed.connect(self._on_changed)
        job.previewed.connect(self._on_previewed)
        job.finished.connect(self._on_finished)
        self.watched.insert(0, job)
        self.ui.queueList.insertItem(0, _line(job))
        self.ui.queueList.setCurrentRow(0)
        self.refresh()

    def release(self) -> None:
        """Listen to no job any more."""
        for job in self.watched:
            job.changed.disconnect(self._on_changed)
            job.previewed.disconnect(self._on_previewed)
            job.finished.disconnect(self._on_finished)
        self.watched = []

    def active(self) -> Any:
        """The job that runs, else the next that waits, else None."""
        unfinished = [j for j in reversed(self.watched) if not j.is_over]
        return next((j for j in unfinished if j.state != "queued"), unfinished[0] if unfinished else None)

    def selected(self) -> Any:
        """The job that is selected in the list, else the newest, else None."""
        row = self.ui.queueList.currentRow
        return self.watched[row if 0 <= row < len(self.watched) else 0] if self.watched else None

    def cancel_selected(self) -> None:
        job = self.selected()
        if job is not None and not job.is_over:
            self.logic.cancel(job)

    def cancel_all(self) -> None:
        for job in list(self.watched):
            if not job.is_over:
                self.logic.cancel(job)

    def copy_report(self) -> None:
        """Put the report of the selected job on the clipboard."""
        job = self.selected()
        if job is not None:
            slicer.app.clipboard().setText(self.logic.report(job))

    def refresh(self) -> None:
        """Show the state of all jobs."""
        for row, job in enumerate(self.watched):
            self.ui.queueList.item(row).setText(_line(job))
        job, selected = self.active(), self.selected()
        self.ui.queueWidget.setVisible(bool(self.watched))
        self.ui.cancelJobButton.enabled = selected is not None and not selected.is_over
        self.ui.cancelAllButton.enabled = job is not None
        self.ui.copyReportButton.enabled = selected is not None
        self.ui.progressWidget.setVisible(job is not None)
        if job is not None:
            self.ui.progressBar.setMaximum(0 if _fraction(job) is None else WHOLE)
            self.ui.progressBar.setValue(round(WHOLE * (_fraction(job) or 0)))
            self.ui.progressLabel.setText(progress_text(job))
        told = job or selected
        self.domain.say("\n".join(told.warnings) if told is not None else "")
        self._show_log(selected)

    def _show_log(self, job: Any) -> None:
        """The report of a job that is over: a log of half a run would say nothing that the progress doesn't."""
        if self.ui.logSection.collapsed:
            return
        text = self.logic.report(job) if job is not None and job.is_over else ""
        if self.ui.logText.plainText != text:
            self.ui.logText.setPlainText(text)

    def _on_fold(self, collapsed: bool) -> None:
        self.refresh()

    def _on_changed(self, job: Any) -> None:
        self.refresh()

    def _on_previewed(self, job: Any) -> None:
        if job is self.active() and job.preview is not None:
            pixmap = views.preview(job.preview, like=_volume(job))
            self.ui.previewLabel.setPixmap(pixmap.scaledToHeight(PREVIEW_HEIGHT))

    def _on_finished(self, job: Any) -> None:
        self.ui.previewLabel.clear()
        if job.state == "failed":
            self.error.say(" ".join(part for part in (job.message, job.remedy) if part))
        self.refresh()
        self._finished(job)

    def _on_row(self, row: int) -> None:
        self.refresh()


def _volume(job: Any) -> Any:
    """The first input volume of a job; None without one."""
    names = [i["name"] for i in declarations.method(job.method)["inputs"] if i["kind"] == "volume"]
    given = [job.inputs.get(name) for name in names]
    return next((v for v in given if v is not None and v.IsA("vtkMRMLScalarVolumeNode")), None)


def progress_text(job: Any) -> str:
    """One line: stage, item, step, sample, remaining time, memory."""
    if job.state != "running" or not job.progress:
        return state_text(job.state)
    p = job.progress
    parts = [p["stage"]]
    if p.get("frames", 1) > 1:
        parts.append(_("frame {now} of {all}").format(now=p["frame"], all=p["frames"]))
    if p.get("samples", 1) > 1:
        parts.append(_("sample {now} of {all}").format(now=p["sample"], all=p["samples"]))
    if p.get("items", 0) > 1:
        parts.append(_("item {now} of {all}").format(now=p["item"], all=p["items"]))
    if p.get("steps", 0) > 1:
        parts.append(_("step {now} of {all}").format(now=p["step"], all=p["steps"]))
    if p.get("eta_s") is not None:
        parts.append(_("{time} left").format(time=duration(p["eta_s"])))
    if p.get("memory_mb"):
        parts.append(_("{memory} MB").format(memory=p["memory_mb"]))
    return " · ".join(parts)


def state_text(state: str) -> str:
    """State of a job in words."""
    words = {
        "queued": _("waiting"),
        "exporting": _("copying the inputs"),
        "running": _("starting the engine"),
        "importing": _("loading the result"),
        "done": _("done"),
        "failed": _("failed"),
        "cancelled": _("cancelled"),
    }
    return words[state]


def _line(job: Any) -> str:
    name = declarations.method(job.method)["name"]
    state = _("running") if job.state == "running" else state_text(job.state)
    return f"{name}: {state}" + (f" ({job.title})" if job.title else "")


def _fraction(job: Any) -> float | None:
    """Share of the run that is done, from the remaining time where it is known; None while nothing is known."""
    if job.state != "running" or not job.progress:
        return None
    left, spent = job.progress.get("eta_s"), time.time() - job.started
    return job.progress.get("fraction") if left is None else spent / max(spent + left, 1e-3)

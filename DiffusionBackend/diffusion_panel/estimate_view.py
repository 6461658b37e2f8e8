"""Time and memory of the run that Apply would start: asked of the engine a moment after the last change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from .wording import duration

DELAY_MS = 1000


class EstimateView:
    """request : gives the keyword arguments of the run, None where it can't be started. idle : whether the engine is
    free. One estimate at a time; a change while it runs is estimated afterwards."""

    def __init__(self, ui: Any, logic: Any, request: Callable[[], Any], idle: Callable[[], bool]) -> None:
        self.ui, self.logic, self._request, self._idle = ui, logic, request, idle
        self.job: Any = None
        self._again = False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(DELAY_MS)
        self._timer.connect("timeout()", self.now)
        ui.estimateButton.connect("clicked()", self.now)

    def forget(self) -> None:
        """The estimate that is shown no longer holds."""
        self._timer.stop()
        self.ui.estimateLabel.setText(_("Time and memory: not estimated yet."))

    def later(self) -> None:
        """Estimate when nothing has changed for a second."""
        possible = self._request() is not None
        self.ui.estimateButton.enabled = possible
        if possible:
            self._timer.start()

    def now(self) -> None:
        """Estimate at once, or after the estimate or run that is under way."""
        request = self._request()
        if request is None:
            return
        if self.job is not None or not self._idle():
            self._again = True
            return
        self.ui.estimateLabel.setText(_("Time and memory: being estimated…"))
        try:
            self.job = self.logic.estimate(**request)
        except RuntimeError as error:
            self.ui.estimateLabel.setText(str(error))
            return
        self.job.finished.connect(self._on_finished)

    def resume(self) -> None:
        """The engine is free again: estimate what was put off."""
        if self._again and self.job is None:
            self._again = False
            self._timer.start()

    def release(self) -> None:
        """Neither start nor show an estimate any more."""
        self._timer.stop()
        self._again = False
        if self.job is not None:
            self.job.finished.disconnect(self._on_finished)
            self.job = None

    def _on_finished(self, job: Any) -> None:
        self.job = None
        text = plan_text(job.plan) if job.plan else _("Time and memory: unknown. {why}").format(why=job.message)
        self.ui.estimateLabel.setText(text)
        self.resume()


def plan_text(plan: dict[str, Any]) -> str:
    """One line on the plan of a run: seconds of its networks, memory needed and available, device."""
    text = _("{memory} MB of memory ({available} MB are free), on {device}").format(
        memory=plan["memory_mb"], available=plan["available_mb"], device=plan["device"]
    )
    if plan["network_s"]:
        return _("About {time} for the networks; {rest}.").format(time=duration(plan["network_s"]), rest=text)
    return _("No network; {rest}.").format(rest=text)

"""The buttons that start, stop and copy a run."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from . import shown_slice
from .method_chooser import RUNNABLE, state_text
from .notice import Notice
from .wording import wrapped


class RunActions:
    """panel : what is run (`request`, `apply`, `jobs`, `chooser`, `logic`). ready : whether Apply may be pressed."""

    def __init__(self, ui: Any, panel: Any) -> None:
        self.ui, self.panel, self.ready = ui, panel, False
        self.problem = Notice(ui.problemFrame, ui.problemIcon, ui.problemLabel, qt.QStyle.SP_MessageBoxInformation)
        ui.applyButton.connect("clicked()", self.apply_or_cancel)
        ui.queueButton.connect("clicked()", self.add_to_queue)
        ui.sliceButton.connect("clicked()", self.try_slice)
        ui.copyPythonButton.connect("clicked()", self.copy_python)
        ui.copyCommandButton.connect("clicked()", self.copy_command)

    def refresh(self, problems: list[str]) -> None:
        """Show what keeps the run from starting; nothing does where the list is empty."""
        method = self.panel.chooser.current()
        runnable = method["state"] in RUNNABLE
        self.ready = runnable and not problems
        self.problem.say("\n".join(problems) if runnable else "")
        self.ui.plannedLabel.setText("" if runnable else state_text(method["state"]))
        self.ui.plannedLabel.setVisible(not runnable)
        for widget in (self.ui.runForm, self.ui.estimateWidget, self.ui.applyWidget, self.ui.copyWidget):
            widget.setVisible(runnable)
        self.refresh_buttons()

    def refresh_buttons(self) -> None:
        """Apply while nothing runs, else Cancel and Add to queue."""
        running = self.panel.jobs.active() is not None
        self.ui.applyButton.setText(_("Cancel") if running else _("Apply"))
        self.ui.applyButton.enabled = running or self.ready
        self.ui.queueButton.setVisible(running)
        self.ui.queueButton.enabled = self.ready
        self.ui.sliceButton.enabled = self.ready
        for button in (self.ui.copyPythonButton, self.ui.copyCommandButton):
            button.enabled = bool(self.panel.inputs.values())
        self.ui.applyButton.setToolTip(wrapped(self._tip(running)))

    def apply_or_cancel(self) -> None:
        """Apply, or cancel the job that runs."""
        active = self.panel.jobs.active()
        if active is not None:
            self.panel.logic.cancel(active)
        else:
            self.panel.apply()

    def add_to_queue(self) -> None:
        """Start another run when those before it are over."""
        self.panel.apply()

    def try_slice(self) -> None:
        """Run on the slice that the Red view shows."""
        number = shown_slice.number(self.panel.inputs.values())
        if number is None:
            self.panel.jobs.error.say(_("The Red view shows no slice of the input. Scroll to one first."))
        else:
            self.panel.apply(slices=(number, number), roi=None)

    def copy_python(self) -> None:
        """Put the call for the Python console on the clipboard."""
        slicer.app.clipboard().setText(self.panel.logic.as_python(self.panel.request()))

    def copy_command(self) -> None:
        """Put the command line on the clipboard."""
        slicer.app.clipboard().setText(self.panel.logic.as_command_line(self.panel.request()))

    def _tip(self, running: bool) -> str:
        if running:
            return _("Stop the run; nothing in the scene changes.")
        return self.problem.text() or _("Run the method; the results are new nodes.")

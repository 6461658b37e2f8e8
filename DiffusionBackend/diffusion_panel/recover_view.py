"""Results of runs that were finished, but never loaded, such as after a crash: load them or delete them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from . import declarations
from .notice import Notice


class RecoverView:
    """The banner at the top of the panel. recovered : called when a result was loaded."""

    def __init__(self, ui: Any, logic: Any, recovered: Callable[[], None]) -> None:
        self.logic, self._recovered = logic, recovered
        self.notice = Notice(ui.recoverFrame, ui.recoverIcon, ui.recoverLabel, qt.QStyle.SP_MessageBoxInformation)
        self.entries: list[Any] = []
        ui.recoverButton.connect("clicked()", self.recover)
        ui.discardButton.connect("clicked()", self.discard)
        self.refresh()

    def refresh(self) -> None:
        """Look for results; the banner tells of the newest."""
        self.entries = list(self.logic.recoverable())
        self.notice.say(self._text() if self.entries else "")

    def recover(self) -> None:
        """Load the newest result."""
        if self.entries:
            try:
                self.logic.recover(self.entries[0])
            except (RuntimeError, OSError) as error:
                self.notice.say(str(error))
                return
            self._recovered()
            self.refresh()

    def discard(self) -> None:
        """Delete the newest result."""
        if self.entries:
            self.logic.discard(self.entries[0])
            self.refresh()

    def _text(self) -> str:
        entry = self.entries[0]
        known = declarations.declarations().get(entry.method)
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.finished))
        text = _("A result of {method} of {when} was never loaded.")
        more = _(" {count} more wait.").format(count=len(self.entries) - 1) if len(self.entries) > 1 else ""
        return text.format(method=known["name"] if known else entry.method, when=when) + more

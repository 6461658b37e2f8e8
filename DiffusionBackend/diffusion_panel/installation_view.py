"""The section "Engine" at the top of a panel: folded while all is well, else what is missing and how to get it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from .installation import Installation
from .installing import commands, offline, packages
from .installing.commands import Plan
from .notice import Notice

LOG_HEIGHT = 160
WHOLE = 1000  # steps of the progress bar
MB = 1e6
SHOWN = 12  # packages that the confirmation names


class InstallationView:
    """Shows an installation in `widget`, which has no layout yet. on_state : called when an operation has ended."""

    def __init__(self, widget: Any, installation: Installation, on_state: Callable[[], None]) -> None:
        self.installation, self._on_state = installation, on_state
        self._following = False  # whether the text box shows the log, as it grows
        self._lines = 0  # how many of its lines
        self.state = installation.state()
        self._build(widget)
        installation.changed.connect(self.refresh)
        installation.finished.connect(self._on_finished)
        self.refresh()
        self.section.setProperty("collapsed", self.state.ready)

    def release(self) -> None:
        """Listen to the installation no more."""
        self.installation.changed.disconnect(self.refresh)
        self.installation.finished.disconnect(self._on_finished)

    # ---- widgets ----

    def _build(self, widget: Any) -> None:
        outer = qt.QVBoxLayout(widget)
        outer.setContentsMargins(0, 0, 0, 0)
        self.section = ctk.ctkCollapsibleButton()
        outer.addWidget(self.section)
        inner = qt.QVBoxLayout(self.section)
        self.notice = notice(inner, qt.QStyle.SP_MessageBoxInformation)
        self.error = notice(inner, qt.QStyle.SP_MessageBoxCritical)
        self.flavours = qt.QComboBox()
        self.flavours.setToolTip(_("The build of torch. One for a GPU runs on the CPU, too."))
        for flavour in commands.flavours():
            self.flavours.addItem(offline.label(flavour), flavour)
        self.flavours.setCurrentIndex(list(commands.flavours()).index(self.installation.flavour()))
        inner.addWidget(self.flavours)
        self._buttons(inner)
        self.doing = qt.QLabel()
        self.doing.setWordWrap(True)
        self.bar = qt.QProgressBar()
        self.log = qt.QPlainTextEdit()
        self.log.setReadOnly(True)
        self.log.setFixedHeight(LOG_HEIGHT)
        self.log.setVisible(False)
        for one in (self.doing, self.bar, self.cancel_button, self.log):
            inner.addWidget(one)

    def _buttons(self, layout: Any) -> None:
        grid = qt.QGridLayout()
        layout.addLayout(grid)
        self.install_button = self._button(_("Install…"), _("Fetch the packages; you are asked first."), self.install)
        self.folder_button = self._button(
            _("From folder…"), _("Install from a folder of .whl files, without network."), self.install_from_folder
        )
        self.repair_button = self._button(
            _("Repair…"), _("Install anew; Slicer's own packages stay as they are."), self.repair
        )
        self.remove_button = self._button(
            _("Remove…"), _("Delete the packages that were installed for the engine."), self.remove
        )
        self.needed_button = self._button(
            _("What is needed"), _("List the files for an installation without network."), self.show_needed
        )
        self.log_button = self._button(_("Show log"), _("Show all that pip has said."), self.toggle_log)
        self.restart_button = self._button(
            _("Restart Slicer…"), _("The settings of the panel are part of the scene: save it first."), self.restart
        )
        self.cancel_button = self._button(
            _("Cancel"), _("Stop; what was there before stays."), self.installation.cancel
        )
        self.grid = (self.install_button, self.folder_button, self.repair_button, self.remove_button,
                     self.needed_button, self.log_button)  # fmt: skip
        for place, button in enumerate(self.grid):
            grid.addWidget(button, place // 2, place % 2)
        layout.addWidget(self.restart_button)

    def _button(self, text: str, tip: str, slot: Callable[[], None]) -> Any:
        button = qt.QPushButton(text)
        button.setToolTip(tip)
        button.connect("clicked()", slot)
        return button

    # ---- what is shown ----

    def refresh(self) -> None:
        """Show the state, and what goes on."""
        now = self.installation
        if not now.busy:
            before, self.state = self.state, now.state()
            if before.ready and not self.state.ready:
                self.section.setProperty("collapsed", False)
        self.section.setText(self._headline())
        self.error.say(str(now.failure or ""))
        self.notice.say("" if now.busy or now.failure else self.state.sentence)
        idle = not now.busy and not self.state.restart
        own = idle and packages.current() is not None
        missing = idle and not self.state.ready
        shown = {
            self.flavours: own or missing,
            self.install_button: missing,
            self.folder_button: missing,
            self.repair_button: own,
            self.remove_button: own,
            self.needed_button: missing,
            self.log_button: bool(now.log),
            self.restart_button: self.state.restart and not now.busy,
            self.doing: now.busy,
            self.bar: now.busy,
            self.cancel_button: now.busy,
        }
        for widget, visible in shown.items():
            widget.setVisible(visible)
        self.doing.setText(now.doing)
        self.bar.setRange(0, WHOLE if now.fraction is not None else 0)
        self.bar.setValue(round(WHOLE * (now.fraction or 0)))
        self._show_lines()

    def problem(self) -> str:
        """Why no run can be started now, or ""."""
        if self.installation.busy:
            return _("The engine is being installed.")
        return "" if self.state.ready else self.state.sentence

    def tell(self, sentence: str) -> None:
        """Show why the engine couldn't be started though its packages are there, as a run has found out."""
        self.error.say(sentence)
        self.section.setProperty("collapsed", False)

    def _headline(self) -> str:
        if self.installation.busy:
            return _("Engine: being installed")
        if self.installation.failure:
            return _("Engine: installation failed")
        if not self.state.ready:
            return _("Engine: restart needed") if self.state.restart else _("Engine: not installed")
        versions = [f"{p.name} {p.found}" for p in self.state.packages[:1]]
        return _("Engine: ready ({versions})").format(versions=versions[0] if versions else _("own Python"))

    def _show_lines(self) -> None:
        """Add to the text box what the log has got since."""
        lines = self.installation.log
        if len(lines) < self._lines:  # another operation has begun
            self._lines = 0
            self.log.clear()
        if self._following and len(lines) > self._lines:
            self.log.appendPlainText("\n".join(lines[self._lines :]))
            self._lines = len(lines)

    def _on_finished(self) -> None:
        self.refresh()
        self.section.setProperty("collapsed", self.state.ready and self.installation.failure is None)
        self._on_state()

    # ---- what can be done ----

    def install(self) -> None:
        """Install with the chosen build of torch."""
        self.installation.install(self.flavours.currentData, confirm=self.confirm)

    def install_from_folder(self) -> None:
        """Install from a folder that the user chooses."""
        title = _("Folder of .whl files")
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title)
        if folder:
            self.installation.install(self.flavours.currentData, Path(folder), confirm=self.confirm)

    def repair(self) -> None:
        """Install anew, with the chosen build of torch."""
        self.installation.repair(self.flavours.currentData, confirm=self.confirm)

    def remove(self) -> None:
        """Remove our own packages after a question."""
        text = _("The engine's packages in {folder} will be deleted. Slicer's own packages stay as they are.")
        if slicer.util.confirmYesNoDisplay(text.format(folder=self.installation.folder())):
            self.installation.remove()
            self._on_finished()

    def restart(self) -> None:
        """Restart Slicer after a question."""
        if slicer.util.confirmYesNoDisplay(_("Restart Slicer now? What hasn't been saved is lost.")):
            slicer.util.restart()

    def toggle_log(self) -> None:
        """Show the log, or hide it."""
        self._open(not self._following, not self._following)
        self._show_lines()

    def show_needed(self) -> None:
        """Show what an installation without network needs, to be copied."""
        self._open(True, False)
        self.log.setPlainText(self.installation.offline_list())

    def _open(self, visible: bool, following: bool) -> None:
        """Empty the text box and show it, for the log or for something else, or hide it."""
        self._following, self._lines = following, 0
        self.log.clear()
        self.log.setVisible(visible)
        self.log_button.setText(_("Hide log") if following else _("Show log"))

    def confirm(self, plan: Plan) -> bool:
        """Ask whether to go on."""
        return slicer.util.confirmYesNoDisplay(question(plan, self.installation.folder()), _("Install packages?"))


def notice(layout: Any, icon: Any) -> Notice:
    """A new notice at the end of a layout."""
    frame, picture, text = qt.QFrame(), qt.QLabel(), qt.QLabel()
    row = qt.QHBoxLayout(frame)
    row.setContentsMargins(0, 0, 0, 0)
    picture.setSizePolicy(qt.QSizePolicy.Fixed, qt.QSizePolicy.Preferred)
    text.setWordWrap(True)
    text.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
    row.addWidget(picture)
    row.addWidget(text, 1)
    layout.addWidget(frame)
    return Notice(frame, picture, text, icon)


def question(plan: Plan, folder: Path) -> str:
    """What will be installed, how large it is and where it goes."""
    wheels = plan.all()
    lines = [f"{w.name} {w.version}" + (f" ({w.size / MB:.1f} MB)" if w.size else "") for w in wheels[:SHOWN]]
    if len(wheels) > SHOWN:
        lines.append(_("and {count} more").format(count=len(wheels) - SHOWN))
    parts = []
    if plan.by_extension:
        parts.append(_("The PyTorch extension will install torch into Slicer; Slicer hardly answers meanwhile."))
    if lines:
        head = _("These packages will be installed into {folder}:").format(folder=folder)
        parts.append("\n".join([head, *lines]))
    if any(w.name == "torch" and not w.size for w in wheels):
        text = _("The download is about {size} GB.")
        parts.append(text.format(size=commands.DOWNLOAD_GB[plan.flavour]))
    parts.append(_("Slicer's own packages stay as they are.") if not plan.by_extension else _("Go on?"))
    return "\n\n".join(parts)

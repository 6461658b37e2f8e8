"""The section "Models": which trained models there are, what their cards say, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from . import card_page, weights
from .installation_view import notice
from .weights_tasks import Import, Task, Verify
from .wording import wrapped

POLL_MS = 50
WHOLE = 1000  # steps of the progress bar
ROWS = 6  # that the table shows without scrolling
CARD_HEIGHT = 220
FRAME = 4  # pixels of a table's frame
FILES = "*.safetensors *.pt *.pth *.ckpt *.zip card.json"


class WeightsView:
    """Fills `widget`, which has no layout yet. changed : called when models, their folder or acknowledgements have
    changed."""

    def __init__(self, widget: Any, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.models: list[weights.Model] = []
        self.task: Task | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self.advance)
        self._build(widget)
        self.refresh()

    def release(self) -> None:
        """Stop what goes on; nothing half-made is left."""
        self._timer.stop()
        if self.task is not None:
            self.task.cancel()
            self.task = None

    # ---- widgets ----

    def _build(self, widget: Any) -> None:
        outer = qt.QVBoxLayout(widget)
        outer.setContentsMargins(0, 0, 0, 0)
        self.section = ctk.ctkCollapsibleButton()
        self.section.setText(_("Models"))
        outer.addWidget(self.section)
        inner = qt.QVBoxLayout(self.section)
        self.folder_label = qt.QLabel()
        self.folder_label.setWordWrap(True)
        self.folder_label.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
        inner.addWidget(self.folder_label)
        self._build_table(inner)
        self.card = qt.QTextBrowser()
        self.card.setFixedHeight(CARD_HEIGHT)
        self.card.setAccessibleName(_("Card of the model"))
        inner.addWidget(self.card)
        self.error = notice(inner, qt.QStyle.SP_MessageBoxCritical)
        self.told = notice(inner, qt.QStyle.SP_MessageBoxInformation)
        self.doing, self.bar = qt.QLabel(), qt.QProgressBar()
        self.doing.setWordWrap(True)
        inner.addWidget(self.doing)
        inner.addWidget(self.bar)
        self._build_buttons(inner)
        self.section.setProperty("collapsed", True)
        self.section.connect("contentsCollapsed(bool)", self._on_folded)

    def _build_table(self, layout: Any) -> None:
        titles = card_page.columns()
        self.table = qt.QTableWidget(0, len(titles))
        self.table.setHorizontalHeaderLabels(titles)
        self.table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        self.table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        self.table.setTabKeyNavigation(False)
        self.table.setWordWrap(False)
        self.table.verticalHeader().hide()
        self.table.setAccessibleName(_("Models"))
        self.table.connect("currentCellChanged(int,int,int,int)", self._on_row)
        layout.addWidget(self.table)

    def _build_buttons(self, layout: Any) -> None:
        def button(text: str, tip: str, slot: Callable[[], None]) -> Any:
            made = qt.QPushButton(text)
            made.setToolTip(wrapped(tip))
            made.connect("clicked()", slot)
            return made

        self.accept_button = button(
            _("Accept licence"), _("Say once that you have read this licence and accept it."), self.accept
        )
        self.import_button = button(
            _("Import…"), _("Take a published checkpoint, a model's card.json or its zip file."), self.choose_file
        )
        self.verify_button = button(
            _("Verify"), _("Compare the weights of all models with the sha256 on their cards."), self.verify
        )
        self.remove_button = button(_("Remove…"), "", self.remove)
        self.open_button = button(_("Open folder"), _("Show the files of the chosen model."), self.open_folder)
        tip = _("Keep your models in another folder, for example one of your group.")
        self.folder_button = button(_("Your folder…"), tip, self.choose_folder)
        self.cancel_button = button(_("Cancel"), _("Stop; nothing half-made stays."), self.cancel)
        layout.addWidget(self.accept_button)
        grid = qt.QGridLayout()
        layout.addLayout(grid)
        self.grid = (self.import_button, self.verify_button, self.remove_button, self.open_button, self.folder_button)
        for place, one in enumerate(self.grid):
            grid.addWidget(one, place // 2, place % 2)
        layout.addWidget(self.cancel_button)

    # ---- what is shown ----

    def refresh(self) -> None:
        """Look again which models there are."""
        chosen = self.current()
        self.models = weights.models()
        ids = [m.id for m in self.models]
        self.folder_label.setText(_("Your own models: {folder}").format(folder=weights.user_folder()))
        self.table.blockSignals(True)
        self.table.setRowCount(len(ids))
        for row, model in enumerate(self.models):
            for column, (text, tip) in enumerate(card_page.cells(model)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(wrapped(tip))
                self.table.setItem(row, column, item)
        self.table.resizeColumnsToContents()
        self.table.resizeRowsToContents()
        height = self.table.rowHeight(0) if ids else 0
        beside = (self.table.horizontalHeader(), self.table.horizontalScrollBar())
        around = sum(w.sizeHint.height() for w in beside) + FRAME
        self.table.setFixedHeight(around + height * min(max(len(ids), 1), ROWS))
        self.table.blockSignals(False)
        self.choose(chosen.id if chosen and chosen.id in ids else next(iter(ids), ""))
        self._show_state()

    def current(self) -> weights.Model | None:
        """The chosen model."""
        row = self.table.currentRow()
        return self.models[row] if 0 <= row < len(self.models) else None

    def choose(self, model_id: str) -> None:
        """Choose a model as a click does."""
        row = next((r for r, m in enumerate(self.models) if m.id == model_id), -1)
        self.table.setCurrentCell(row, 0)
        self._show_card()

    def _show_card(self) -> None:
        model = self.current()
        self.card.setHtml(card_page.page(model) if model else "")
        self.accept_button.setVisible(bool(model and model.card) and not weights.acknowledged(model.card))
        self.open_button.enabled = model is not None
        self.remove_button.enabled = model is not None and not model.bundled and self.task is None
        tip = weights.why_not_removable(model) if model else ""
        self.remove_button.setToolTip(wrapped(tip or _("Delete this model of yours from the disk.")))

    def _show_state(self) -> None:
        busy = self.task is not None
        for widget in (self.doing, self.bar, self.cancel_button):
            widget.setVisible(busy)
        for widget in (self.import_button, self.verify_button, self.folder_button):
            widget.enabled = not busy
        fraction = self.task.fraction if self.task else None
        self.doing.setText(self.task.doing if self.task else "")
        self.bar.setRange(0, WHOLE if fraction is not None else 0)
        self.bar.setValue(round(WHOLE * (fraction or 0)))
        self._show_card()

    def _say(self, told: str = "", error: str = "") -> None:
        self.told.say(told)
        self.error.say(error)

    def _on_row(self, row: int, column: int, old_row: int, old_column: int) -> None:
        self._show_card()

    def _on_folded(self, folded: bool) -> None:
        if not folded:
            self.refresh()

    # ---- what can be done ----

    def choose_file(self) -> None:
        """Import a file that the user chooses."""
        dialog = qt.QFileDialog(slicer.util.mainWindow(), _("Import a model"), "", _("Models") + f" ({FILES})")
        dialog.setFileMode(qt.QFileDialog.ExistingFile)
        if dialog.exec_():
            self.import_file(Path(dialog.selectedFiles()[0]))

    def import_file(self, path: Path) -> None:
        """Begin to import a checkpoint, a card with its weights beside it, a model folder or a zip file."""
        self._begin(Import(path))

    def verify(self) -> None:
        """Begin to compare the weights of all models with their cards."""
        self._begin(Verify(self.models))

    def cancel(self) -> None:
        """Stop what goes on."""
        if self.task is not None:
            self.task.cancel()
            self.advance()

    def accept(self) -> None:
        """Acknowledge the licence of the chosen model."""
        self._attempt(weights.acknowledge, self.current().card)

    def remove(self) -> None:
        """Delete the chosen model after a question."""
        model = self.current()
        text = _("The model '{model}' will be deleted from the disk:\n{folder}")
        if slicer.util.confirmYesNoDisplay(text.format(model=model.id, folder=model.folder), _("Remove the model?")):
            self._attempt(weights.remove, model)

    def open_folder(self) -> None:
        """Show the files of the chosen model in the system's file manager."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.current().folder)))

    def choose_folder(self) -> None:
        """Take another folder for the user's models."""
        folder = qt.QFileDialog.getExistingDirectory(
            slicer.util.mainWindow(), _("Folder of your models"), str(weights.user_folder())
        )
        if folder:
            self._attempt(weights.choose_user_folder, Path(folder))

    def advance(self) -> None:
        """Look how far the task is, and tell what came of it."""
        task = self.task
        if task is not None and task.step():
            self.task = None
            self._timer.stop()
            self._say(**{"error" if task.failed else "told": task.sentence})
            self.refresh()
            self._changed()
        self._show_state()

    def _begin(self, task: Task) -> None:
        self._say()
        self.task = task
        self._timer.start()
        self.advance()

    def _attempt(self, work: Callable[[Any], None], subject: Any) -> None:
        """Do something with the disk, show its sentence where it fails."""
        self._say()
        try:
            work(subject)
        except OSError as error:
            text = _("This can't be done in the folder '{folder}' ({reason}).")
            self._say(error=text.format(folder=weights.user_folder(), reason=error.strerror))
        self.refresh()
        self._changed()

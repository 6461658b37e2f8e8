"""Which method: list with search, what it does, its state, its citation."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from . import sample_data
from .inputs.form import title
from .wording import readable

MARKS = {"works": "●", "experimental": "◐", "import only": "⇣", "planned": "○"}  # readable in every palette
RUNNABLE = ("works", "experimental", "import only")


class MethodChooser:
    """The section "Method" of the panel. ui : its widgets. changed : called when another method is chosen."""

    def __init__(self, ui: Any, methods: list[dict[str, Any]], changed: Callable[[], None]) -> None:
        self.ui, self.methods, self._changed, self._setting = ui, methods, changed, False
        for method in methods:
            item = qt.QListWidgetItem(f"{MARKS[method['state']]} {method['name']} – {method['task']}")
            item.setToolTip(f"<p>{html.escape(method['summary'])}</p>")
            ui.methodList.addItem(item)
        ui.methodList.connect("currentRowChanged(int)", self._on_row)
        ui.searchLine.connect("textChanged(QString)", self.search)
        ui.bibtexButton.connect("clicked()", self.copy_bibtex)

    def current(self) -> dict[str, Any] | None:
        """The chosen declaration; None before the first choice."""
        row = self.ui.methodList.currentRow
        return self.methods[row] if 0 <= row < len(self.methods) else None

    def choose(self, method_id: str) -> bool:
        """Choose a method without telling the panel; False where this module doesn't have it."""
        ids = [m["id"] for m in self.methods]
        if method_id not in ids:
            return False
        self._setting = True
        self.ui.methodList.setCurrentRow(ids.index(method_id))
        self._setting = False
        self._describe()
        return True

    def search(self, text: str) -> None:
        """Hide the methods in which one of the words is missing; the chosen one stays chosen."""
        for row, method in enumerate(self.methods):
            self.ui.methodList.item(row).setHidden(not matches(method, text))

    def shown(self) -> list[str]:
        """Ids of the methods that the search leaves."""
        rows = enumerate(self.methods)
        return [m["id"] for row, m in rows if not self.ui.methodList.item(row).isHidden()]

    def copy_bibtex(self) -> None:
        """Put the citation on the clipboard."""
        method = self.current()
        if method and method["citation"]:
            slicer.app.clipboard().setText(method["citation"]["bibtex"])

    def show_expected(self) -> None:
        """Show what a run on the sample data gives, until another method is chosen."""
        self.ui.sampleLabel.setVisible(bool(self.ui.sampleLabel.text))

    def _on_row(self, row: int) -> None:
        if not self._setting and row >= 0:
            self._describe()
            self._changed()

    def _describe(self) -> None:
        method = self.current()
        self.ui.stateLabel.setText(state_text(method["state"]))
        self.ui.descriptionLabel.setText(description(method))
        self.ui.citationLabel.setText(citation_text(method["citation"]))
        self.ui.bibtexButton.setVisible(bool(method["citation"]))
        self.ui.sampleButton.setVisible(bool(method["sample"]))
        self.ui.sampleLabel.setText(sample_data.expected(method))
        self.ui.sampleLabel.setVisible(False)


def matches(method: dict[str, Any], text: str) -> bool:
    """Whether every word of `text` is part of id, name, task or summary."""
    content = " ".join(method[f] for f in ("id", "name", "task", "summary")).lower()
    return all(word in content for word in text.lower().split())


def default_method(methods: list[dict[str, Any]]) -> str:
    """The method that a fresh panel shows: the first that runs, else the first; "" without methods."""
    runnable = [m["id"] for m in methods if m["state"] in RUNNABLE]
    return next(iter([*runnable, *(m["id"] for m in methods)]), "")


def state_text(state: str) -> str:
    """State of a method in words."""
    words = {
        "works": _("Works: tested on real images."),
        "experimental": _("Experimental: runs, but doesn't beat simpler methods yet."),
        "import only": _("Import only: runs with a published model that you import."),
        "planned": _("Planned: described here, but can't be run yet."),
    }
    return f"{MARKS[state]} {words[state]}"


def description(method: dict[str, Any]) -> str:
    """HTML: what it does, what it needs, what it gives, notes."""
    parts = [html.escape(method["summary"])]
    needs = ", ".join(title(i) for i in method["inputs"])
    parts.append(f"<b>{_('Needs')}:</b> {html.escape(needs)}")
    gives = ", ".join(readable(o["name"]) for o in method["outputs"])
    if gives:
        parts.append(f"<b>{_('Gives')}:</b> {html.escape(gives)}")
    if method["notes"]:
        parts.append(html.escape(method["notes"]))
    parts.append(_("Not for clinical use."))
    return "".join(f'<p style="margin:2px 0">{part}</p>' for part in parts)


def citation_text(citation: dict[str, Any] | None) -> str:
    """HTML of a citation with its link."""
    if not citation:
        return ""
    c = {key: html.escape(str(value)) for key, value in citation.items()}
    first = c["authors"].split(" and ")[0]
    authors = first + (" et al." if " and " in c["authors"] else "")
    text = f"{authors}: {c['title']}. {c['journal']}, {c['year']}."
    doi = c.get("doi")
    return text + (f' <a href="https://doi.org/{doi}">doi:{doi}</a>' if doi else "")

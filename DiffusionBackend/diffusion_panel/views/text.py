"""Texts: read-only, to be read in the panel."""

from __future__ import annotations

import qt


def widget(node):
    """A read-only box with the content of a text node; the text can be selected and copied."""
    box = qt.QTextEdit()
    box.setReadOnly(True)
    box.setPlainText(node.GetText() or "")
    return box

"""A sentence with an icon inside the panel: errors, problems, warnings. No pop-up, and no colour of its own."""

from __future__ import annotations

from typing import Any

PIXELS = 20


class Notice:
    """A frame that is hidden while there is nothing to say. icon : one of `qt.QStyle.SP_MessageBox…`."""

    def __init__(self, frame: Any, icon_label: Any, text_label: Any, icon: Any) -> None:
        self.frame, self.label = frame, text_label
        icon_label.setPixmap(frame.style().standardIcon(icon).pixmap(PIXELS, PIXELS))
        self.say("")

    def say(self, text: str) -> None:
        """Show a text; "" hides the notice."""
        self.label.setText(text)
        self.frame.setVisible(bool(text))

    def text(self) -> str:
        """What is shown."""
        return self.label.text

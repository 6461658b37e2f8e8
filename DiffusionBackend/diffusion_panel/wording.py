"""Words of the panel that are made from declarations: names, ranges, tooltips, durations."""

from __future__ import annotations

import html
from typing import Any

from slicer.i18n import tr as _

from .declarations import spoken

UPPER = {"hu", "ct", "mr", "id", "he", "dvh", "roi", "rf"}
WRITTEN_OUT = {"std": "standard deviation"}


def readable(name: str) -> str:
    """A declared name as words, translated: "metal_threshold" -> "Metal threshold", "reinsert_hu" -> "Reinsert HU"."""
    words = [w.upper() if w in UPPER else WRITTEN_OUT.get(w, w) for w in name.split("_")]
    return spoken(" ".join([words[0] if words[0].isupper() else words[0].capitalize(), *words[1:]]))


def number(value: float) -> str:
    """A number without needless digits: 2500.0 -> "2500", 0.4 -> "0.4"."""
    return str(value) if isinstance(value, int) else f"{value:.10g}"


def range_text(parameter: dict[str, Any]) -> str:
    """The values that a declared parameter may take, with its unit; "" for yes or no."""
    if parameter["type"] == "choice":
        return ", ".join(parameter["choices"])
    if parameter["type"] == "text":
        return _("at most {count} characters").format(count=parameter["longest"])
    if parameter["type"] == "boolean":
        return ""
    low, high = parameter["low"], parameter["high"]
    unit = parameter["unit"]
    if low is None and high is None:
        return unit
    if high is None:
        span = _("from {low}").format(low=number(low))
    elif low is None:
        span = _("up to {high}").format(high=number(high))
    else:
        span = _("{low} to {high}").format(low=number(low), high=number(high))
    return f"{span} {unit}".strip()


def default_text(parameter: dict[str, Any]) -> str:
    """The default of a declared parameter as shown to a person."""
    value = parameter["default"]
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    return number(value) if isinstance(value, (int, float)) else str(value)


def tooltip(parameter: dict[str, Any]) -> str:
    """Help, range, unit, default and the name that the console takes, as HTML, which Qt wraps."""
    lines = [html.escape(parameter["help"])]
    span = range_text(parameter)
    if span:
        lines.append(_("Range: {range}.").format(range=html.escape(span)))
    lines.append(_("Default: {default}.").format(default=html.escape(default_text(parameter))))
    lines.append(_("Name in scripts: {name}.").format(name=parameter["name"]))
    return "<p>" + "<br>".join(lines) + "</p>"


def wrapped(text: str) -> str:
    """A plain text as a tooltip that Qt wraps."""
    return f"<p>{html.escape(text)}</p>"


def duration(seconds: float) -> str:
    """Seconds as a person says them: "8 s", "3 min 20 s", "2 h 5 min"."""
    total = max(round(seconds), 1)
    if total < 60:
        return _("{s} s").format(s=total)
    if total < 3600:
        return _("{min} min {s} s").format(min=total // 60, s=total % 60)
    return _("{h} h {min} min").format(h=total // 3600, min=total % 3600 // 60)

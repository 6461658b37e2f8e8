"""A model's card for people: the cells of the table and a page with all fields. Takes any content of a card."""

from __future__ import annotations

import html
from typing import Any

from slicer.i18n import tr as _

from . import weights
from .weights import MB, Model
from .wording import number, readable

SHORT = 28  # letters of a cell
SHOWN_ABOVE = ("id", "domain", "licence", "attribution", "sha256", "schema", "source_file")


def columns() -> list[str]:
    """The titles of the table's columns."""
    about = [_("Model"), _("Size"), _("Licence"), _("Used by")]
    return [*about, _("Origin"), _("Trained on"), _("Validation"), _("sha256")]


def cells(model: Model) -> list[tuple[str, str]]:
    """Text and tooltip of the columns."""
    card = model.card
    texts = [
        model.id if not model.problem else f"⚠ {model.id}",
        _("{size} MB").format(size=f"{model.size / MB:.1f}"),
        plain(card.get("licence", "")),
        ", ".join(weights.uses(model)) or "–",
        model.origin,
        trained_on(card),
        validation(card),
        str(card.get("sha256", "")),
    ]
    tips = [model.problem or str(model.folder), *texts[1:]]
    return [(shortened(text, 12 if column == len(texts) - 1 else SHORT), tip)
            for column, (text, tip) in enumerate(zip(texts, tips))]  # fmt: skip


def page(model: Model) -> str:
    """All fields as HTML, what people look for first."""
    card = model.card
    rows = [
        (_("Used by"), ", ".join(weights.uses(model)) or _("no method yet")),
        (_("Licence"), plain(card.get("licence", _("unknown")))),
        (_("Acknowledged"), _acknowledgement(card) if card else ""),
        (_("Attribution"), plain(card.get("attribution", ""))),
        (_("Trained on"), trained_on(card)),
        (_("Validation"), validation(card)),
        (_("Origin"), model.origin),
        (_("Folder"), str(model.folder)),
        (_("Size"), _("{size} MB").format(size=f"{model.size / MB:.2f}")),
        (_("sha256"), plain(card.get("sha256", ""))),
        *((readable(str(key)), plain(value)) for key, value in card.items() if key not in SHOWN_ABOVE),
    ]
    lines = [f"<b>{html.escape(name)}:</b> {html.escape(value)}" for name, value in rows if value]
    problem = [f"<b>⚠ {html.escape(model.problem)}</b>"] if model.problem else []
    head = f"<h3>{html.escape(model.id)}</h3>"
    return head + "".join(f'<p style="margin:2px 0">{line}</p>' for line in [*problem, *lines])


def trained_on(card: dict[str, Any]) -> str:
    """Anatomy and size of pixels that the model knows, "" where the card doesn't say."""
    domain = card.get("domain")
    if not isinstance(domain, dict):
        return plain(domain)
    pixel = domain.get("pixel_mm")
    parts = [plain(domain.get("anatomy", ""))]
    if isinstance(pixel, list) and len(pixel) == 2:
        parts.append(_("pixels of {low} to {high} mm").format(low=plain(pixel[0]), high=plain(pixel[1])))
    others = {key: value for key, value in domain.items() if key not in ("anatomy", "pixel_mm")}
    return "; ".join(part for part in [*parts, plain(others)] if part)


def validation(card: dict[str, Any]) -> str:
    """The figures of the validation on the card, "" where there are none."""
    training = card.get("training")
    return plain(training.get("validation", "")) if isinstance(training, dict) else ""


def plain(value: Any, depth: int = 0) -> str:
    """A value of a card as text: "name value" pairs for dictionaries, lists with commas."""
    if value is None or depth > 8:
        return ""
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, float):
        return number(float(f"{value:.4g}"))
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(v, depth + 1)}" for key, v in value.items())
    if isinstance(value, list):
        nested = any(isinstance(v, (dict, list)) for v in value)
        return ("; " if nested else ", ").join(plain(v, depth + 1) for v in value)
    return str(value)


def shortened(text: str, length: int) -> str:
    """The beginning of a text, with … where it goes on."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _acknowledgement(card: dict[str, Any]) -> str:
    at = weights.acknowledged_at(card)
    return at or (_("not needed") if weights.acknowledged(card) else _("not yet: needed before the first use"))

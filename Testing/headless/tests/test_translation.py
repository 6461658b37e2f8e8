"""Every text of the panels goes through the translation: each is marked by a made-up language, for every method."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from apilock import sources

REPOSITORY = Path(__file__).resolve().parents[3]
MODULES = [REPOSITORY / name / f"{name}.py" for name in sources.MODULES]
CITATIONS = re.compile("citationLabel|acknowledgementText")  # authors and titles stay as they were published
MARKED = """
import json, sys
sys.path.insert(0, sys.argv[1])
import headless
headless.start()
import slicer.i18n
slicer.i18n.tr = lambda text: f"\\u27e6{text}\\u27e7"
slicer.i18n.translate = lambda context, text: f"\\u27e6{text}\\u27e7"
import qt, slicer

def shown(widget):
    for name in ("text", "toolTip", "placeholderText", "specialValueText", "suffix", "accessibleName", "noneDisplay"):
        value = getattr(widget, name, "")
        yield f"{type(widget).__name__} {widget.objectName} {name}", value if isinstance(value, str) else ""
    count = widget.count if isinstance(widget, (qt.QComboBox, qt.QListWidget)) else 0
    for row in range(count):
        item = widget.itemText(row) if isinstance(widget, qt.QComboBox) else widget.item(row).text()
        yield f"{type(widget).__name__} {widget.objectName} entry", item
    for column in range(widget.columnCount if isinstance(widget, qt.QTableWidget) else 0):
        header = widget.horizontalHeaderItem(column)
        yield f"{type(widget).__name__} {widget.objectName} header", header.text() if header else ""

found = {}
for file in sys.argv[2:]:
    module = headless.load_module(file)
    module.widgetRepresentation().enter()
    for name in ("title", "helpText", "acknowledgementText"):
        found[f"module {name} {module.name}"] = getattr(module, name)
    panel = slicer.util.getModuleWidget(module.name)
    for method in panel.chooser.methods:
        panel.choose(method["id"])
        panel.check()
        slicer.app.processEvents()
        for widget in slicer.util.findChildren(panel.panel):
            found.update({f"{text}|{place}": text for place, text in shown(widget)})
    panel.cleanup()
print(json.dumps(found))
headless.leave(1 if headless.errors.take() else 0)
"""


def declared_words() -> set[str]:
    """What declarations hold that no language changes: names, units, values."""
    words = set()
    for method in json.loads((REPOSITORY / "Resources" / "methods.json").read_text(encoding="utf-8"))["methods"]:
        words |= {method["id"], method["name"], *method["presets"], *(method["citation"] or {}).values()}
        words |= {slot["default"] for slot in method["models"]}
        for part in (*method["inputs"], *method["outputs"], *method["parameters"]):
            words |= {part["name"], part.get("unit"), *part.get("choices", ())}
    for card in (REPOSITORY / "Resources" / "Models").glob("*/card.json"):
        words.add(json.loads(card.read_text(encoding="utf-8"))["attribution"])  # as its licence demands
    return {str(w) for w in words if w}


@pytest.fixture(scope="module")
def texts():
    """Place -> text, as a person sees it in the made-up language."""
    command = [sys.executable, "-c", MARKED, str(REPOSITORY / "Testing"), *map(str, MODULES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_is_shown_untranslated(texts):
    ui = {e.text or "" for shell in sources.shells() for e in shell.root.iter("string")}  # translated by Qt itself
    words = sorted(declared_words() | {"custom", "DiffusionModels"}, key=len, reverse=True)
    slicers = re.compile("None$|Create new ")  # entries of Slicer's own node selectors
    left = {}
    for place, text in texts.items():
        ours = text not in ui and not slicers.match(text) and not CITATIONS.search(place)
        rest = "" if not ours else html.unescape(re.sub(r"<[^>]*>", " ", text))
        while (shorter := re.sub("\u27e6[^\u27e6\u27e7]*\u27e7", " ", rest)) != rest:  # also one inside another
            rest = shorter
        for word in words:
            rest = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", " ", rest)
        if re.search(r"[A-Za-z]{2,}", rest):
            left[place] = rest
    assert left == {}


def test_the_texts_of_declarations_are_among_them(texts):
    assert sum("\u27e6" in text for text in texts.values()) > 300
    everything = html.unescape("\n".join(texts.values()))
    method = json.loads((REPOSITORY / "Resources" / "methods.json").read_text(encoding="utf-8"))["methods"][0]
    for text in (method["summary"], method["task"], method["parameters"][0]["help"]):
        assert f"\u27e6{text}\u27e7" in everything

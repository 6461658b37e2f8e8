"""Make `Documentation/tutorial.md` and its pictures: every method that works, on its sample data, as a user clicks.

Runs on the stand-in for Slicer (see headless/README.md): `python Testing/tutorial.py`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "Documentation" / "tutorial.md"
PICTURES = REPOSITORY / "Resources" / "Screenshots"
MODULES = {"reconstruction": "DiffusionReconstruction", "segmentation": "DiffusionSegmentation",
           "synthesis": "DiffusionSynthesis"}  # fmt: skip
HEAD = """# Tutorial

Each method on its sample data: what to click, how long it takes, what to expect. Made by `python Testing/tutorial.py`; the pictures
are of the headless host (real MRML and views, stand-in widgets), not of the Slicer application. Times are those of {processors}
processor cores without a graphics card. Not for clinical use.

"""
STEPS = """## {name} ({id}): {task}

{summary}

1. Open the module *{module}* and choose **{name}** in the list of methods.
2. Press **Load sample data**. {title}: the inputs and the reference are generated, chosen and shown.
3. Press **Apply** with the preset *standard*. It took {seconds:.0f} s here.
4. The views show input, result and what changed at one window; the table *metrics* holds the error against the reference.

{numbers}

![{name} on its sample data, headless host](../Resources/Screenshots/{picture})

"""


def main() -> int:
    """Run every method; returns the exit code."""
    import headless

    headless.start(testing=False)
    import slicer

    parts = [HEAD.format(processors=os.cpu_count())]
    for module, name in MODULES.items():
        panel = headless.load_module(REPOSITORY / name / f"{name}.py").widgetRepresentation()
        panel.enter()
        widget = slicer.util.getModuleWidget(name)
        for method in widget.chooser.methods:
            if method["sample"]:
                parts.append(chapter(widget, panel, method, module, name))
                slicer.mrmlScene.Clear(0)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("".join(parts).rstrip() + "\n", encoding="utf-8")
    return 0


def chapter(widget, panel, method: dict, module: str, name: str) -> str:
    """Load, run and photograph one method; its part of the page."""
    from diffusion_panel.results import METRICS

    widget.choose(method["id"])
    finished(widget, widget.load_sample())
    settle(widget)
    started = time.monotonic()
    job = finished(widget, widget.apply())
    seconds = time.monotonic() - started
    picture = f"tutorial-{method['id']}.png"
    widget.results.compare()
    photograph(widget, panel, PICTURES / picture)
    numbers = measured(job.nodes[METRICS])
    words = {key: method[key] for key in ("id", "name", "task", "summary")}
    return STEPS.format(**words, module=name, title=method["sample"]["title"], seconds=seconds, numbers=numbers,
                        picture=picture)  # fmt: skip


def finished(widget, job):
    """Wait for a job; its failure is an exception."""
    widget.logic.queue.wait(job)
    if job.state != "done":
        raise job.failure()
    return job


def settle(widget, seconds: float = 1.0) -> None:
    """Handle events until checks and estimate that follow a change of the panel are there."""
    import slicer

    end = time.monotonic() + seconds
    while time.monotonic() < end or not all(job.is_over for job in widget.logic.jobs):
        slicer.app.processEvents()
        time.sleep(0.02)


def measured(node) -> str:
    """The errors over all slices of a node with metrics, as a Markdown table."""
    table = node.GetTable()
    lines = ["| image | RMSE (HU) | bias (HU) | SSIM |", "|---|---|---|---|"]
    columns = {name: table.GetColumnByName(name) for name in ("image", "slice", "rmse", "bias", "ssim")}
    for row in range(table.GetNumberOfRows()):
        cell = {name: column.GetValue(row) for name, column in columns.items()}
        if cell["slice"] == "all":
            rmse, bias, ssim = (float(cell[name]) for name in ("rmse", "bias", "ssim"))
            lines.append(f"| {cell['image']} | {rmse:.1f} | {bias:.1f} | {ssim:.3f} |")
    return "\n".join(lines)


def photograph(widget, panel, file: Path) -> None:
    """The window with the panel and the views."""
    import slicer
    from headless.mainwindow import MainWindow
    from PySide6 import QtCore, QtGui

    settle(widget)
    window = MainWindow(slicer.app.layoutManager(), panel)
    window.photograph(str(file), 1300, 820)
    window.take_apart()
    plain = QtCore.Qt.ImageConversionFlag.ThresholdDither
    QtGui.QImage(str(file)).convertToFormat(QtGui.QImage.Format.Format_Indexed8, plain).save(str(file))  # half the size


if __name__ == "__main__":
    code = main()
    sys.modules["headless"].leave(code)

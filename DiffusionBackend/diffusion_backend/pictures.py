"""Pictures to look at: images side by side at one window, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

SOFT_TISSUE_HU = (-160.0, 240.0)  # width 400, level 40
CHANGE_HU = (-200.0, 200.0)
UNCERTAINTY_HU = (0.0, 100.0)
Window = tuple[float, float]


def montage(path: Path, rows: Sequence[Mapping[str, np.ndarray]], windows: Mapping[str, Window] | Window) -> None:
    """Write a montage: each row maps titles to images [H, W]; titles stand above the first row.

    windows : (low, high) of the grey scale, for all or by title; in the latter the key "" is the default.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(3 * columns, 3.15 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    for r, row in enumerate(rows):
        for c, (title, image) in enumerate(row.items()):
            low, high = windows.get(title, windows[""]) if isinstance(windows, Mapping) else windows
            axes = figure.add_subplot(len(rows), columns, r * columns + c + 1)
            axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axes.set_axis_off()
            if r == 0 or title not in rows[0]:
                axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=100)

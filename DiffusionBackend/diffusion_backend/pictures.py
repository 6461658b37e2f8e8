"""Pictures to look at: images side by side at one window, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

SOFT_TISSUE_HU = (-160.0, 240.0)  # width 400, level 40
CHANGE_HU = (-200.0, 200.0)
UNCERTAINTY_HU = (0.0, 100.0)
OUTLINE = "orange"
Window = tuple[float, float]


def montage(path: Path, rows: Sequence[Mapping[str, np.ndarray]], windows: Mapping[str, Window] | Window, *,
            outlines: Sequence[np.ndarray] = (), inches: float = 3.0, greys: int = 0) -> None:
    """Write a montage: each row maps titles to images [H, W]; titles stand above the first row.

    windows : (low, high) of the grey scale, for all or by title; in the latter the key "" is the default.
    outlines : a mask [H, W] per row whose border is drawn into each of its images. inches : width of an image, 100
    pixels each; larger images are averaged. greys : reduce the picture to so many, which makes a small file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    titled = sum(r == 0 or not row.keys() <= rows[0].keys() for r, row in enumerate(rows))
    figure = Figure(figsize=(inches * columns, inches * len(rows) + 0.2 * titled), layout="constrained")
    FigureCanvasAgg(figure)
    for r, row in enumerate(rows):
        for c, (title, image) in enumerate(row.items()):
            low, high = windows.get(title, windows[""]) if isinstance(windows, Mapping) else windows
            axes = figure.add_subplot(len(rows), columns, r * columns + c + 1)
            axes.imshow(image, cmap="gray", vmin=low, vmax=high)
            if r < len(outlines) and outlines[r].any():
                axes.contour(outlines[r], levels=[0.5], colors=OUTLINE, linewidths=0.5)
            axes.set_axis_off()
            if r == 0 or title not in rows[0]:
                axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=100)
    if greys:
        _reduce(path, greys)


def _reduce(path: Path, greys: int) -> None:
    """Store the picture in `path` with evenly spaced grey levels and shades of the outline's colour alone."""
    from matplotlib.colors import to_rgb
    from PIL import Image

    levels = np.linspace(0, 255, greys)[:, None] * np.ones(3)
    drawn = np.array(to_rgb(OUTLINE))
    shades = [255 * (part * drawn + (1 - part) * base) for part in (1.0, 0.6, 0.3) for base in (0, 1)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.rint([*levels, *shades]).astype(np.uint8).tobytes())
    with Image.open(path) as picture:
        fewer = picture.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
    fewer.save(path, optimize=True)

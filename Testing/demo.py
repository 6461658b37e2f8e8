"""`make demo`: the main job all the way, from a CT with metal to a scene that Slicer opens.

The panel's own logic runs the methods on nodes of the stand-in for Slicer (see headless/README.md). Beside the volumes,
the montage and the tables of `python -m diffusion_backend demo` it writes `scene.mrb`, `panel.png`, `window.png`,
`slices.png` and `3d.png`. Where Slicer's core isn't to be had, the demo of the engine alone is made.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from diffusion_backend import demo
from diffusion_backend.events import Bar, duration
from diffusion_backend.io import images
from diffusion_backend.io.folders import temporary

MODULE = Path(__file__).resolve().parents[1] / "DiffusionReconstruction" / "DiffusionReconstruction.py"
PACKAGES = "libgl1 libegl1 libglib2.0-0 libxkbcommon0 libfontconfig1 libdbus-1-3 libgssapi-krb5-2 fonts-dejavu-core"


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, help="a CT with metal; without it a generated phantom")
    parser.add_argument("--output", type=Path, default=Path("demo"))
    options = parser.parse_args()
    try:
        import headless

        headless.start(testing=False)
    except (ImportError, OSError) as error:
        print(f"Slicer's core can't be loaded ({error}); the demo goes on without panel and scene.", file=sys.stderr)
        print(f"On Debian it needs: apt-get install {PACKAGES}", file=sys.stderr)
        demo.demo(options.output, options.input)
        return 0
    started = time.perf_counter()
    show(options.output.absolute(), options.input)
    print(f"Done in {duration(time.perf_counter() - started)}. Volumes, tables, scene.mrb and pictures are in "
          f"'{options.output}'.")  # fmt: skip
    return 0


def show(output: Path, source: Path | None) -> None:
    """Run the methods through the panel's logic, write everything into `output`."""
    import headless
    import slicer

    module = headless.load_module(MODULE)
    panel = module.widgetRepresentation()
    panel.enter()
    widget = slicer.util.getModuleWidget(MODULE.stem)
    with temporary(output.parent, ".diffusion-") as work:
        nodes = load(demo.make_example(source).items(), work)
        made = {method: run(widget, method, nodes) for method in demo.METHODS}
        outputs = {name: stored(node, work / f"{name}.nrrd") for name, node in nodes.items()}
        for method, results in made.items():
            for name in demo.SHOWN:
                if name in results:
                    file = work / f"{demo.named(method, name)}.nrrd"
                    outputs[demo.named(method, name)] = stored(results[name], file)
        demo.present(outputs, output)
    photograph(widget, panel, output)
    if not slicer.util.saveScene(str(output / "scene.mrb")):
        raise OSError(f"The scene could not be written to '{output / 'scene.mrb'}'.")


def load(items: dict, work: Path) -> dict:
    """The example as nodes, through files, as a user opens it."""
    import slicer

    nodes = {}
    for name, item in items.items():
        file = work / f"{name}.{'seg.nrrd' if name == 'metal' else 'nrrd'}"
        images.write_item(item, file)
        read = slicer.util.loadSegmentation if name == "metal" else slicer.util.loadVolume
        nodes[name] = read(str(file))
        nodes[name].SetName(name)
    return nodes


def run(widget, method: str, nodes: dict) -> dict:
    """Choose the method in the panel, press Apply, wait. Returns output name -> node."""
    widget.choose(method)
    bar = Bar(sys.stderr)
    request = widget.request(inputs={"ct": nodes["ct"]}, reference=nodes.get("reference"))
    request["samples"] = demo.SAMPLES.get(method, 1)
    widget.take(request)
    print(f"{method.upper()}: {widget.chooser.current()['summary']}", file=sys.stderr)
    job = widget.apply()
    if job is None:
        raise RuntimeError("; ".join(widget.problems()))
    job.changed.connect(lambda job: bar(job.progress) if job.progress and not job.is_over else None)
    widget.logic.queue.wait(job)
    if job.state != "done":
        raise job.failure()
    return job.nodes


def stored(node, file: Path):
    """Save a node as Slicer does and read the file as the engine does."""
    import slicer

    if not slicer.util.saveNode(node, str(file)):
        raise OSError(f"The node could not be written to '{file.name}'.")
    if node.IsA("vtkMRMLSegmentationNode"):
        return images.read_segmentation(file)
    return images.read_volume(file, "HU")


def photograph(widget, panel, output: Path) -> None:
    """Panel, window, slice views and 3D view of the last run as PNG."""
    import headless
    import slicer
    from headless.mainwindow import MainWindow

    settle(widget)
    widget.results.compare()
    headless.grab(panel, output / "panel.png", width=420)
    window = MainWindow(slicer.app.layoutManager(), panel)
    window.photograph(str(output / "window.png"), 1500, 950)
    window.take_apart()
    views = slicer.app.layoutManager()
    headless.grab(views.viewport(), output / "slices.png", 1500, 950)
    widget.results.show_3d()
    three_d = views.threeDWidget(0).threeDView()
    camera = three_d.cameraNode()
    camera.GetCamera().Elevation(-50)  # from in front and above: the phantom is a thin slab
    camera.GetCamera().Zoom(1.6)
    camera.ResetClippingRange()
    headless.grab(three_d, output / "3d.png", 800, 600)


def settle(widget, seconds: float = 2.0) -> None:
    """Handle events until the estimate that follows a change of the panel is there."""
    import slicer

    end = time.monotonic() + seconds
    while time.monotonic() < end or not all(job.is_over for job in widget.logic.jobs):
        slicer.app.processEvents()
        time.sleep(0.02)


if __name__ == "__main__":
    code = main()
    if "headless" in sys.modules:
        sys.modules["headless"].leave(code)
    sys.exit(code)

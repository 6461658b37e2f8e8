"""Run a method on many studies inside Slicer, without a window:

    Slicer --no-main-window --python-script DiffusionBatch.py LIST --method li --output FOLDER [--scene] [...]

The arguments are those of `python -m diffusion_backend batch` (see its --help), which does the work with the engine's
Python of the panel's settings; the exit code is the same. --scene also writes FOLDER/ID/scene.mrb for each study: its
inputs and results as the panel makes them. The same command goes on where an earlier one stopped."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue

import slicer
from slicer.i18n import tr as _

if importlib.util.find_spec("diffusion_panel") is None:  # installed, the packages lie two folders up; else in the tree
    above = Path(__file__).resolve().parents[2]
    sys.path += [str(f) for f in (above, above / "DiffusionBackend") if (f / "diffusion_panel").is_dir()]

from diffusion_panel import process, study_scene

SCENE = "--scene"
POLL_SECONDS = 0.05
END_SECONDS = 20.0  # how long a batch may take to stop when asked


def run(arguments: list[str]) -> int:
    """Run the batch with these arguments; returns its exit code. Its end comes with ours, however we end."""
    own = [a for a in arguments if a != SCENE]
    command = [process.engine_python(), "-m", "diffusion_backend", "batch", *own, "--progress", "json", "--parent-pipe"]
    child = subprocess.Popen(
        command, env=process.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
        errors="replace", start_new_session=True,
    )  # fmt: skip
    as_json = "json" in own
    try:
        for line in lines(child):
            events, rest = process.parse(line)
            for event in events:
                text = json.dumps(event) if as_json else event.get("text", "")
                if text:
                    print(text, flush=True)
                if SCENE in arguments and event["event"] == "study" and event["status"] == "done":
                    write_scene(event)
            if rest:
                print(rest, flush=True)
        return child.wait()
    finally:
        end(child)


def lines(child: subprocess.Popen) -> Iterator[str]:
    """What the child prints, line by line; the application handles its events meanwhile."""
    queue: Queue = Queue()

    def read() -> None:
        for line in child.stdout:
            queue.put(line)
        queue.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = queue.get_nowait()
        except Empty:
            slicer.app.processEvents()
            time.sleep(POLL_SECONDS)
            continue
        if line is None:
            return
        yield line


def end(child: subprocess.Popen) -> None:
    """Ask the batch to stop by closing its input, then end it."""
    child.stdin.close()
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.end_tree(child)


def write_scene(event: dict) -> None:
    """Write the scene of a study, unless it is there; a study whose scene can't be written is done all the same."""
    try:
        study_scene.write(Path(event["folder"]), event["inputs"])
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        message = _("The scene of '{study}' couldn't be written: {reason}.")
        print(message.format(study=event["study"], reason=error), flush=True)


if __name__ == "__main__":
    slicer.util.exit(run(sys.argv[1:]))

"""What the tests of batches share: lists of small volumes, the results of single runs, runners that can be killed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import head
import numpy as np
import psutil
import SimpleITK as sitk

from diffusion_backend.__main__ import main

QUICK = ("--set", "views=120", "--set", "bins=121", "--threads", "1")
HANG_SECONDS = 60.0


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}


def volumes(folder: Path, count: int) -> Path:
    """A folder with `count` different small volumes."""
    for n in range(count):
        array = head.hu(top=4000.0 + 100 * n)
        array[array > 600] += n
        head.write(folder / f"head {n:02d}.nrrd", array)
    return folder


def right(folder: Path) -> dict[str, np.ndarray]:
    """File name -> `corrected` of a single run in this process."""
    found = {}
    for file in sorted(folder.glob("*.nrrd")):
        out = folder.parent / "single" / file.stem
        assert main(["run", "li", "--input", str(file), "--output", str(out), *QUICK, "--progress", "json"]) == 0
        found[file.stem] = corrected(out)
    return found


def corrected(folder: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "corrected.nrrd")))


def summary(out: Path) -> list[dict[str, str]]:
    with open(out / "summary.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def stamps(out: Path) -> dict[str, tuple[int, int]]:
    """What changes when a study is computed again: id -> file number and time of its `result.json`."""
    found = {}
    for file in out.glob("*/result.json"):
        found[file.parent.name] = (file.stat().st_ino, file.stat().st_mtime_ns)
    return found


def check(out: Path, expected: dict[str, np.ndarray], kept: dict[str, tuple[int, int]], told: str) -> None:
    """Every study right, one row each, nothing left behind, and what was done at a kill is untouched."""
    assert [(r["id"], r["status"], r["exit_code"]) for r in summary(out)] == [(n, "done", "0") for n in expected], told
    for name, array in expected.items():
        assert np.array_equal(corrected(out / name), array), (name, told)
    assert kept.items() <= stamps(out).items(), told
    assert sorted(p.name for p in out.iterdir()) == sorted([*expected, "summary.csv"]), told


class Runner:
    """`batch` in a process of its own; its events are read one by one."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "diffusion_backend", "batch", *map(str, arguments), "--progress", "json"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True, start_new_session=True
        )
        self.seen: list[dict] = []

    def next(self) -> dict | None:
        """The next event, None at the end."""
        line = self.process.stdout.readline()
        self.seen += [json.loads(line)] if line else []
        return self.seen[-1] if line else None

    def until(self, condition) -> None:
        """Read events until the condition on one holds."""
        while True:
            event = self.next()
            assert event, f"the batch ended: {self.seen[-3:]}"
            if condition(event):
                return

    def computed(self, number: int) -> None:
        """Read until so many studies were computed."""
        for _ in range(number):
            self.until(lambda event: event["event"] == "study" and not event["already"])

    def end(self) -> int:
        """Read all; the exit code."""
        while self.next():
            pass
        return self.process.wait(HANG_SECONDS)

    def kill(self, children: bool = True) -> None:
        """SIGKILL, with or without what it has started."""
        kill_tree(self.process.pid) if children else self.process.kill()
        self.process.wait(HANG_SECONDS)


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all below it, the upper ones first: none is started again."""
    parent = psutil.Process(pid)
    below = parent.children(recursive=True)
    for process in (parent, *below):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(below, HANG_SECONDS)


def until(condition) -> None:
    limit = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < limit, "the condition didn't come true"
        time.sleep(0.02)

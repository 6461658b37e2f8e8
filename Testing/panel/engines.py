"""What the tests of processes, jobs and logic share: a queue with the dummy engine, waiting, processes by id."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer

from diffusion_panel import process, queueing
from diffusion_panel.jobs import Job, Transfer
from diffusion_panel.recovery import Folders

DUMMY = Path(__file__).with_name("dummy_engine.py")
HANG_SECONDS = 15.0
_others: set[int] = set()


def dummy_worker(*arguments: str) -> process.Worker:
    return process.Worker([sys.executable, str(DUMMY), *arguments])


class ArrayTransfer(Transfer):
    """A job with one array and without a scene."""

    def __init__(self, parameters: dict[str, Any], array: np.ndarray | None = None, plan_only: bool = False) -> None:
        self.array = np.arange(24, dtype=np.float32).reshape(2, 3, 4) if array is None else array
        self.job = {"schema": 1, "method": "dummy", "parameters": parameters, "preset": "standard", "models": {},
                    "seed": 0, "samples": 1, "threads": None, "batch": None, "plan_only": plan_only,
                    "inputs": {"ct": {"file": "ct.npy", "kind": "volume"}}}  # fmt: skip
        self.taken: dict[str, Any] = {}

    def export(self, part: int) -> Iterator[None]:
        self.arrays = {"ct.npy": self.array}
        yield

    def take(self, record: dict[str, Any], arrays: dict[str, np.ndarray], part: int) -> Iterator[None]:
        yield
        self.taken.update(arrays)

    def nodes(self) -> dict[str, Any]:
        return self.taken


def make_queue(root: Path, *arguments: str) -> queueing.Queue:
    return queueing.Queue(Folders(root / "DiffusionModels"), dummy_worker(*arguments))


def add(queue: queueing.Queue, plan_only: bool = False, array: np.ndarray | None = None, **parameters: Any) -> Job:
    """Queue a job that asks the dummy engine to `act`."""
    job = Job(ArrayTransfer(parameters, array, plan_only), method="dummy", plan_only=plan_only)
    queue.add(job)
    return job


def until(condition: Callable[[], Any], seconds: float = HANG_SECONDS) -> None:
    """Handle events until the condition holds; fails after the limit."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "the condition didn't come true"
        slicer.app.processEvents()
        time.sleep(0.005)


def exists(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(autouse=True)
def others() -> Iterator[None]:
    """What other tests have left running (warm engines of modules) doesn't count as a child of this one."""
    _others.clear()
    _others.update(children())
    yield


def children() -> set[int]:
    """Ids of the running processes below this one that the test has started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found, more = set(), {os.getpid()}
    while more:
        more = {child for child, parent in parents.items() if parent in more} - found
        found |= more
    return {child for child in found - _others if exists(child)}


def folders_left(queue: queueing.Queue) -> list[str]:
    """What is left below the folder of jobs."""
    root = queue.folders.root
    return sorted(p.name for p in root.iterdir()) if root.exists() else []

"""How long the application can't handle events while a method runs: the largest gap of a 10 ms timer.

    python Testing/benchmarks/event_loop.py [METHOD] [--shape 64 256 256] [--set NAME=VALUE]

The panel's logic runs the method on the stand-in of the application with the real engine. The gap of the idle timer,
measured first, tells what this machine adds by itself. Aim: at most 100 ms. Also printed: how long the copy of a large
volume takes on the GUI thread (512 × 512 × 300 int16, aim 200 ms).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "Testing"), str(REPOSITORY / "DiffusionBackend")]
TICK_MS = 10
IDLE_SECONDS = 2.0


class Gaps:
    """Time between the ticks of a timer, and what the job was doing in the largest of each state."""

    def __init__(self) -> None:
        import qt

        self.state, self.largest = "idle", {}
        self._last = time.perf_counter()
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.connect("timeout()", self._tick)
        self._timer.start()

    def _tick(self) -> None:
        now = time.perf_counter()
        gap = 1000 * (now - self._last)
        self.largest[self.state] = max(self.largest.get(self.state, 0.0), gap)
        self._last = now

    def follow(self, job) -> None:
        """The gap that ends now belongs to the state that the job had until now."""
        self._tick()
        self.state = job.state


def phantom(shape: list[int]) -> np.ndarray:
    """Air, a cylinder of water and a metal pin in two slices, HU."""
    slices, rows, columns = shape
    y, x = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    volume = np.full(shape, -1000, np.int16)
    volume[:, x**2 + y**2 < 0.7] = 40
    volume[slices // 2 : slices // 2 + 2, (x - 0.3) ** 2 + y**2 < 0.002] = 8000
    return volume


def measure(method: str, shape: list[int], params: dict[str, str]) -> dict[str, float]:
    """Largest gap in ms of each state of the job."""
    import slicer

    from diffusion_panel.logic import DiffusionLogic

    class BenchmarkLogic(DiffusionLogic):
        """The logic needs a module's name."""

    gaps, logic = Gaps(), BenchmarkLogic()
    volume = slicer.util.addVolumeFromArray(phantom(shape), ijkToRAS=np.diag([-1.0, -1.0, 2.0, 1.0]), name="volume")
    idle(IDLE_SECONDS)
    gaps.largest.clear()
    idle(IDLE_SECONDS)
    job = logic.run(method, {"ct": volume}, params, wait=False)
    job.changed.connect(gaps.follow)
    loop(lambda: job.is_over)
    logic.shutdown()
    if job.state != "done":
        raise SystemExit(f"The run failed: {job.message} {job.remedy}")
    return gaps.largest


def idle(seconds: float) -> None:
    """The event loop with nothing to do."""
    end = time.monotonic() + seconds
    loop(lambda: time.monotonic() > end)


def loop(over) -> None:
    """The event loop of the application, until `over()`."""
    import slicer

    while not over():
        slicer.app.processEvents()
        time.sleep(0.001)


def copy_seconds() -> float:
    """Seconds of the copy of a large volume on the GUI thread, the second of two."""
    import slicer

    from diffusion_panel import exchange

    volume = slicer.util.addVolumeFromArray(np.zeros((300, 512, 512), np.int16))
    for _ in range(2):
        start = time.perf_counter()
        exchange.export("volume", volume, unit="HU")
        seconds = time.perf_counter() - start
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", nargs="?", default="li")
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 256, 256], metavar=("K", "J", "I"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings")
    arguments = parser.parse_args()
    import headless

    headless.start()
    params = dict(pair.split("=", 1) for pair in arguments.settings)
    gaps = measure(arguments.method, arguments.shape, params)
    for state, gap in gaps.items():
        print(f"{state:<10} largest gap {gap:6.1f} ms")
    print(f"largest gap of a run of {arguments.method} on {' × '.join(map(str, arguments.shape))}: "
          f"{max(gap for state, gap in gaps.items() if state != 'idle'):.1f} ms")  # fmt: skip
    print(f"copy of 512 × 512 × 300 int16 on the GUI thread: {1000 * copy_seconds():.0f} ms")
    headless.leave(0)


if __name__ == "__main__":
    main()

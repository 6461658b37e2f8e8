"""A warm process: reads paths of job folders from its standard input, one a line, and runs them one after the other.

It keeps at most one model bundle loaded, ends after ten idle minutes, and stops at once (run included) when the pipe
closes.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from .events import JsonLines, Stop, guarded
from .job import run_job

IDLE_SECONDS = 600.0
POLL_SECONDS = 0.5  # a signal is noticed this late while idle


def main(stdin: TextIO | None = None, stdout: TextIO | None = None, idle_seconds: float = IDLE_SECONDS) -> int:
    """Serve until the pipe closes, a signal comes or nothing has come for `idle_seconds`. Returns 0, or 5 when a run
    was stopped."""
    stop = Stop()
    stop.on_signals()
    paths: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(stdin or sys.stdin, paths, stop), daemon=True).start()
    out = stdout or sys.stdout
    JsonLines(out)({"event": "ready"})
    deadline = time.monotonic() + idle_seconds
    while not stop() and time.monotonic() < deadline:
        try:
            path = paths.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        code = serve(Path(path), out, stop)
        if stop():
            return code
        deadline = time.monotonic() + idle_seconds
    return 0


def serve(folder: Path, out: TextIO, stop: Stop) -> int:
    """Run one job; its events carry the job's path, the last one says how it ended."""
    report = JsonLines(out, job=str(folder))
    code = guarded(lambda: run_job(folder, report, stop), report)
    report({"event": "end", "exit_code": code})
    return code


def _read(stream: TextIO, paths: queue.Queue[str], stop: Stop) -> None:
    for line in stream:
        if line.strip():
            paths.put(line.strip())
    stop.flag.set()

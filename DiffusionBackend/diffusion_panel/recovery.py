"""Job folders: made for the owner alone, written and read by threads, removed after use, found again after a crash.

A folder belongs to a living application while the lock of its file `owner` is held; the system frees the lock when the
process ends, however it ends. What counts as a result is the folder `result` with its `result.json` alone: the engine
renames it when complete."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from slicer.i18n import tr as _

JOB, RESULT, CANCEL, OWNER = "job.json", "result.json", "cancel", "owner"
KEEP_DAYS = 14
FRESH_SECONDS = 10.0  # a folder as young as this may be about to get its lock
DAY = 86400.0
CHUNK_BYTES = 32 << 20  # a cancelled export ends within one of these


class Stopped(Exception):
    """The work of a thread was cancelled."""


@dataclass(frozen=True)
class Entry:
    """A complete result that no scene holds yet. `finished` is the time (seconds since 1970) of its last change."""

    folder: Path
    method: str
    finished: float
    outputs: tuple[str, ...]


class Folders:
    """The job folders below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._owned: dict[Path, BinaryIO] = {}
        self._left: set[Path] = set()  # files that were still in use (Windows): tried again later

    def create(self, name: str) -> Path:
        """A new folder that only this user may enter. Raises OSError where the disk doesn't allow it."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_own(self.root)
        folder = self.root / name
        folder.mkdir(mode=0o700)
        try:
            owner = (folder / OWNER).open("wb")
            _lock(owner)
            self._owned[folder] = owner
        except OSError:
            self.remove(folder)
            raise
        return folder

    def release(self, folder: Path) -> None:
        """Leave the folder to `recoverable`."""
        owner = self._owned.pop(folder, None)
        if owner:
            owner.close()

    def remove(self, folder: Path) -> None:
        """Remove a folder; its result stops to count at once."""
        self.release(folder)
        self._left.add(folder)
        for left in list(self._left):
            with suppress(OSError):
                (left / "result" / RESULT).unlink(missing_ok=True)
            shutil.rmtree(left, ignore_errors=True)
            if not left.exists():
                self._left.discard(left)

    def clean(self) -> None:
        """Remove what nobody will ask for: folders without a result or older than KEEP_DAYS, unless their owner
        lives."""
        for folder in self._abandoned():
            with suppress(OSError):
                age = time.time() - _finished(folder)
                if age > (KEEP_DAYS * DAY if is_complete(folder) else FRESH_SECONDS):
                    self.remove(folder)

    def recoverable(self) -> list[Entry]:
        """Complete results of applications that have ended, the newest first."""
        entries = []
        for folder in self._abandoned():
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                record = json.loads((folder / "result" / RESULT).read_text(encoding="utf-8"))
                entries.append(Entry(folder, record["method"]["id"], _finished(folder), tuple(record["outputs"])))
        return sorted(entries, key=lambda e: -e.finished)

    def _abandoned(self) -> list[Path]:
        with suppress(OSError):
            return [f for f in sorted(self.root.iterdir()) if f.is_dir() and f not in self._owned and not _lives(f)]
        return []


class Background:
    """`work(stop)` in a thread of its own; `result` or `error` when `done`. It ends soon after `stop` is set."""

    def __init__(self, work: Any) -> None:
        self.stop = threading.Event()
        self.result: Any = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def end(self, seconds: float) -> None:
        """Ask for the end and wait for it."""
        self.stop.set()
        self._thread.join(seconds)

    def _run(self, work: Any) -> None:
        try:
            self.result = work(self.stop)
        except Exception as error:  # handed to the GUI thread
            self.error = error


def write_job(folder: Path, job: Mapping[str, Any], arrays: dict[str, np.ndarray], stop: threading.Event) -> None:
    """Write the arrays (file name -> array, each let go when written), then `job.json`. Raises OSError, Stopped."""
    for file in list(arrays):
        _write_array(folder / file, arrays.pop(file), stop)
    partial = folder / f".{JOB}"
    partial.write_text(json.dumps(job, indent=1), encoding="utf-8")
    os.replace(partial, folder / JOB)


def read_result(folder: Path, stop: threading.Event | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """`result.json` of a job folder, and the array of every output that has one. Raises OSError, Stopped, and
    ValueError where a file doesn't hold what a result must."""
    result = folder / "result"
    try:
        record = json.loads((result / RESULT).read_text(encoding="utf-8"))
        _check_record(record)
        arrays = {}
        for name, described in record["outputs"].items():
            if stop and stop.is_set():
                raise Stopped
            if "file" in described:
                arrays[name] = read_array(result / Path(described["file"]).name)
            _check_output(name, described, arrays.get(name))
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        told = _("{file} isn't what the engine writes ({type}: {error})")
        raise ValueError(told.format(file=RESULT, type=type(error).__name__, error=error)) from None
    return record, arrays


def _check_record(record: Any) -> None:
    """What provenance, report and views take for granted."""
    texts = [record["method"]["id"], record["method"]["name"]]
    texts += [record.get(name, "") for name in ("notice", "domain_reason")]
    texts += [model[key] for model in record.get("models", {}).values() for key in ("id", "licence")]
    if not all(isinstance(text, str) for text in texts) or not isinstance(record["outputs"], dict):
        raise TypeError(_("a text or the list of outputs"))
    for name in ("parameters", "versions", "timings"):
        if not isinstance(record.get(name, {}), dict):
            raise TypeError(name)


def _check_output(name: str, described: dict[str, Any], array: np.ndarray | None) -> None:
    """ValueError, KeyError or TypeError where a description doesn't fit its array."""
    if array is None:
        width, plain = len(described.get("columns", ())), (str, int, float, type(None))
        rows = described.get("rows", []) if "columns" in described else [[described["text"] + ""]]
        cells = [cell for row in rows for cell in row]
        if any(len(row) != width for row in rows if width) or not all(isinstance(c, plain) for c in cells):
            raise ValueError(_("the table '{name}' is damaged").format(name=name))
        return
    matrix = np.asarray(described.get("ijkToRAS", np.eye(4)), float)
    texts = [described.get(key, "") for key in ("kind", "unit", "display")]
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
        raise ValueError(_("the place of '{name}' in the patient is undefined").format(name=name))
    labels = described.get("labels", {})
    whole = all(type(value) is int for value in labels.values()) and (not labels or array.dtype.kind in "iu")
    if not 2 <= array.ndim <= 5 or not whole or not all(isinstance(text, str) for text in texts):
        raise ValueError(_("the output '{name}' doesn't fit its description").format(name=name))


def read_array(path: Path) -> np.ndarray:
    """A copy of an array of numbers; mapped first, so that its header can't ask for more memory than the file has."""
    if not path.is_file() or path.is_symlink():
        raise ValueError(_("'{file}' is missing").format(file=path.name))
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy raises what its parsers raise
        raise ValueError(_("'{file}' can't be read ({error})").format(file=path.name, error=error)) from None
    if not isinstance(mapped, np.ndarray) or mapped.dtype.kind not in "biufc":
        raise ValueError(_("'{file}' holds no array of numbers").format(file=path.name))
    return np.array(mapped)


def is_complete(folder: Path) -> bool:
    """Whether a job folder holds a result."""
    return (folder / "result" / RESULT).is_file()


def _write_array(path: Path, array: np.ndarray, stop: threading.Event) -> None:
    """As numpy.save does, in pieces, so that a cancel is noticed within one of them. `array` is C-contiguous."""
    flat = np.ascontiguousarray(array).reshape(-1)
    step = max(CHUNK_BYTES // max(flat.itemsize, 1), 1)
    with path.open("wb") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, flat.size, step):
            if stop.is_set():
                raise Stopped
            stream.write(flat[start : start + step].view(np.uint8).data)


def _check_own(root: Path) -> None:
    """PermissionError where somebody else has put a link or a folder at a place that others may write to."""
    found = root.lstat()
    if root.is_symlink() or (os.name == "posix" and found.st_uid != os.getuid()):
        raise PermissionError(errno.EACCES, _("another user owns it, or it is a link"), str(root))
    root.chmod(0o700)


def _finished(folder: Path) -> float:
    path = folder / "result" / RESULT
    return (path if path.exists() else folder).stat().st_mtime


def _lives(folder: Path) -> bool:
    """Whether the application that made the folder still runs."""
    try:
        with (folder / OWNER).open("r+b") as owner:
            _lock(owner)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


if os.name == "nt":

    def _lock(stream: BinaryIO) -> None:
        """Hold the file until it is closed; OSError when another handle holds it."""
        import msvcrt

        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]

else:

    def _lock(stream: BinaryIO) -> None:
        """Hold the file until it is closed; OSError when another handle holds it."""
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)

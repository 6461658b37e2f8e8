"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DiskError

_DISK = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "has no quota left",
    errno.EACCES: "may not be written to",
    errno.EPERM: "may not be written to",
    errno.EROFS: "is read-only",
}


@contextmanager
def temporary(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder in `parent` that is gone afterwards, whatever happens. `parent` is made when missing, and gone again
    if left empty. Folders of processes that were killed are removed first: they may hold a patient's images."""
    with disk_errors(parent):
        made = [p for p in (parent, *parent.parents) if not p.exists()]
        parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(parent, prefix)
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            for empty in made:
                if empty.is_dir() and not any(empty.iterdir()):
                    empty.rmdir()


def _remove_orphans(parent: Path, prefix: str) -> None:
    """Remove the temporary folders in `parent` whose process is gone (not on Windows, which has no harmless test)."""
    if os.name != "posix":
        return
    for folder in parent.glob(f"{glob.escape(prefix)}*-*"):
        owner = folder.name[len(prefix) :].split("-")[0]
        if owner.isdecimal() and not _alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def complete(final: Path) -> Iterator[Path]:
    """A folder to fill, which gets the name `final` when the block ends without an error; an older `final` is
    replaced."""
    with temporary(final.parent, f".{final.name}-") as work:
        fresh = work / "new"
        fresh.mkdir()
        yield fresh
        if final.exists():
            os.replace(final, work / "old")
        os.replace(fresh, final)


def move_files(source: Path, target: Path, last: str) -> None:
    """Move all files of `source` into `target`, replacing those of the same name; the file named `last` comes last."""
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(source.iterdir(), key=lambda f: f.name == last):
            os.replace(file, target / file.name)


def write_text(path: Path, text: str) -> None:
    """Write a small text file in one step."""
    with disk_errors(path.parent):
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one sentence."""
    try:
        yield
    except OSError as error:
        # numpy gives no number when a write falls short, only "1000 requested and 300 written"
        number = errno.ENOSPC if error.errno is None and "written" in str(error) else error.errno
        if number not in _DISK:
            raise
        raise DiskError(
            f"The disk or folder of '{folder}' {_DISK[number]}; nothing was written.",
            "Free space or choose another folder.",
        ) from error

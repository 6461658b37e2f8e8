"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import errno
import glob
import os
import platform
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import Cancelled, DiskError

_DISK = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "has no quota left",
    errno.EACCES: "may not be written to",
    errno.EPERM: "may not be written to",
    errno.EROFS: "is read-only",
    errno.EFBIG: "can't hold a file of this size",
}
TEMPORARY = ".diffusion-"  # how the temporary folder of a run begins, beside its output
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"  # process ids of other computers say nothing here
POLL_SECONDS = 0.1


@contextmanager
def temporary(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder in `parent` that is gone afterwards, whatever happens. `parent` is made when missing, and gone again
    if left empty. Folders of processes that were killed are removed first: they may hold a patient's images."""
    with disk_errors(parent):
        made = [p for p in (parent, *parent.parents) if not p.exists()]
        parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(parent, prefix)
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{_HOST}.{os.getpid()}-", dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            for empty in made:
                if empty.is_dir() and not any(empty.iterdir()):
                    empty.rmdir()


def tidy(folder: Path, prefix: str) -> None:
    """Remove what killed processes have left in `folder`: temporary folders, and files of `locked` that nobody
    holds."""
    _remove_orphans(folder, prefix)
    for path in folder.glob(".*.lock"):
        stream = _hold(path)
        if stream:
            with suppress(OSError):
                path.unlink()
            stream.close()


def _remove_orphans(parent: Path, prefix: str) -> None:
    """Remove the temporary folders in `parent` whose process, one of this computer, is gone (not on Windows, which has
    no harmless test)."""
    if os.name != "posix":
        return
    prefix = f"{prefix}{_HOST}."
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
    """Move all files of `source` into `target`, replacing those of the same name. The file named `last` comes last, and
    an older one goes first: where it is, all others belong to it."""
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        (target / last).unlink(missing_ok=True)
        for file in sorted(source.iterdir(), key=lambda f: f.name == last):
            os.replace(file, target / file.name)


def write_text(path: Path, text: str) -> None:
    """Write a small text file in one step."""
    with disk_errors(path.parent):
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.unlink(missing_ok=True)  # left by a crash, or a link that somebody put there
            with partial.open("x", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, stop: Callable[[], bool]) -> Iterator[None]:
    """Hold the file `path`, which exists only for that, against other processes; the system frees it when this one
    ends, however it ends. Waits for the holder; raises Cancelled when `stop` says so meanwhile."""
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = _hold(path)
    while stream is None:
        if stop():
            raise Cancelled
        time.sleep(POLL_SECONDS)
        stream = _hold(path)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file; then it stays, and does no harm
            path.unlink()
        stream.close()


def _hold(path: Path) -> BinaryIO | None:
    """The open file with its lock; None while another process has it."""
    stream = path.open("ab")
    try:
        _lock(stream)
    except OSError as error:
        if error.errno in _HELD:
            stream.close()
            return None  # else a file system without locks: then there is none
    try:
        if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
            return stream
    except FileNotFoundError:  # its former holder has removed it meanwhile
        pass
    stream.close()
    return None


if os.name == "nt":

    def _lock(stream: BinaryIO) -> None:
        import msvcrt

        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]

else:

    def _lock(stream: BinaryIO) -> None:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


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

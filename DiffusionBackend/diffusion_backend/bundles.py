"""Import of bundles: a folder or a zip file with a card and weights becomes one in the user's model folder.

Copies grow under a temporary name beside the other models, and get their own name when their sha256 is that of the
card. Works without torch."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from . import models, paths
from .errors import InputError, ModelError

Report = Callable[[dict[str, Any]], None]
CHUNK_BYTES = 1 << 20
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)  # what a damaged zip file raises
AGAIN = "Get the model again from where it came from."
CARD_BYTES = 4 << 20  # no card is longer


def progress(stage: str, fraction: float | None = None) -> dict[str, Any]:
    """The event that tells how far an import is; fraction: None where it isn't known."""
    return {"event": "progress", "stage": stage, "fraction": fraction}


def is_bundle(path: Path) -> bool:
    """Whether the path is a bundle to import: a folder with a card, that card, or a zip file with one.

    A torch checkpoint is a zip file, too, but has no card."""
    if path.is_dir():
        return (path / models.CARD).is_file()
    if path.name == models.CARD:
        return True
    return zipfile.is_zipfile(path) and _zipped_card(path) is not None


def import_bundle(path: Path, name: str | None, report: Report) -> dict[str, Any]:
    """Copy a bundle into the user's folder; returns its card.

    name: id of the model, which replaces the user's one of that name (default: the card's, numbered where that is
    taken). Raises ModelError for a damaged bundle, InputError for one that is bundled already."""
    with _opened(path) as (card_text, weights, size):
        card = models.parse_card(card_text, str(path))
        folder = place(name, card, "sha256")
        with models.placed(folder) as fresh:
            _copy(weights, fresh / models.WEIGHTS, size, report)
            report(progress("checking"))
            found = models.sha256(fresh / models.WEIGHTS)
            if found != card["sha256"]:
                raise ModelError(
                    f"The weights in '{path}' are damaged: their sha256 begins with {found[:12]}, but the card says "
                    f"{str(card['sha256'])[:12]}.",
                    AGAIN,
                )
            models.write_card(fresh, {**card, "id": folder.name, "source_file": path.name})
    return models.read_card(folder)


def place(name: str | None, card: Mapping[str, Any], mark: str) -> Path:
    """The user's folder for a new model: `name`, or the card's id, numbered where another model has it already.

    A model that has the same value of the card's field `mark` is the same: its place is taken again."""
    known = {entry["id"]: entry for entry in models.list_models()}
    if name is not None:
        return paths.user_models() / name
    for entry in known.values():
        if entry.get(mark) == card[mark]:
            if not entry["removable"]:
                raise InputError(f"This model is bundled already as '{entry['id']}'; nothing was imported.")
            return Path(entry["folder"])
    wanted, number = str(card["id"]), 2
    if not models.is_id(wanted):
        raise ModelError(f"The id '{wanted}' on the model card must consist of letters, digits, '.', '-' and '_'.")
    free = wanted
    while free in known:
        free, number = f"{wanted}-{number}", number + 1
    return paths.user_models() / free


@contextmanager
def _opened(path: Path) -> Iterator[tuple[str, IO[bytes], int]]:
    """The text of the card, the stream of the weights and its length in bytes."""
    with ExitStack() as stack:
        try:
            if path.is_dir() or path.name == models.CARD:
                folder = path if path.is_dir() else path.parent
                weights: IO[bytes] = stack.enter_context((folder / models.WEIGHTS).open("rb"))
                size = (folder / models.WEIGHTS).stat().st_size
                card = (folder / models.CARD).read_bytes()[:CARD_BYTES]
            else:
                archive, name = stack.enter_context(zipfile.ZipFile(path)), str(_zipped_card(path))
                entry = archive.getinfo(name.removesuffix(models.CARD) + models.WEIGHTS)
                weights, size = stack.enter_context(archive.open(entry)), entry.file_size
                card = archive.open(name).read(CARD_BYTES)
            text = card.decode("utf-8")
        except (KeyError, FileNotFoundError):
            raise ModelError(f"The model '{path}' has no file {models.WEIGHTS} beside its card.") from None
        except (*BROKEN, RuntimeError, ValueError) as error:  # RuntimeError: encrypted
            raise ModelError(f"The model '{path}' can't be read ({error}).") from None
        yield text, weights, size


def _zipped_card(path: Path) -> str | None:
    """The name of the card in a zip file: at its top or in one folder; None where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.split("/")[-1] == models.CARD and n.count("/") <= 1]
    except (zipfile.BadZipFile, OSError):
        return None
    return min(names, key=len, default=None)


def _copy(source: IO[bytes], target: Path, size: int, report: Report) -> None:
    """Copy a stream of `size` bytes, telling how far it is. ModelError where a zip file is damaged."""
    done = 0
    with target.open("wb") as out:
        report(progress("copying", 0.0))
        try:
            while block := source.read(CHUNK_BYTES):
                out.write(block)
                done += len(block)
                report(progress("copying", done / max(size, 1)))
        except BROKEN as error:
            raise ModelError(f"The zip file is damaged ({error}).", AGAIN) from None

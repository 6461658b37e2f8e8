"""The studies of a batch: the rows of a CSV, the volumes in a folder, or one file."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from . import methods
from .errors import InputError
from .method import Input, Method

IMAGES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")
SUFFIXES = {"projections": (".npz",), "text": (".txt",)}  # of input kinds that are no images
LABELS = ".seg.nrrd"
SUMMARY = "summary.csv"
DICOM_MARK, MARK_AT = b"DICM", 128


def read(path: Path, method_id: str, output: Path) -> list[dict[str, str]]:
    """The studies of `path`, each a dict with `id`, inputs by name (absolute paths, texts) and maybe `reference`.

    path : a CSV; a folder, whose files and DICOM series (one a folder) are studies, sub-folders included, hidden ones
    and `output` left out; or one file. Files go to the method's first input. Raises InputError."""
    method = methods.load(method_id).METHOD
    if not path.exists():
        raise InputError(f"There is no list, folder or file '{path}'.")
    first = method.inputs[0]
    if path.is_dir():
        studies = [{"id": _id(file, path), first.name: str(file.absolute())} for file in _files(path, first, output)]
        if not studies:
            known = " ".join(_suffixes(first))
            raise InputError(f"The folder '{path}' holds no DICOM series and no file with one of these ends: {known}.")
    elif _suffix(path, first):
        studies = [{"id": _id(path, path.parent), first.name: str(path.absolute())}]
    else:
        studies = _rows(path, method)
    _check_ids([study["id"] for study in studies], path)
    return studies


def _rows(path: Path, method: Method) -> list[dict[str, str]]:
    """The rows of a CSV; paths in it are relative to its folder."""
    names = [i.name for i in method.inputs]
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns, rows = list(reader.fieldnames or ()), [dict(row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The list '{path}' can't be read as CSV ({error}).") from None
    wrong = [c for c in columns if c not in ("id", "reference", *names)]
    if "id" not in columns or wrong or not rows:
        found = ", ".join(columns) or "none"
        raise InputError(
            f"The list '{path.name}' has the columns {found}; needed are id and inputs of {method.id}: "
            f"{', '.join(names)}."
        )
    for number, row in enumerate(rows, 2):
        if None in row:
            raise InputError(f"Line {number} of '{path.name}' has more cells than the list has columns.")
    plain = {"id", *(i.name for i in method.inputs if i.kind == "text")}
    base = path.absolute().parent
    return [{"id": ""} | {k: v if k in plain else str(base / v) for k, v in row.items() if v} for row in rows]


def _check_ids(ids: list[str], path: Path) -> None:
    """Ids are names of folders, different ones also where capital and small letters count as the same."""
    folded = [study.casefold() for study in ids]
    counts = {study: folded.count(study) for study in set(folded)} if len(set(folded)) < len(folded) else {}
    for study, same in zip(ids, folded):
        fits = re.fullmatch(r"\w([\w .-]*[\w-])?", study) and same != SUMMARY
        if not fits or counts.get(same, 1) > 1:
            raise InputError(
                f"The id '{study}' in '{path.name}' is empty, repeated or no name for a folder (letters, "
                "digits, space . - _)."
            )


def _files(folder: Path, first: Input, output: Path) -> Iterator[Path]:
    """Files with the ends of the input's kind, and folders of DICOM slices."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        hidden = [f for f in folders if f.startswith(".") or (here / f).resolve() == output.resolve()]
        folders[:] = sorted(set(folders) - set(hidden))
        given = [here / f for f in sorted(files) if not f.startswith(".")]
        yield from (f for f in given if _suffix(f, first))
        if first.kind not in SUFFIXES and any(_is_dicom(f) for f in given if not _suffix(f, first)):
            yield here


def _id(path: Path, base: Path) -> str:
    """From the names of file and folders below `base`, whatever else lies there; never from what stands in a file."""
    parts = path.relative_to(base).parts or (path.absolute().name,)
    name = "-".join(parts)
    if not path.is_dir():
        name = name[: len(name) - len(next(s for s in _ALL if name.lower().endswith(s)))]
    return re.sub(r"[^\w .-]", "_", name).strip(" .") or "study"


_ALL = (*IMAGES, *(suffix for kind in SUFFIXES.values() for suffix in kind))


def _suffixes(declared: Input) -> tuple[str, ...]:
    return SUFFIXES.get(declared.kind, IMAGES)


def _suffix(path: Path, declared: Input) -> bool:
    """Whether the file can be the input, by the end of its name. Labels are no volumes."""
    name = path.name.lower()
    return name.endswith(_suffixes(declared)) and (declared.kind == "segmentation" or not name.endswith(LABELS))


def _is_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            stream.seek(MARK_AT)
            return stream.read(len(DICOM_MARK)) == DICOM_MARK
    except OSError:
        return False

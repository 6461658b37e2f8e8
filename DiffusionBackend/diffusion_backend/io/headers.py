"""What the header of an image file declares, checked before anything is read into memory: a short file can't announce a
huge image, and a header can't name a pipe or a file elsewhere."""

from __future__ import annotations

import math
import re
from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError

HEADER_BYTES = 1 << 20
HARMLESS_BYTES = 256 << 20  # what a header may always announce
DENSEST = 1100  # deflate reaches 1032 : 1
_DATA = re.compile(r"^\s*(?:data ?file|ElementDataFile)\s*[:=]\s*(\S.*?)\s*$", re.M | re.I)

_AXES = re.compile(r"^\s*NDims\s*[:=]?\s*(\S+)", re.M)


def check(path: Path) -> None:
    """InputError when the header of the image file `path` names data elsewhere, or more than its files can hold.
    RuntimeError, as ITK says it, when it can't be read."""
    files = [path, *(path.parent / name for name in _detached(path))]
    if path.suffix.lower() == ".hdr":  # Analyze and NIfTI in two files
        files.append(path.with_suffix(".img"))
    for file in files:
        if file.exists() and not file.is_file():  # reading a pipe would never end
            raise InputError(f"'{path.name}' takes its values from '{file.name}', which is no file.")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    bits = int((re.search(r"(\d+)-bit", kind) or [0, 8])[1]) * (2 if "complex" in kind else 1)
    declared = math.prod(reader.GetSize()) * max(reader.GetNumberOfComponents(), 1) * bits // 8
    held = sum(file.stat().st_size for file in files if file.exists())
    if declared > max(HARMLESS_BYTES, DENSEST * held):
        size = " × ".join(str(n) for n in reader.GetSize())
        raise InputError(
            f"'{path.name}' announces {size} voxels, but its {held} bytes can't hold them: it is damaged or incomplete."
        )


def _detached(path: Path) -> list[str]:
    """The names of the data files of an NRRD or MetaImage header, which must lie beside it."""
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
    nrrd = head.startswith(b"NRRD")
    if not nrrd and path.suffix.lower() not in (".mha", ".mhd"):
        return []
    text = (re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0] if nrrd else head).decode("utf-8", "replace")
    if not nrrd and not all(n in set("123456789") for n in _AXES.findall(text)):  # ITK ends the process over others
        raise InputError(f"'{path.name}' has no number of axes (NDims) from 1 to 9.")
    found = _DATA.search(text)
    if not found or found[1].upper() == "LOCAL":
        return []
    listed = text[found.end() :].split("\n") if found[1].upper().split()[0] == "LIST" else [found[1]]
    names = [name.strip() for name in listed if name.strip()]
    for name in names:
        if re.search(r"[/\\:]", name) or name in ("-", ".."):
            raise InputError(f"'{path.name}' takes its values from '{name}', but only a file beside it may be named.")
    return names

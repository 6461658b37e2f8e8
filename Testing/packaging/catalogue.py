"""The automatic checks of Slicer's catalogue of extensions, without the network: a sentence per failure, exit status 1.

    python Testing/packaging/catalogue.py [REPOSITORY] [--index FOLDER]

`--index`: a checkout of the catalogue, in which the dependencies must exist. No web address is asked; the pictures that
the addresses name must be in the repository.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parents[2]
ENTRY = "Packaging/DiffusionModels.json"
SCHEMA = "slicer-extension-catalog-entry-schema-v1.0.2.json"
KEYS = {"$schema": str, "category": str, "scm_url": str, "scm_revision": str, "scm_type": str, "tier": int,
        "build_dependencies": list, "build_subdirectory": str, "dicom_support_rule": str, "enabled": bool}  # fmt: skip
REQUIRED = ("$schema", "category", "scm_url")
CATEGORIES = (  # those of the catalogue's list that an extension like this one may take
    "Analysis", "Filtering", "Image Synthesis", "Radiotherapy", "Segmentation", "Tomographic Reconstruction",
)  # fmt: skip
DEPENDENCIES = ("PyTorch", "SlicerRT")  # extensions known without a checkout of the catalogue
LICENCES = ("LICENSE", "LICENCE", "License.txt", "license.txt", "LICENSE.txt", "COPYING", "COPYING.txt")
TEXTS = ("HOMEPAGE", "CATEGORY", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS")
LIMIT_MB = 100
ICON_SIDE, PICTURE_SIDE = 128, 4000  # pixels


def problems(repository: Path, index: Path | None = None) -> list[str]:
    """All that the catalogue would refuse, one sentence each."""
    entry_file = repository / ENTRY
    if not entry_file.is_file():
        return [f"There is no catalogue entry '{ENTRY}'."]
    cmake_file = repository / "CMakeLists.txt"
    if not cmake_file.is_file():
        return ["There is no CMakeLists.txt at the root."]
    cmake = cmake_file.read_text(encoding="utf-8")
    content = entry_file.read_bytes()
    found = list(_format(content))
    try:
        entry = json.loads(content)
    except ValueError as error:
        return [*found, f"{ENTRY} is not JSON: {error}."]
    known = [f.stem for f in index.glob("*.json")] if index else DEPENDENCIES
    found += _keys(entry) or [*_entry(entry, entry_file.stem, known), *_agreement(entry, cmake)]
    found += [*_cmake(cmake, entry_file.stem), *_pictures(cmake, repository), *_repository(repository)]
    return found


def _format(content: bytes) -> Iterator[str]:
    if b"\r" in content:
        yield f"{ENTRY} has line ends other than LF."


def _keys(entry: Any) -> list[str]:
    """What the schema refuses: missing, unknown and mistyped keys."""
    if not isinstance(entry, dict):
        return [f"{ENTRY} must be a JSON object."]
    found = [f"{ENTRY} lacks the key '{key}'." for key in REQUIRED if not entry.get(key)]
    found += [f"{ENTRY} has the unknown key '{key}'." for key in entry if key not in KEYS]
    for key, kind in KEYS.items():
        if key in entry and type(entry[key]) is not kind:
            found.append(f"'{key}' in {ENTRY} must be of type {kind.__name__}.")
    return found


def _entry(entry: dict[str, Any], name: str, known: Any) -> Iterator[str]:
    """Names and values of a well-formed entry."""
    if entry["$schema"].split("#")[0].rsplit("/", 1)[-1] != SCHEMA:
        yield f"'$schema' must name {SCHEMA}, not '{entry['$schema']}'."
    if name.lower().startswith("slicer"):
        yield f"The extension's name '{name}' must not start with 'Slicer'."
    url = urlsplit(entry["scm_url"])
    if url.scheme not in ("git", "https"):
        yield f"'scm_url' must start with https:// or git://, not '{entry['scm_url']}'."
    if not Path(url.path).name.startswith("Slicer"):
        yield f"The repository's name must start with 'Slicer', not '{Path(url.path).name}'."
    if entry["category"] not in CATEGORIES:
        yield f"The category '{entry['category']}' is not one of: {', '.join(CATEGORIES)}."
    if entry.get("scm_type", "git") not in ("git", "local"):
        yield f"'scm_type' must be git or local, not '{entry['scm_type']}'."
    if not 1 <= entry.get("tier", 1) <= 5:
        yield f"'tier' must be 1 to 5, not {entry['tier']}."
    for dependency in entry.get("build_dependencies", []):
        if dependency not in known:
            yield f"The catalogue has no extension '{dependency}', which 'build_dependencies' names."


def value(cmake: str, name: str) -> str:
    """The text of `set(EXTENSION_<name> "…")` as the catalogue's regular expressions read it, or ""."""
    match = re.search(rf'set\s*\(EXTENSION_{name}\s*"([^"]+)"\)', cmake, re.IGNORECASE)
    return match[1] if match else ""


def _cmake(cmake: str, name: str) -> Iterator[str]:
    """What is read from CMakeLists.txt as text."""
    project = re.search(r"project\s*\(\s*([^\s)]+)", cmake, re.IGNORECASE)
    if not project or project[1].strip("\"'") != name:
        yield f"CMakeLists.txt must call project({name}), not project({project[1] if project else ''})."
    for text in TEXTS:
        if not value(cmake, text):
            yield f'CMakeLists.txt lacks a line set(EXTENSION_{text} "…") with a literal value.'
        if ";" in value(cmake, text) or "${" in value(cmake, text):
            yield f"EXTENSION_{text} must hold no semicolon and no variable."
    if "generative diffusion models" not in value(cmake, "DESCRIPTION").split(".")[0].lower():
        yield "The description's first sentence must say 'generative diffusion models'."


def _agreement(entry: dict[str, Any], cmake: str) -> Iterator[str]:
    """The entry and CMakeLists.txt say the same."""
    if value(cmake, "CATEGORY") != entry["category"]:
        yield f"EXTENSION_CATEGORY is '{value(cmake, 'CATEGORY')}', but the entry says '{entry['category']}'."
    depends = set(value(cmake, "DEPENDS").split()) - {"NA"}
    if depends != set(entry.get("build_dependencies", [])):
        yield f"EXTENSION_DEPENDS is {sorted(depends)}, but the entry says {entry.get('build_dependencies', [])}."
    if value(cmake, "HOMEPAGE") != entry["scm_url"].removesuffix(".git"):
        yield f"EXTENSION_HOMEPAGE is '{value(cmake, 'HOMEPAGE')}', but the entry's repository is '{entry['scm_url']}'."


def _pictures(cmake: str, repository: Path) -> Iterator[str]:
    """The pictures behind the addresses: in the repository, PNG, of a size that can be shown."""
    home = urlsplit(value(cmake, "HOMEPAGE")).path
    for text in ("ICONURL", "SCREENSHOTURLS"):
        for address in value(cmake, text).split():
            start = f"https://raw.githubusercontent.com{home}/main/"
            file = repository / address.removeprefix(start)
            if not address.startswith(start):
                yield f"EXTENSION_{text} names '{address}', which is outside {start}."
            elif not file.is_file():
                yield f"EXTENSION_{text} names '{address}', but there is no file '{file.relative_to(repository)}'."
            else:
                yield from _picture(file, text)


def _picture(file: Path, text: str) -> Iterator[str]:
    head = file.read_bytes()[:24]
    if not head.startswith(b"\x89PNG\r\n\x1a\n"):
        yield f"'{file.name}' is not a PNG file."
        return
    width, height = struct.unpack(">II", head[16:24])
    if text == "ICONURL" and (width, height) != (ICON_SIDE, ICON_SIDE):
        yield f"The icon '{file.name}' has {width} x {height} pixels, but {ICON_SIDE} x {ICON_SIDE} are recommended."
    if not 64 <= min(width, height) <= max(width, height) <= PICTURE_SIDE:
        yield f"'{file.name}' has {width} x {height} pixels; a side must have 64 to {PICTURE_SIDE}."


def _repository(repository: Path) -> Iterator[str]:
    """Licence and size."""
    if not any((repository / name).is_file() for name in LICENCES):
        yield "There is no licence file at the root."
    size = size_mb(repository)
    if size > LIMIT_MB:
        yield f"The repository with its history has {size:.0f} MB, but at most {LIMIT_MB} MB are taken."


def size_mb(repository: Path) -> float:
    """MB of the tracked files and, packed or not, of the history; 0 outside a git repository."""
    listed = _git(repository, "ls-files", "-z").split("\0")
    tree = sum((repository / name).stat().st_size for name in listed if name and (repository / name).is_file())
    counts = dict(line.split(": ") for line in _git(repository, "count-objects", "-v").splitlines())
    return tree / 2**20 + (int(counts.get("size", 0)) + int(counts.get("size-pack", 0))) / 2**10


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def main(arguments: list[str] | None = None) -> int:
    """Print what would be refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository", type=Path, nargs="?", default=REPOSITORY)
    parser.add_argument("--index", type=Path, help="checkout of the catalogue")
    options = parser.parse_args(arguments)
    found = problems(options.repository, options.index)
    print("\n".join(found) or f"The catalogue would take this ({size_mb(options.repository):.0f} MB).")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

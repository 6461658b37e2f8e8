"""What pip is asked, and what its answers mean. Arguments are lists, never one text for a shell."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from .packages import version_of

CPU, GPU = "cpu", "gpu"
WHEELS = "https://download.pytorch.org/whl/"  # PyTorch's own; PyPI has one build for each system
CUDA, OLD_CUDA, NEW_DRIVER = "cu130", "cu126", 580  # the first needs an NVIDIA driver of this number or newer
DISK_GB = {CPU: 1.5, GPU: 10.0}  # what an installation needs while it is made, rounded up from what was measured
DOWNLOAD_GB = {CPU: 0.2, GPU: 3}
RAW_PROGRESS = (24, 1)  # the first pip that tells bytes
PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
QUIET = ["--no-input", "--disable-pip-version-check", "--no-color"]
WHEELS_ONLY = ["--only-binary", ":all:"]  # nothing is compiled on the user's machine


@dataclass(frozen=True)
class Wheel:
    """One file that pip would install; size in bytes, None where pip doesn't tell."""

    name: str
    version: str
    size: int | None = None


@dataclass
class Plan:
    """What is to be installed, in groups of the same source: (options for pip, wheels).

    wheels : the folder they come from, None = network. by_extension : the PyTorch extension installs torch."""

    flavour: str
    wheels: Path | None = None
    by_extension: bool = False
    groups: list[tuple[list[str], list[Wheel]]] = field(default_factory=list)

    def all(self) -> list[Wheel]:
        return [wheel for _options, wheels in self.groups for wheel in wheels]


def flavours() -> tuple[str, ...]:
    """The builds of torch to choose from on this system."""
    return (CPU,) if platform.system() == "Darwin" else (CPU, GPU)


def index_of(flavour: str, driver: int | None = None) -> str:
    """The address of a build of torch, "" for the index that pip is configured to use. driver : NVIDIA's, if known."""
    linux = platform.system() == "Linux"
    if flavour == CPU:
        return WHEELS + CPU if linux else ""
    if driver is not None and driver < NEW_DRIVER:
        return WHEELS + OLD_CUDA
    return "" if linux else WHEELS + CUDA


def sources(needed: list[Any], index: str, wheels: Path | None) -> list[tuple[list[str], list[str]]]:
    """(options, requirements) for each source: PyTorch's own index has torch alone, for a build there can be older
    than PyPI's newest release, which is another build."""
    if wheels is not None:
        return [(["--no-index", "--find-links", str(wheels)], [str(r) for r in needed])]
    torch = [str(r) for r in needed if index and r.name == "torch"]
    rest = [str(r) for r in needed if str(r) not in torch]
    return [pair for pair in (([f"--index-url={index}"], torch), ([], rest)) if pair[1]]


def plan(options: list[str], needed: list[str], constraints: Path, report: Path) -> list[str]:
    """Arguments that make pip write into `report` what it would install into Slicer's Python; it installs nothing."""
    return ["-m", "pip", "install", "--dry-run", "--report", str(report), "--constraint", str(constraints),
            *QUIET, *WHEELS_ONLY, *options, *needed]  # fmt: skip


def install(options: list[str], wheels: Iterable[Wheel], target: Path) -> list[str]:
    """Arguments that make pip install exactly these wheels into `target`."""
    exact = [f"{w.name}=={w.version}" for w in wheels]
    bar = "raw" if _numbers(version_of("pip", sys.path)) >= RAW_PROGRESS else "off"
    return ["-m", "pip", "install", "--target", str(target), "--no-deps", "--no-compile", "--progress-bar", bar,
            *QUIET, *WHEELS_ONLY, *options, *exact]  # fmt: skip


def environment(base: dict[str, str], temporary: Path) -> dict[str, str]:
    """The environment of pip: proxies and pip's configuration as they are, without two settings that forbid --target;
    unpacked files go beside the installation, since the system's temporary folder may be small."""
    there = {name: str(temporary) for name in ("TMPDIR", "TEMP", "TMP")}
    return base | there | {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}


def read_report(report: Path) -> list[Wheel]:
    """The wheels of a report of pip. Raises OSError or ValueError where it isn't one."""
    try:
        installs = json.loads(report.read_text(encoding="utf-8"))["install"]
        described = [(i["metadata"], i["download_info"]["url"]) for i in installs]
        return [Wheel(metadata["name"], metadata["version"], _size(url)) for metadata, url in described]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{report.name}: {error}") from None


def driver_of(lines: Iterable[str]) -> int | None:
    """The major number in what nvidia-smi says of the driver."""
    found = [re.match(r"\s*(\d+)\.\d+", line) for line in lines]
    return next((int(m[1]) for m in found if m), None)


def _size(url: str) -> int | None:
    parsed = urlparse(url)
    if parsed.scheme != "file":
        return None
    try:
        return Path(url2pathname(parsed.path)).stat().st_size
    except OSError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2])

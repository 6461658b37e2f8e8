"""The package of the extension, made by its real CMake files with a stand-in of Slicer's CMake package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).with_name("slicer-stand-in")
MODULES = ("DiffusionReconstruction", "DiffusionSegmentation", "DiffusionSynthesis")
FLAT = "lib/Slicer-5.13/qt-scripted-modules"  # where the stand-in puts them
SOURCES = (*MODULES, "DiffusionBackend", "Resources", "Testing/slicer")
LATE = (  # a line a build: what a later build notices can't hide that this one didn't
    ("DiffusionBackend/diffusion_panel/views/late.py", "DiffusionBackend/diffusion_backend/late/__init__.py"),
    ("Resources/Physics/late.csv", "Resources/Batch/Late.py"),
)


@dataclass
class Package:
    """Copy of the sources, build tree, installed tree; which of the files LATE the build after them has taken."""

    source: Path
    build: Path
    installed: Path
    noticed: list[str] = field(default_factory=list)

    @property
    def modules(self) -> Path:
        """The folder of the modules in the installed tree."""
        return self.installed / FLAT


def tool(name: str) -> str:
    """The program cmake or ctest: of the path, else of the Python package cmake."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent)) or name


def cmake(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run cmake; its words are in stdout."""
    return subprocess.run([tool("cmake"), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)  # fmt: skip


def configure(source: Path, build: Path) -> subprocess.CompletedProcess[str]:
    """Configure as in a Slicer build."""
    return cmake("-S", source, "-B", build, f"-DSlicer_DIR={STAND_IN}",
                 f"-DCMAKE_TOOLCHAIN_FILE={STAND_IN / 'no-compiler.cmake'}")  # fmt: skip


def make(root: Path) -> Package:
    """Copy the sources, configure, build twice with the files LATE added, and install below `root`."""
    made = Package(root / "source", root / "build", root / "installed")
    ignored = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info")
    for name in SOURCES:
        shutil.copytree(REPOSITORY / name, made.source / name, ignore=ignored)
    for name in ("CMakeLists.txt", "LICENSE", "README.md"):
        shutil.copy(REPOSITORY / name, made.source)
    configured = configure(made.source, made.build)
    assert configured.returncode == 0 and "Warning" not in configured.stdout, configured.stdout
    for names in LATE:
        for name in names:
            (made.source / name).parent.mkdir(parents=True, exist_ok=True)
            (made.source / name).write_text("# came later\n")
        built = cmake("--build", made.build, "--parallel", 2)
        assert built.returncode == 0, built.stdout
        made.noticed += [n for n in names if (made.build / FLAT / n.removeprefix("DiffusionBackend/")).is_file()]
    installed = cmake("--install", made.build, "--prefix", made.installed)
    assert installed.returncode == 0, installed.stdout
    return made

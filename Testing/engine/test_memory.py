"""The quick preset is quick in memory, too: measured in a process of its own per run, for every method."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_backend import methods, sample_data
from diffusion_backend.simulate import write

TOLERANCE = 1.05  # of the peak of the process: allocators differ from run to run
PROGRAM = """
import sys
from diffusion_backend import memory
from diffusion_backend.__main__ import main as terminal
code = terminal(sys.argv[1:])
print("peak", memory.peak_bytes())
sys.exit(code)
"""


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """The folder with the sample data of each kind of simulation."""
    folders: dict[str, Path] = {}

    def folder(method: str) -> Path:
        kind = methods.load(method).METHOD.sample.simulation
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            for file, item in sample_data.make(method).items():
                write(item, folders[kind] / file)
        return folders[kind]

    return folder


def peak(method: str, preset: str, folder: Path, output: Path) -> int:
    """Largest memory of a process that runs the method with a preset, in bytes."""
    given = [a for i in methods.load(method).METHOD.inputs if i.required
             for a in ("--input", f"{i.name}={next(folder.glob(i.name + '.n*'))}")]  # fmt: skip
    line = ["run", method, *given, "--preset", preset, "--threads", "1", "--output", str(output / preset)]
    line += ["--set", "last_slice=0"] if "last_slice" in {p.name for p in methods.load(method).METHOD.parameters} else []
    around = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", PROGRAM, *line], capture_output=True, text=True, env=around)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split("peak")[-1])


@pytest.mark.parametrize("method", [m for m in methods.MODULES if methods.load(m).METHOD.sample])
def test_the_quick_preset_needs_no_more_memory(method, samples, tmp_path):
    folder = samples(method)
    quick, standard = (peak(method, preset, folder, tmp_path) for preset in ("quick", "standard"))
    assert quick <= TOLERANCE * standard, f"{quick / 2**20:.0f} MiB against {standard / 2**20:.0f} MiB"

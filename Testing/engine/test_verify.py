"""The trial of packages after their installation, as the panel starts it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(__file__).resolve().parents[2] / "DiffusionBackend"


def verify(folder: Path, *names: str) -> tuple[int, dict]:
    """Exit code and last line for packages of which some lie in `folder`."""
    paths = {"PYTHONPATH": os.pathsep.join([str(folder), str(PACKAGES)])}
    command = [sys.executable, "-m", "diffusion_backend.verify", *names]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | paths, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_packages_that_work_are_told_with_their_versions(tmp_path):
    import torch

    (tmp_path / "tiny.py").write_text("print('hello', end='\\n')\n__version__ = '0.3'\n")
    code, event = verify(tmp_path, "tiny", "torch")
    assert code == 0 and event["event"] == "verified"
    assert event["versions"] == {"tiny": "0.3", "torch": torch.__version__}
    assert event["wrong"] == {} or all(isinstance(reason, str) for reason in event["wrong"].values())


@pytest.mark.parametrize(
    ("source", "words"),
    [("raise RuntimeError('compiled against another numpy\\nmore')", "RuntimeError: compiled against another numpy)"),
     ("raise OSError()", "OSError: )"), ("import nowhere", "No module named 'nowhere'")],
)  # fmt: skip
def test_a_package_that_fails_at_its_import_is_named(tmp_path, source, words):
    (tmp_path / "tiny.py").write_text(source)
    code, event = verify(tmp_path, "tiny")
    assert code == 1 and event["event"] == "error"
    assert "'tiny' can't be imported" in event["message"] and words in event["message"]


def test_a_torch_that_doesn_t_compute_is_refused(tmp_path):
    """A torch that knows no numpy, as after an update of numpy."""
    (tmp_path / "torch.py").write_text("def from_numpy(a):\n    raise RuntimeError('Numpy is not available')\n")
    code, event = verify(tmp_path, "torch")
    assert code == 1 and "torch doesn't compute" in event["message"]

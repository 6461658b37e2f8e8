"""What the fuzz tests share: settings, any JSON, changed and damaged files, and the contract that all must keep.

More examples: DIFFUSIONMODELS_FUZZ=20000 pytest Testing/engine/test_fuzz.py Testing/engine/test_fuzz_files.py
"""

from __future__ import annotations

import copy
import faulthandler
import os
import signal
import struct

import head
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from diffusion_backend.data import PatientGeometry, Segmentation, projections, volume
from diffusion_backend.events import guarded

EXAMPLES = int(os.environ.get("DIFFUSIONMODELS_FUZZ") or 0)
HANG_SECONDS = 60
SENTENCES = (0, 2, 3, 4)  # exit codes that say what is wrong, or that nothing is

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([10**400, -(10**400), 1e308, 2**63, -1, 0, "../job.json", "/etc/hostname", "..", "", ".", "a\0b",
                     "é" * 300, "nan", "ct.npy", "bin", "view", "k"]),
)  # fmt: skip
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def fuzz(examples):
    """Settings of one target: the same examples on each run, unless DIFFUSIONMODELS_FUZZ asks for many."""
    return settings(
        max_examples=EXAMPLES or examples, derandomize=not EXAMPLES, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def watched():
    """A hang ends the process with the place where it hangs; signal handlers come back."""
    kept = [(n, signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)]
    yield
    faulthandler.cancel_dump_traceback_later()
    for number, handler in kept:
        signal.signal(number, handler)


def judged(work):
    """Do `work`; the exit code and the one sentence, "" on success."""
    events: list[dict] = []
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    code = guarded(work, events.append)
    errors = [e for e in events if e["event"] == "error"]
    assert code in SENTENCES, errors
    assert len(errors) == (code != 0)
    sentence = errors[0]["message"] if errors else ""
    assert isinstance(sentence, str) and bool(sentence.strip()) == bool(code) and "Traceback" not in sentence
    return code, sentence


GRID = PatientGeometry.from_itk((2.0, 2.0, 3.0), (0.0, 1.0, 2.0), np.eye(3).ravel())
SCAN = {"type": "parallel", "angles_deg": [float(a) for a in range(0, 180, 20)], "bins": 12, "bin_mm": 2.0}


def li_items():
    hu = head.hu(slices=1, size=32)
    return {"ct": volume(hu, GRID), "metal": Segmentation((hu > 2500).astype(np.uint8), GRID, {"metal": 1})}


def fbp_items():
    return {"projections": projections(np.full((9, 12), 0.5, np.float32), SCAN, GRID)}


def places(tree, path=()):
    """The paths of all values of a JSON tree."""
    found = [path] if path else []
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return found + [deep for key, value in pairs for deep in places(value, (*path, key))]


def changed(tree, path, value):
    """A copy of a JSON tree with one value replaced; removed where `value` is `...`."""
    tree = copy.deepcopy(tree)
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return tree


@st.composite
def mutated(draw, tree):
    """A valid JSON tree with one to three changes."""
    for _ in range(draw(st.integers(1, 3))):
        options = places(tree)
        if not options:
            break
        path = draw(st.sampled_from(options))
        tree = changed(tree, path, draw(st.one_of(st.just(...), anything)))
    return tree


@st.composite
def damaged(draw, content):
    """Bytes cut off, replaced or put in."""
    at = draw(st.integers(0, len(content)))
    piece = draw(st.binary(max_size=12))
    return draw(st.sampled_from([content[:at], content[:at] + piece + content[at + len(piece) :],
                                 content[:at] + piece + content[at:], content[:at] + content[at + 5 :]]))  # fmt: skip


@st.composite
def npy_headers(draw):
    """An .npy file whose header says anything about few bytes."""
    kinds = ["<f4", "|O", "<f8", "<c8", "|S3", "<M8[s]", "<U2", "|V0", "|b1", ">i2", "<f2", [("a", "<f4")]]
    descr = draw(st.sampled_from(kinds))
    side = st.sampled_from([0, 1, 2, 9, 12, -1, -9, 2**31, 2**40, 2**62, 10**30, True, 1.5, "a"])
    shape = draw(st.lists(side, max_size=4).map(tuple))
    text = repr({"descr": descr, "fortran_order": draw(st.sampled_from([False, True, 0, None])), "shape": shape})
    header = (text + " " * 20 + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + draw(st.binary(max_size=9 * 12 * 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def only(folder, name, content):
    """The file with this content, alone in its folder."""
    for old in folder.iterdir():
        old.unlink()
    (folder / name).write_bytes(content)
    return folder / name

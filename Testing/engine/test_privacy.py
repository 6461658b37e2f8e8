"""What the product must never do: reach for the network, unpickle, run a shell, write who the patient is, let others
read what it works on, follow a link that somebody else has put there."""

from __future__ import annotations

import ast
import csv
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import head
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from diffusion_backend import methods, terminal
from diffusion_backend.__main__ import main
from diffusion_backend.io.folders import temporary, write_text

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = ("DiffusionBackend", "DiffusionReconstruction", "DiffusionSegmentation", "DiffusionSynthesis", "Resources")
SCANNER = ("--set", "views=90", "--set", "bins=101")
QUICK = {"a11": (*SCANNER, "--set", "steps=5"), "a10": (*SCANNER, "--preset", "quick"), "li": SCANNER, "nmar": SCANNER,
         "fbp": ("--set", "size=32"), "a14": ()}  # fmt: skip
NAME, NUMBER, BIRTH, UID = "Roe^Jane", "MRN-77341", "19551231", "1.2.826.0.1.3680043.8.498.77341"
SECRETS = (NAME, "Roe", NUMBER, BIRTH, UID)

# ---- no foreign code ----


def dangers(text):
    """Calls in a Python file that could run foreign code or a shell, or follow a guessed name: "line: call"."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            bad = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib", "cloudpickle"} & set(names)
            found += [f"{node.lineno}: import {name}" for name in bad]
        if not isinstance(node, ast.Call):
            continue
        call, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        last = call.split(".")[-1]
        bad = (
            call in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp", "mktemp")
            or last in ("getoutput", "getstatusoutput", "execSettings")
            or (call == "torch.load" and given.get("weights_only") != "True")
            or (call in ("np.load", "numpy.load") and given.get("allow_pickle") != "False")
            or (call in ("pd.read_pickle", "yaml.load", "yaml.unsafe_load", "pickle.load", "pickle.loads", "Unpickler"))
            or given.get("shell", "False") != "False"
            or given.get("allow_pickle", "False") != "False"
        )
        found += [f"{node.lineno}: {call}"] if bad else []
    return found


def test_product_code_runs_no_foreign_code():
    """`pickle` is imported in one place, for the name of its exception."""
    allowed = {("importers.py", "import pickle")}
    found = []
    for folder in PRODUCT:
        for file in (REPOSITORY / folder).rglob("*.py"):
            told = {(file.name, line.split(": ", 1)[1]) for line in dangers(file.read_text(encoding="utf-8"))}
            found += sorted(told - allowed)
    assert found == []
    importer = (REPOSITORY / "DiffusionBackend" / "diffusion_backend" / "importers.py").read_text(encoding="utf-8")
    uses = {ast.unparse(n) for n in ast.walk(ast.parse(importer)) if isinstance(n, ast.Attribute)}
    assert {use for use in uses if use.startswith("pickle")} == {"pickle.UnpicklingError"}


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f)", "np.load(f, allow_pickle=True)", "eval(t)",
        "exec(t)", "os.system(c)", "subprocess.run(c, shell=True)", "Popen(c, shell=yes)", "tempfile.mktemp()",
        "yaml.load(t)", "import pickle", "from pickle import loads", "np.save(f, a, allow_pickle=True)", "os.popen(c)",
        "pickle.loads(b)", "import joblib", "torch.load(f, weights_only=flag)",
    ],
)  # fmt: skip
def test_seeded_mistakes_are_found(line):
    assert dangers(f"def f():\n    {line}\n")


# ---- no network ----

HOOK = """
import sys
LOG = {log!r}
def note(text):
    with open(LOG, "a") as stream:
        stream.write(text + chr(10))
def hook(event, arguments):
    if event in ("urllib.Request", "http.client.connect", "ftplib.connect") or (
        event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname")
    ):
        note(event)
        raise OSError("no network in this test")
sys.addaudithook(hook)
note("hooked")
"""


@pytest.fixture
def offline(tmp_path):
    """Environment of child processes whose Python notes and refuses every use of a socket, and what it has noted."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    log = tmp_path / "tried"
    (hooks / "sitecustomize.py").write_text(HOOK.format(log=str(log)))
    paths = [str(hooks), *(p for p in sys.path if p)]
    store = str(tmp_path / "no models")
    around = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "DIFFUSIONMODELS_MODELS": store}
    return os.environ | around, lambda: [line for line in log.read_text().splitlines() if line != "hooked"]


EVERYTHING = """
import json, sys
from diffusion_backend.__main__ import main
for line in json.loads(sys.argv[1]):
    code = main(line)
    print("EXIT", code, *line, file=sys.stderr)
    assert code == 0, line
"""


def test_no_command_and_no_method_reaches_for_the_network(tmp_path, offline):
    environment, tried = offline
    source = head.write(tmp_path / "h.nrrd", head.hu(slices=1, size=32))
    phantom = head.write(tmp_path / "c.nrrd", head.hu(slices=1, size=32, metal=False))
    made = ["simulate", "ct", "--input", phantom, "--output", tmp_path / "s", "--set", "views=60", "--set", "bins=61"]
    lines = [["describe"], ["models", "list"], made]
    for method in methods.MODULES:
        kinds = [i.kind for i in methods.load(method).METHOD.inputs if i.required]
        first = {"volume": source, "projections": tmp_path / "s" / "projections.npz"}[kinds[0]]
        out = tmp_path / "out" / method
        lines.append(["run", method, "--input", first, "--output", out, "--threads", "1", *QUICK[method]])
    lines.append(["batch", source, "--method", "li", "--output", tmp_path / "batch", *SCANNER])
    words = json.dumps([[str(word) for word in line] for line in lines])
    done = subprocess.run([sys.executable, "-c", EVERYTHING, words], env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    assert tried() == []


def test_the_hook_sees_a_socket(offline):
    """So that the test above can fail."""
    environment, tried = offline
    code = "import socket\ntry: socket.create_connection(('localhost', 9))\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert tried()


# ---- who the patient is ----


def write_series(folder, slices=3):
    """A DICOM series of the head whose header tells name, number, birth date and identifiers in many places."""
    folder.mkdir(parents=True)
    array = head.hu(slices=slices, size=32).astype(np.int16)
    for k in range(slices):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = f"{UID}.3.{k}"
        one = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = f"{UID}.1", f"{UID}.2", f"{UID}.4"
        one.PatientName, one.PatientID, one.PatientBirthDate = NAME, NUMBER, BIRTH
        one.Modality, one.SeriesDescription, one.ImageComments = "CT", f"{NAME} O-MAR", f"{NAME} {NUMBER}"
        one.DerivationDescription, one.ReferringPhysicianName = f"{NAME} corrected", "Roe^Doctor"
        one.Rows = one.Columns = 32
        one.PixelSpacing, one.SliceThickness, one.ImageOrientationPatient = [2, 2], 3, [1, 0, 0, 0, 1, 0]
        one.ImagePositionPatient, one.InstanceNumber = [0, 0, 3 * k], k + 1
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation = 15, 1
        one.RescaleSlope, one.RescaleIntercept = 1, 0
        one.PixelData = array[k].tobytes()
        pydicom.dcmwrite(folder / f"{k}.dcm", one, enforce_file_format=True)
    return folder


def telling(folder):
    """Files below a folder (their names included, relative to it) and the secrets in them."""
    found = []
    for file in (f for f in folder.rglob("*") if f.is_file()):
        content = file.read_bytes() + str(file.relative_to(folder)).encode()
        found += [(file.name, secret) for secret in SECRETS if secret.encode() in content]
    return found


def test_what_is_written_doesn_t_tell_who_the_patient_is(tmp_path, capfd, monkeypatch):
    """A DICOM folder with everything in its header, below folders named after the patient: terminal, its job folder
    while it runs, events, log, batch and its summary, headers of images. The word that the scanner's correction is
    known by is the only text that is kept."""
    source = write_series(tmp_path / NAME / NUMBER / "ct")
    seen = []
    monkeypatch.setattr(terminal, "read_result", spying(terminal.read_result, seen))
    out = tmp_path / "out"
    assert main(["run", "li", "--input", str(source), "--output", str(out), "--progress", "json", *SCANNER]) == 0
    assert seen and not [pair for found in seen for pair in found]
    assert "O-MAR" in json.dumps([json.loads(line) for line in capfd.readouterr().out.splitlines()])
    assert telling(out) == []
    image = sitk.ReadImage(str(out / "corrected.nrrd"))
    assert not [k for k in image.GetMetaDataKeys() if any(s in image.GetMetaData(k) for s in SECRETS)]
    assert main(["run", "li", "--input", str(source), "--output", str(out), "--format", "nii.gz", *SCANNER]) == 0
    assert telling(out) == []


def spying(read_result, seen):
    """`read_result` that looks at the job folder first."""

    def spy(folder):
        seen.append(telling(folder.parent))
        return read_result(folder)

    return spy


def test_the_summary_of_a_batch_doesn_t_tell_it_either(tmp_path, capfd):
    """Of studies that fail, too: their sentences name files."""
    good, bad = write_series(tmp_path / NAME / NUMBER / "good"), tmp_path / NAME / f"{NUMBER} bad.nrrd"
    bad.write_bytes(b"NRRD0004\n")
    with open(tmp_path / "list.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("id", "ct"), ("a", good), ("b", bad), ("c", tmp_path / NAME / "none")])
    main(["batch", str(tmp_path / "list.csv"), "--method", "li", "--output", str(tmp_path / "out"), *SCANNER])
    with open(tmp_path / "out" / "summary.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows] == ["done", "failed", "failed"] and all(row["message"] for row in rows[1:])
    assert telling(tmp_path / "out") == []


# ---- who may read, and what is followed ----


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_a_run_works_on_is_closed_to_others_and_its_files_are_not(tmp_path, open_umask, monkeypatch, capsys):
    modes = []
    monkeypatch.setattr(terminal, "read_result", lambda f: (
        modes.append(stat.S_IMODE(f.parent.parent.stat().st_mode)), plain(f))[1])  # fmt: skip
    plain = __import__("diffusion_backend.job", fromlist=["job"]).read_result
    source = head.write(tmp_path / "h.nrrd", head.hu(slices=1, size=32))
    assert main(["run", "li", "--input", str(source), "--output", str(tmp_path / "out"), *SCANNER]) == 0
    assert modes == [0o700]
    assert {stat.S_IMODE(f.stat().st_mode) for f in (tmp_path / "out").iterdir()} == {0o666}


def test_temporary_folders_are_new_and_closed(tmp_path, open_umask):
    with temporary(tmp_path, ".work-") as one, temporary(tmp_path, ".work-") as other:
        assert one != other
        assert {stat.S_IMODE(f.stat().st_mode) for f in (one, other)} == {0o700}


def test_links_at_the_names_of_files_to_come_are_not_followed(tmp_path):
    """Names that another user of the folder can guess."""
    theirs = tmp_path / "theirs"
    theirs.write_text("as it was")
    (tmp_path / f".result.json.{os.getpid()}").symlink_to(theirs)
    (tmp_path / "result.json").symlink_to(theirs)
    write_text(tmp_path / "result.json", "ours")
    assert theirs.read_text() == "as it was" and (tmp_path / "result.json").read_text() == "ours"
    assert not (tmp_path / "result.json").is_symlink()

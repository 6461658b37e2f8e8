"""Which studies a folder or a file holds, and what they are called."""

from __future__ import annotations

import json

import head
import pytest
from batches import QUICK, summary
from test_files import write_dicom

from diffusion_backend import studies
from diffusion_backend.__main__ import main
from diffusion_backend.errors import InputError


def found(path, method="li"):
    return {s["id"]: s[next(k for k in s if k != "id")] for s in studies.read(path, method, path / "out")}


def test_files_of_a_folder_and_its_sub_folders(tmp_path):
    names = ("b.nrrd", "a.nii.gz", "sub/deep er/ü.MHA", "x.1.nrrd", "läb (2).nrrd", ".hidden.nrrd", ".h/c.nrrd",
             "labels.seg.nrrd", "notes.txt", "out/b/corrected.nrrd")  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert found(tmp_path) == {
        "a": str(tmp_path / "a.nii.gz"),
        "b": str(tmp_path / "b.nrrd"),
        "läb _2_": str(tmp_path / "läb (2).nrrd"),
        "x.1": str(tmp_path / "x.1.nrrd"),
        "sub-deep er-ü": str(tmp_path / "sub/deep er/ü.MHA"),
    }
    assert list(found(tmp_path / "sub")) == ["deep er-ü"]


def test_names_do_not_depend_on_what_else_lies_there(tmp_path):
    for name in ("a/ct.nrrd", "b/ct.nrrd"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
        assert f"{name[0]}-ct" in found(tmp_path)
    (tmp_path / "a-ct.nrrd").touch()
    with pytest.raises(InputError, match="'a-ct' in .* repeated"):
        found(tmp_path)


def test_projections_are_other_files(tmp_path):
    for name in ("a.npz", "b.nrrd"):
        (tmp_path / name).touch()
    assert list(found(tmp_path, "fbp")) == ["a"] and list(found(tmp_path, "li")) == ["b"]


def test_an_empty_folder_says_what_is_needed(tmp_path):
    with pytest.raises(InputError, match=r"holds no DICOM series and no file .* \.nrrd"):
        found(tmp_path)


def test_a_list_of_dicom_series_computes_and_names_nobody(tmp_path):
    """Ids come from folders; a series that can't be read is a row with its sentence."""
    import pydicom

    source = tmp_path / "in"
    for name in ("case 1", "case 2/CT", "gap"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        folder = write_dicom(source / name, (0.0, 2.0, 9.0 if name == "gap" else 4.0))
        for file in folder.iterdir():
            data = pydicom.dcmread(file)
            data.PatientName, data.PatientID = "Mustermann^Erika", "4711-ERIKA"
            data.save_as(folder / file.stem)  # without an end, as on a CD
            file.unlink()
    assert list(found(source)) == ["case 1", "case 2-CT", "gap"]
    assert main(["batch", str(source), "--method", "li", "--output", str(tmp_path / "out"), *QUICK, "--set",
                 "metal_threshold=1000"]) == 2  # fmt: skip
    rows = {r["id"]: r for r in summary(tmp_path / "out")}
    assert set(rows) == {"case 1", "gap", "case 2-CT"} and "lie" in rows["gap"]["message"]
    for file in (f for f in (tmp_path / "out").rglob("*") if f.is_file()):
        assert b"ustermann" not in file.read_bytes() and b"ERIKA" not in file.read_bytes(), file


def test_a_single_file_is_a_list_of_one(tmp_path):
    source = head.write(tmp_path / "Größe µ.nrrd", head.hu())
    assert main(["batch", str(source), "--method", "li", "--output", str(tmp_path / "out"), *QUICK]) == 0
    assert json.loads((tmp_path / "out" / "Größe µ" / "result.json").read_text())["method"]["id"] == "li"

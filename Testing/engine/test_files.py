"""Files: geometry in equals geometry out, DICOM, projections, metrics, job and result folders, batch, worker."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import threading

import head
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import skimage.metrics
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from diffusion_backend import worker
from diffusion_backend.__main__ import main
from diffusion_backend.data import Grid, PatientGeometry, Segmentation, Table, Text, projections, volume
from diffusion_backend.errors import DiskError, InputError
from diffusion_backend.execute import Request
from diffusion_backend.io import images
from diffusion_backend.io.arrays import load_item, save_item
from diffusion_backend.io.folders import complete
from diffusion_backend.io.projections import read_projections, write_projections
from diffusion_backend.job import read_job, read_result, run_job, write_job
from diffusion_backend.metrics import image as metrics

FLIPPED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


@pytest.mark.parametrize("direction", [None, FLIPPED, head.rotation()], ids=["straight", "flipped", "oblique"])
@pytest.mark.parametrize("form", ["nrrd", "mha", "nii.gz"])
def test_a_volume_keeps_type_values_and_place(tmp_path, form, direction):
    array = np.random.default_rng(0).integers(-1000, 3000, (3, 5, 7)).astype(np.int16)
    source = head.write(tmp_path / f"in.{form}", array, (0.7, 0.9, 2.5), (-101.5, 33.25, 7.0), direction)
    grid = images.read_volume(source)
    images.write_item(grid, tmp_path / f"out.{form}")
    one, two = sitk.ReadImage(str(source)), sitk.ReadImage(str(tmp_path / f"out.{form}"))
    assert grid.array.dtype == np.int16 and np.array_equal(sitk.GetArrayFromImage(two), array)
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        wanted = getattr(one, get)()
        assert np.allclose(getattr(two, get)(), wanted, rtol=0, atol=1e-5 if form == "nii.gz" else 1e-14)
    # Slicer's matrix of the same voxel: LPS -> RAS
    point = np.array(one.TransformContinuousIndexToPhysicalPoint((1.0, 2.0, 1.0))) * (-1, -1, 1)
    assert np.allclose((np.array(grid.geometry.ijk_to_ras) @ (1, 2, 1, 1))[:3], point, atol=1e-9)


def test_ijk_to_ras_alone_gives_the_same_geometry_and_shear_is_refused():
    made = PatientGeometry.from_itk((0.7, 0.9, 2.5), (1, 2, 3), head.rotation())
    again = PatientGeometry.from_ijk_to_ras(made.ijk_to_ras)
    assert np.allclose(again.spacing, made.spacing) and np.allclose(again.direction, made.direction)
    sheared = np.array(made.ijk_to_ras)
    sheared[0, 1] += 0.5
    with pytest.raises(ValueError, match="sheared"):
        PatientGeometry.from_ijk_to_ras(sheared)


def write_dicom(folder, positions, slope=2.0, intercept=-1024.0):
    """A CT series with rescaling, an oblique plane, and a name that must never be seen again."""
    folder.mkdir()
    series, study = generate_uid(), generate_uid()
    rows, columns, normal = np.array([1, 0, 0.0]), np.array([0, 0.8, 0.6]), np.array([0, -0.6, 0.8])
    for n, z in enumerate(positions):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.PatientName, ds.PatientID, ds.Modality = "Secret^Name", "SECRET-ID", "CT"
        ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.InstanceNumber = series, study, n + 1
        ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = 4, 5, [0.5, 0.75], 2
        ds.ImageOrientationPatient = [*rows, *columns]
        ds.ImagePositionPatient = [round(float(v), 6) for v in np.array([10, 20, 30]) + z * normal]
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        ds.PixelData = np.full((4, 5), 100 + int(z), np.uint16).tobytes()
        pydicom.dcmwrite(folder / f"{n:02d}.dcm", ds, enforce_file_format=True)
    return folder


def test_a_dicom_folder_is_sorted_rescaled_and_placed(tmp_path):
    grid = images.read_volume(write_dicom(tmp_path / "séries 1", (4.0, 0.0, 2.0)))
    assert grid.array.shape == (3, 4, 5)
    assert grid.array[:, 0, 0].tolist() == [2 * (100 + z) - 1024 for z in (0, 2, 4)]
    assert np.allclose(grid.spacing, (0.75, 0.5, 2.0))
    assert np.allclose(grid.geometry.origin, (10, 20, 30), atol=1e-5)
    assert np.allclose(np.array(grid.geometry.direction).reshape(3, 3)[:, 2], (0, -0.6, 0.8), atol=1e-6)


def test_missing_slices_and_two_series_are_said(tmp_path):
    with pytest.raises(InputError, match="Slices are missing"):
        images.read_volume(write_dicom(tmp_path / "gap", (0.0, 2.0, 6.0, 8.0)))
    both = write_dicom(tmp_path / "both", (0.0, 2.0))
    for file in write_dicom(tmp_path / "other", (0.0, 2.0)).iterdir():
        file.rename(both / f"b{file.name}")
    with pytest.raises(InputError, match="2 DICOM series"):
        images.read_volume(both)


def test_segmentations_keep_names(tmp_path):
    placed = PatientGeometry.from_itk((1, 1, 1), (0, 0, 0), head.rotation())
    array = np.zeros((2, 3, 4), np.uint8)
    array[0, 1, 2], array[1, 0, 0] = 1, 2
    images.write_item(Segmentation(array, placed, {"metal": 1, "tooth": 2}), tmp_path / "a.seg.nrrd")
    read = images.read_segmentation(tmp_path / "a.seg.nrrd")
    assert np.array_equal(read.array, array) and read.labels == {"metal": 1, "tooth": 2}


def test_an_unwritable_place_is_a_disk_error(tmp_path):
    grid = volume(np.zeros((1, 2, 2), np.float32), PatientGeometry.from_itk((1, 1, 1), (0, 0, 0), np.eye(3).ravel()))
    with pytest.raises(DiskError, match=r"out.nrrd"):
        images.write_item(grid, tmp_path / "nowhere" / "out.nrrd")


GEOMETRY = {"type": "parallel", "angles_deg": [0.0, 30.0, 60.0], "bins": 4, "bin_mm": 1.5, "offset_mm": 0.25}


def test_projections_as_npz_and_as_nrrd_with_json(tmp_path):
    grid = projections(np.arange(24, dtype=np.float32).reshape(2, 3, 4), GEOMETRY)
    write_projections(grid, tmp_path / "p.npz")
    sitk.WriteImage(sitk.GetImageFromArray(grid.array), str(tmp_path / "q.nrrd"))
    (tmp_path / "q.json").write_text(json.dumps(GEOMETRY))
    for name in ("p.npz", "q.nrrd"):
        read = read_projections(tmp_path / name)
        assert np.array_equal(read.array, grid.array) and read.acquisition == GEOMETRY


def test_projections_that_lack_something_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", sinogram=np.zeros((3, 4)))
    with pytest.raises(InputError, match="lacks the array 'geometry'"):
        read_projections(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", sinogram=np.zeros((3, 4)), geometry=json.dumps({"type": "parallel"}))
    with pytest.raises(InputError, match="lacks angles_deg, bins, bin_mm"):
        read_projections(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", sinogram=np.array([{"a": 1}]), geometry="{}")
    with pytest.raises(InputError, match="can't be read"):
        read_projections(tmp_path / "c.npz")


def test_metrics_against_scikit_image():
    rng = np.random.default_rng(0)
    reference = rng.uniform(-1000, 1000, (40, 50))
    image = np.clip(reference + rng.normal(0, 50, reference.shape), -1000, 1000)
    region = np.zeros(reference.shape, bool)
    region[5:-5, 5:-5] = True
    found = metrics.compare(image, reference, region)
    error = (image - reference)[region]
    mse = skimage.metrics.mean_squared_error(image[region], reference[region])
    assert found["rmse"] == pytest.approx(np.sqrt(mse)) and found["bias"] == pytest.approx(error.mean())
    assert found["mae"] == pytest.approx(np.abs(error).mean())
    peak = skimage.metrics.peak_signal_noise_ratio(reference[region], image[region], data_range=2000)
    assert found["psnr_db"] == pytest.approx(peak)
    _, ssim = skimage.metrics.structural_similarity(image, reference, data_range=2000, full=True)
    assert found["ssim"] == pytest.approx(ssim[region].mean(), rel=1e-9)
    assert metrics.compare(1.01 * image, reference, region)["rmse"] != found["rmse"]


def test_the_body_is_the_largest_part_with_its_holes():
    hu = head.hu(slices=1, size=64, metal=False)[0]
    hu[30:34, 20:24] = -1000  # air inside
    hu[2:8, 2:8] = 40  # something beside the patient
    mask = metrics.body_mask(hu)
    assert mask[31, 21] and not mask[4, 4] and not mask[0, 0]
    assert mask.sum() == pytest.approx(np.pi * (0.4 * 64) ** 2, rel=0.03)


def test_items_survive_the_job_folder_memory_mapped(tmp_path):
    placed = PatientGeometry.from_itk((1, 2, 3), (4, 5, 6), FLIPPED)
    grid = volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), placed)
    for name, item in (("grid", grid), ("seg", Segmentation(np.ones((1, 2, 2), np.uint8), grid.geometry, {"a": 1})),
                       ("table", Table(("x", "y"), [(1, 2.5)])), ("text", Text("words")),
                       ("proj", projections(np.zeros((3, 4), np.float32), GEOMETRY))):  # fmt: skip
        read = load_item(tmp_path, json.loads(json.dumps(save_item(tmp_path, name, item))))
        if isinstance(item, (Grid, Segmentation)):
            assert np.array_equal(read.array, item.array) and read.array.dtype == item.array.dtype
            assert read.geometry == item.geometry and isinstance(read.array, np.memmap)
            assert not read.array.flags.writeable
        else:
            assert read == item
    with pytest.raises(InputError, match="inside the job folder"):
        load_item(tmp_path, {"file": "../secret.npy"})


def job(folder, **more):
    folder.mkdir()
    ct = images.read_volume(head.write(folder.parent / "h.nrrd", head.hu()))
    write_job(folder, Request("li", {"views": 120, "bins": 121}, **more), {"ct": ct})
    return folder


def test_a_job_runs_to_a_complete_result_folder_and_events_name_it(tmp_path):
    events = []
    result = run_job(job(tmp_path / "job"), events.append)
    assert result == tmp_path / "job" / "result"
    record, outputs = read_result(result)
    assert record["schema"] == 1 and record["method"]["id"] == "li"
    assert {"corrected", "difference", "metal"} <= set(outputs)
    assert record["outputs"]["corrected"]["display"] == "compare" and record["outputs"]["corrected"]["unit"] == "HU"
    assert events[-1]["event"] == "result"
    request, inputs = read_job(tmp_path / "job")
    assert request.method == "li" and outputs["corrected"].geometry == inputs["ct"].geometry


def test_a_cancel_file_stops_a_job_and_no_result_appears(tmp_path):
    folder = job(tmp_path / "job")
    (folder / "cancel").touch()
    out = io.StringIO()
    assert worker.serve(folder, out, worker.Stop()) == 5
    last = [json.loads(line) for line in out.getvalue().splitlines()]
    assert last[-1] == {"event": "end", "exit_code": 5, "job": str(folder)}
    assert not (folder / "result").exists() and not list(folder.glob(".result*"))


def test_broken_jobs_are_sentences(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="no job folder"):
        read_job(tmp_path / "a")
    (tmp_path / "a" / "job.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(InputError, match="schema 99"):
        read_job(tmp_path / "a")


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    final = tmp_path / "final"
    with complete(final) as fresh:
        (fresh / "a").write_text("1")
    with pytest.raises(RuntimeError), complete(final) as fresh:
        (fresh / "a").write_text("2")
        raise RuntimeError
    assert (final / "a").read_text() == "1" and [p.name for p in tmp_path.iterdir()] == ["final"]


def test_worker_serves_jobs_and_ends_when_idle_or_when_the_pipe_closes(tmp_path, monkeypatch):
    monkeypatch.setattr(worker.Stop, "on_signals", lambda self: None)
    first, second = job(tmp_path / "j1"), tmp_path / "nowhere"

    class Pipe:
        """A pipe that stays open after its lines."""

        def __iter__(self):
            yield from (f"{first}\n", f"{second}\n")
            threading.Event().wait(10)

    out = io.StringIO()
    assert worker.main(Pipe(), out, idle_seconds=1.0) == 0
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert events[0] == {"event": "ready"}
    assert [e["exit_code"] for e in events if e["event"] == "end"] == [0, 2]
    assert worker.main(io.StringIO(""), io.StringIO(), idle_seconds=60) == 0


def test_batch_writes_a_summary_goes_on_after_errors_and_resumes(tmp_path, capsys):
    good = head.write(tmp_path / "a b.nrrd", head.hu())
    bad = head.write(tmp_path / "bad.nrrd", head.hu(metal=False))
    with open(tmp_path / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "ct"), ("one", good.name), ("two", bad.name)])
    arguments = ["batch", str(tmp_path / "list.csv"), "--method", "li", "--output", str(tmp_path / "out"), "--set",
                 "views=120", "--set", "bins=121"]  # fmt: skip
    main(arguments)
    with open(tmp_path / "out" / "summary.csv", newline="") as file:
        rows = {r["id"]: r for r in csv.DictReader(file)}
    assert set(rows) == {"one", "two"}
    assert (tmp_path / "out" / "one" / "corrected.nrrd").exists() and not (tmp_path / "out" / "two").exists()
    assert "no metal" in json.dumps(rows["two"])
    stamp = (tmp_path / "out" / "one" / "corrected.nrrd").stat().st_mtime_ns
    main(arguments)
    assert (tmp_path / "out" / "one" / "corrected.nrrd").stat().st_mtime_ns == stamp


def test_a_job_with_a_reference_gives_its_metrics_and_the_method_never_sees_it(tmp_path):
    """The reference isn't among the inputs of the record, the result is that of a job without it, and the figures are
    those of the arrays."""
    grid = PatientGeometry.from_itk((1.0, 1.0, 2.0), (0, 0, 0), np.eye(3).ravel())
    ct = volume(head.hu(slices=1), grid)
    truth = volume(head.hu(slices=1, metal=False), grid)
    records = {}
    for name, reference in (("with", truth), ("without", None)):
        folder = tmp_path / name
        folder.mkdir()
        write_job(folder, Request("li", {"views": 120, "bins": 121}, threads=1), {"ct": ct}, reference)
        records[name] = read_result(run_job(folder, lambda event: None))
    (record, outputs), (_, plain) = records["with"], records["without"]
    assert np.array_equal(outputs["corrected"].array, plain["corrected"].array) and "metrics" not in plain
    assert set(record["inputs"]) == {"ct"} and record["outputs"]["metrics"]["display"] == "table"
    rows = [dict(zip(outputs["metrics"].columns, row)) for row in outputs["metrics"].rows]
    row = next(r for r in rows if r["image"] == "corrected" and r["slice"] == "all")
    body = metrics.body_mask(truth.array[0]) & (ct.array[0] <= 2500) & (outputs["corrected"].array[0] <= 2500)
    error = outputs["corrected"].array[0].astype(float) - truth.array[0]
    assert row["rmse"] == pytest.approx(np.sqrt(np.mean(error[body] ** 2)), rel=1e-3)


def test_an_engine_without_torch_names_the_missing_package(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *(p for p in sys.path if p)])}
    command = [sys.executable, "-m", "diffusion_backend", "worker"]
    done = subprocess.run(command, env=environment, input="", capture_output=True, text=True, check=False)
    event = json.loads(done.stdout)
    assert done.returncode == 1 and event["kind"] == "installation" and "'torch'" in event["message"]
    assert "Traceback" not in done.stderr

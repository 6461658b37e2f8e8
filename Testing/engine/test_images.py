"""Geometry is kept bit for bit from input to output: 48 orientations, oblique, anisotropic, one slice."""

from __future__ import annotations

import itertools

import head
import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_backend.data import PatientGeometry, volume
from diffusion_backend.errors import InputError
from diffusion_backend.execute import Request
from diffusion_backend.io import images
from diffusion_backend.job import read_result, run_job, write_job

SPACING, ORIGIN = (0.7, 1.3, 2.9), (-101.123456789, 33.1, 7.7)


def orientations():
    """The 48 ways in which array axes can run along the patient's axes, straight and turned by an oblique rotation."""
    turn = np.array(head.rotation()).reshape(3, 3)
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            straight = np.eye(3)[list(order)].T * signs
            yield straight, turn @ straight


def test_slicers_matrix_and_itks_point_agree_and_survive_for_all_48_orientations_and_oblique_ones():
    seen = set()
    for matrices in orientations():
        for direction in matrices:
            image = sitk.Image(4, 3, 2, sitk.sitkInt16)
            image.SetSpacing(SPACING)
            image.SetOrigin(ORIGIN)
            image.SetDirection(direction.ravel())
            made = PatientGeometry.from_itk(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
            seen.add(tuple(np.sign(direction.round(6)).ravel()))
            point = np.array(image.TransformContinuousIndexToPhysicalPoint((2.25, 1.5, 0.75))) * (-1, -1, 1)
            assert np.allclose((np.array(made.ijk_to_ras) @ (2.25, 1.5, 0.75, 1))[:3], point, rtol=0, atol=1e-12)
            again = PatientGeometry.from_ijk_to_ras(made.ijk_to_ras)
            assert again.ijk_to_ras == made.ijk_to_ras
            assert np.allclose(again.direction, made.direction, rtol=0, atol=1e-14)
            assert PatientGeometry.from_dict(made.to_dict()) == made
    assert len(seen) >= 48


@pytest.mark.parametrize("direction", [head.rotation(), (-1, 0, 0, 0, 1, 0, 0, 0, -1), (0, 0, 1, 1, 0, 0, 0, 1, 0)])
def test_a_method_returns_the_geometry_bit_for_bit(tmp_path, direction):
    """The job folder as the panel writes it: only Slicer's 4 x 4 matrix is given."""
    placed = PatientGeometry.from_itk((2.0, 1.5, 3.0), ORIGIN, direction)
    array = head.hu(slices=3)
    array[:, :, ::7] += 1.0
    (tmp_path / "job").mkdir()
    request = Request("li", {"views": 120, "bins": 121, "metal_threshold": 2500})
    write_job(tmp_path / "job", request, {"ct": volume(array, placed)})
    result = run_job(tmp_path / "job", lambda event: None)
    record, outputs = read_result(result)
    assert outputs["corrected"].geometry == placed and outputs["metal"].geometry == placed
    assert record["outputs"]["corrected"]["ijkToRAS"] == [list(row) for row in placed.ijk_to_ras]
    assert outputs["corrected"].array.shape == array.shape


@pytest.mark.parametrize("form", ["nrrd", "mha", "nii.gz"])
def test_two_dimensional_images_are_volumes_of_one_slice(tmp_path, form):
    image = sitk.GetImageFromArray(np.arange(12, dtype=np.int16).reshape(3, 4))
    image.SetSpacing((0.5, 0.25))
    sitk.WriteImage(image, str(tmp_path / f"flat.{form}"))
    grid = images.read_volume(tmp_path / f"flat.{form}")
    assert grid.array.shape == (1, 3, 4) and np.allclose(grid.spacing[:2], (0.5, 0.25))


def test_four_dimensional_and_colour_images(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.float32), isVector=False)
    sitk.WriteImage(image, str(tmp_path / "time.nrrd"))
    with pytest.raises(InputError, match="4 dimensions, but a volume has three"):
        images.read_volume(tmp_path / "time.nrrd")
    head.write(tmp_path / "rgb.nrrd", np.zeros((2, 3, 4, 3), np.uint8))
    grid = images.read_volume(tmp_path / "rgb.nrrd")
    assert grid.components == 3 and grid.array.shape == (2, 3, 4, 3) and grid.array.dtype == np.uint8
    with pytest.raises(InputError, match="no label image"):
        images.read_segmentation(tmp_path / "rgb.nrrd")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_types_are_never_cast(tmp_path, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    placed = PatientGeometry.from_itk(SPACING, ORIGIN, np.eye(3).ravel())
    images.write_item(volume(array, placed), tmp_path / "a.nrrd")
    read = images.read_volume(tmp_path / "a.nrrd")
    assert read.array.dtype == dtype and np.array_equal(read.array, array)
    assert read.geometry == placed

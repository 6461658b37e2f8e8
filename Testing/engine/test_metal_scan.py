"""Simulated scans with metal: the SynDeepLesion sample, closed forms, limits; footprints of single pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from test_metal import GRID, disc, published, reconstruct, stored

from diffusion_backend.io.syndeeplesion import read
from diffusion_backend.physics import metal, xray
from diffusion_backend.physics.ct import Geometry, ImageGrid, hu_to_mu, mu_to_hu, projector
from diffusion_backend.physics.metal_scan import (
    field_acquisition,
    project_pixels,
    scan,
    scanner_acquisition,
    split_tissue,
)

ANGLES = tuple(np.arange(12) * 30.0 + 7.0)
GEOMETRIES = {"parallel": Geometry("parallel", ANGLES, 101, 1.0, 0.3),
              "fan-arc": Geometry("fan-arc", ANGLES, 121, 1.5, 0.4, 300.0, 550.0),
              "fan-flat": Geometry("fan-flat", ANGLES, 121, 1.5, -0.4, 300.0, 550.0)}
SMALL = ImageGrid(64, 64, 1.0)


def noise(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def slices(hu: np.ndarray, mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(hu)[None], torch.from_numpy(mask).float()[None]


@pytest.mark.parametrize("k", [0, 3])
def test_titanium_in_the_field_convention_gives_the_stored_sinogram(real_data, k):
    case = stored(real_data, k)
    tissue, share = slices(case["hu"], case["mask"])
    got = scan(tissue, share, "titanium", field_acquisition(GRID), projector(published(), GRID), noise(0))[0]
    off = (got - case["y"])
    assert off[case["trace"]].square().mean().sqrt() < 0.008          # measured 0.006, 0.005 (note: 0.044-0.078)
    assert off[~case["trace"]].square().mean().sqrt() < 0.0012        # noise of two measurements
    iron = scan(tissue, share, "iron", field_acquisition(GRID), projector(published(), GRID), None)[0]
    assert (iron - case["y"])[case["trace"]].square().mean().sqrt() > 0.3


def test_metal_free_scan_gives_the_stored_sinogram(real_data):
    clean = torch.from_numpy(read(real_data / "syndeeplesion-sample", 4).reference_sinogram.array[0])
    hu = stored(real_data, 4)["hu"]
    tissue, share = slices(hu, np.zeros(hu.shape, bool))
    got = scan(tissue, share, "titanium", field_acquisition(GRID), projector(published(), GRID), None)[0]
    assert (got - clean).square().mean().sqrt() < 0.0018 and abs(float((got - clean).mean())) < 1e-4


def test_heavier_metals_do_more_harm_and_one_line_does_least(real_data):
    case = stored(real_data, 4)
    tissue, share = slices(case["hu"], case["mask"])
    away = ndimage.distance_transform_edt(~case["mask"])
    ring, p = (away >= 3) & (away <= 20) & case["body"], projector(published(), GRID)

    def errors(name: str, acquisition=None, generators=None) -> tuple[float, float]:
        sinogram = scan(tissue, share, name, acquisition or field_acquisition(GRID), p, generators)
        squared = (mu_to_hu(reconstruct(sinogram))[0].numpy() - case["hu"]) ** 2
        return np.sqrt(squared[case["body"] & ~case["mask"]].mean()), np.sqrt(squared[ring].mean())

    found = {name: errors(name, generators=noise(0)) for name in ("titanium", "iron", "copper", "gold")}
    body, near = zip(*found.values())
    assert list(body) == sorted(body) and list(near) == sorted(near)
    note = {"titanium": (93, 227), "iron": (221, 593), "copper": (306, 841), "gold": (2613, 9759)}
    for name, want in note.items():                                  # another kernel at the metal's edge: 16 %
        assert found[name] == pytest.approx(want, rel=0.16)
    mono = replace(field_acquisition(GRID), tube=xray.monochromatic(), floor=0.0)
    assert errors("titanium", mono) == pytest.approx((60, 92), rel=0.08)


def test_one_line_without_noise_is_the_linear_projection():
    grid, image = SMALL, torch.full((64, 64), -1000.0, dtype=torch.float64)
    image[10:50, 12:52] = 40
    image[20:30, 20:30] = 900
    share = torch.zeros_like(image)
    share[40:44, 40:44] = 1
    p = projector(metal.virtual_geometry(grid, 30, 99), grid, torch.float64)
    acquisition = replace(field_acquisition(grid, 30, 99), tube=xray.monochromatic(), floor=0.0, quarter_edge=False)
    linear = p.forward(hu_to_mu(image)) + p.forward(share) * float(xray.material("iron").attenuation(70.0))
    got = scan(image[None], share[None], "iron", acquisition, p, None)[0]
    assert (got - linear).abs().max() < 1e-12 * 20                    # of line integrals up to 20


def test_tissue_is_split_without_loss():
    hu = torch.tensor([-2000.0, -1000.0, 0.0, 100.0, 800.0, 1500.0, 2500.0])
    water, bone = split_tissue(hu)
    assert torch.allclose(water + bone, hu_to_mu(hu.clamp(min=-1000)))
    assert (bone[:4] == 0).all() and (water[5:] == 0).all() and 0 < bone[4] < water[4] + bone[4]


@pytest.mark.parametrize("name", GEOMETRIES)
def test_footprint_of_pixels_equals_projector_and_keeps_the_area(name):
    image, g = disc(SMALL, 6.3, 1.0, 9.0, -5.0), GEOMETRIES[name]
    joseph, ours = projector(g, SMALL).forward(image), project_pixels(image, 1.0, g)
    assert (ours - joseph).square().mean().sqrt() < 0.02 * joseph.max()
    fine = project_pixels(image, 1.0, replace(g, bins=g.bins * 4, bin_mm=g.bin_mm / 4))
    assert torch.allclose(fine.unflatten(-1, (-1, 4)).mean(-1), ours, atol=1e-5)
    if name == "parallel":
        assert torch.allclose(ours.sum(-1) * g.bin_mm, image.sum().expand(12), rtol=1e-5)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_footprint_reaches_the_chord_of_a_disc(name):
    # The ray nearest to the disc's centre crosses 2 r; a grid of quarter pixels draws the disc finely.
    grid = ImageGrid(256, 256, 0.25)
    ours = project_pixels(disc(grid, 8.0, 1.0, 6.0, 4.0), 0.25, GEOMETRIES[name])
    assert (ours.max(-1).values - 16.0).abs().max() < 0.15


def test_partial_volume_is_averaged_before_the_logarithm():
    grid, share = SMALL, torch.zeros(1, 64, 64)
    share[0, 30:34, 30:34] = 1
    air = torch.full((1, 64, 64), -1000.0)
    base = replace(scanner_acquisition(grid, views=24, scatter=0.0, electronic=0.0), tube=xray.monochromatic())
    p = projector(base.geometry, grid)
    fine = scan(air, share, "gold", base, p, None)
    fine_line = project_pixels(share[0], 1.0, replace(base.geometry, bins=base.geometry.bins * 4,
                                                      bin_mm=base.geometry.bin_mm / 4)).unflatten(-1, (-1, 4))
    mu = float(xray.material("gold").attenuation(70.0))
    want = -torch.log(torch.exp(-fine_line.double() * mu).mean(-1))
    assert torch.allclose(fine[0].double(), want, atol=1e-5)
    assert (fine_line.mean(-1) * mu - want).max() > 0.5               # the averaged line integral is too large


def test_scatter_fills_the_shadow_and_spares_the_body():
    grid = ImageGrid(96, 96, 3.0)
    tissue = -1000.0 + disc(grid, 120, 1000.0)[None]
    none, share = torch.zeros_like(tissue), disc(grid, 20, 1.0)[None]
    quiet = replace(scanner_acquisition(grid, views=60, scatter=0.0), electronic=0.0)
    loud = replace(quiet, scatter=0.05)
    p = projector(quiet.geometry, grid)
    bare, scattered = (scan(tissue, none, "iron", a, p, None) for a in (quiet, loud))
    assert torch.allclose(scattered, bare, atol=1e-4)
    deep, shallow = (scan(tissue, share, "iron", a, p, None).max() for a in (quiet, loud))
    assert shallow < deep - 5 and 6 < shallow < 12                    # -ln(5 %) above the tissue's 4.6


def test_slices_are_measured_alike_in_any_batch():
    grid = ImageGrid(64, 64, 2.0)
    tissue = -1000.0 + torch.stack([disc(grid, r, 1000.0) for r in (30, 50, 60)])
    share = torch.stack([disc(grid, r, 1.0, 5) for r in (3, 0, 5)])
    acquisition = scanner_acquisition(grid, views=40)
    p = projector(acquisition.geometry, grid)
    together = scan(tissue, share, "ti6al4v", acquisition, p, noise(1, 2, 3))
    for k in range(3):
        alone = scan(tissue[k:k + 1], share[k:k + 1], "ti6al4v", acquisition, p, noise(k + 1))
        assert (alone[0] - together[k]).abs().max() < 0.02           # a rounded count may differ by one
        assert (alone[0] - together[k]).abs().mean() < 1e-4


def test_the_field_convention_scales_every_slice_to_its_published_width():
    small, large = ImageGrid(64, 64, 2.4), ImageGrid(64, 64, 6.0)
    seen = []
    for grid in (small, large):
        tissue = -1000.0 + disc(grid, 25 * grid.pixel_mm, 1000.0)[None]
        share = disc(grid, 3 * grid.pixel_mm, 1.0, 8 * grid.pixel_mm)[None]
        acquisition = field_acquisition(grid, 40, 99)
        got = scan(tissue, share, "titanium", acquisition, projector(acquisition.geometry, grid), None)
        seen.append(got * metal.field_scale(grid))
    assert torch.allclose(seen[0], seen[1], atol=1e-4)


@pytest.mark.parametrize("rows,columns,pixel", [(64, 64, 7.0), (512, 512, 0.8), (100, 60, 2.0)])
def test_the_scanner_sees_the_whole_slice(rows, columns, pixel):
    g = scanner_acquisition(ImageGrid(rows, columns, pixel), views=90).geometry
    corner = math.hypot(rows, columns) * pixel / 2
    assert g.source_axis_mm > corner
    assert (g.bins / 2 * g.bin_mm - g.offset_mm) / g.source_detector_mm > math.asin(corner / g.source_axis_mm)

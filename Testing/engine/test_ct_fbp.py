"""Filtered backprojection: discs, short scans, filter taps, weights; real slice."""

from __future__ import annotations

import math

import ct_phantoms
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from diffusion_backend.errors import InputError
from diffusion_backend.io import syndeeplesion
from diffusion_backend.physics.ct import Geometry, ImageGrid, hu_to_mu, mu_to_hu, projector
from diffusion_backend.physics.fbp import parker_weights, ramp_response, scan_range, view_weights
from diffusion_backend.physics.reconstruct import fbp

GRID = ImageGrid(128, 120, 1.0)
RADIUS = 60.0


def scan(kind: str, span: float, views: int, start: float = 0.0, offset: float = 0.3, bins: int = 220) -> Geometry:
    """Half fan about 19 degrees; `offset` in bins."""
    fan = {} if kind == "parallel" else {"source_axis_mm": 200.0, "source_detector_mm": 350.0}
    pitch = 0.7 if kind == "parallel" else 1.1
    angles = tuple(start + np.arange(views) * span / views)
    return Geometry(kind, angles, bins, pitch, offset * pitch, **fan)


def disc_error(geometry: Geometry, **options) -> tuple[float, float]:
    """Relative mean error and largest error (smoothed over 5 x 5 pixels) inside a disc off the axis."""
    exact = ct_phantoms.line_integrals(geometry, ct_phantoms.DISC, RADIUS)
    found = fbp(exact, geometry, GRID, **options)
    solid = ct_phantoms.image(GRID, ct_phantoms.DISC, RADIUS) > 0.0199
    inside = torch.from_numpy(binary_erosion(solid.numpy(), iterations=4))
    smooth = torch.nn.functional.avg_pool2d(found[None], 5, 1, 2)[0]
    return float(found[inside].mean() / 0.02 - 1), float((smooth[inside] / 0.02 - 1).abs().max())


@pytest.mark.parametrize("window", ["ramp", "hann"])
@pytest.mark.parametrize("kind,span,views", [
    ("parallel", 180, 240), ("parallel", 360, 480), ("parallel", -180, 240), ("fan-flat", 360, 480),
    ("fan-arc", 360, 480), ("fan-flat", -360, 480), ("fan-flat", 222, 300), ("fan-arc", 222, 300),
    ("fan-arc", -222, 300), ("fan-flat", 280, 373)])
def test_disc_is_flat(kind, span, views, window):
    mean, largest = disc_error(scan(kind, span, views, start=37.0), window=window)
    assert abs(mean) < 0.003 and largest < 0.01


@pytest.mark.parametrize("kind", ["fan-flat", "fan-arc"])
def test_short_scan_without_parker_weights_isnt_flat(kind):
    assert disc_error(scan(kind, 222, 300), short_scan=False)[1] > 0.03


def test_outside_of_the_disc_is_empty():
    g = scan("fan-arc", 360, 480)
    found = fbp(ct_phantoms.line_integrals(g, ct_phantoms.DISC, RADIUS), g, GRID)
    near = ct_phantoms.image(GRID, ((0.15, -0.1, 0.7, 0.7, 0, 1.0),), RADIUS)
    field = ct_phantoms.image(GRID, ((0, 0, 1, 1, 0, 1.0),), RADIUS)
    far = (near == 0) & (field == 1)
    assert float(found[far].mean().abs()) < 1e-4 and float(found[far].std()) < 1e-3


def test_irregular_views_get_their_share():
    angles = np.sort(np.random.default_rng(0).uniform(0, 360, 900))
    g = Geometry("fan-flat", tuple(np.random.default_rng(1).permutation(angles)), 220, 1.1, 0.0, 200.0, 350.0)
    _, share, covered = scan_range(g)
    assert covered == pytest.approx(2 * math.pi) and share.sum() == pytest.approx(2 * math.pi)
    assert abs(disc_error(g)[0]) < 0.005


@pytest.mark.parametrize("kind", ["fan-flat", "fan-arc"])
@pytest.mark.parametrize("extra", [1.0, 20.0])
def test_parker_weights_of_opposite_rays_add_to_one(kind, extra):
    g = scan(kind, 360, 4, offset=0.0, bins=41)
    gamma = g.fan_angles().numpy()
    covered = math.pi + 2 * g.half_fan_rad() + math.radians(extra)
    for b in (0, 5, 20, 33, 40):
        beta = np.linspace(0.01, covered - math.pi + 2 * gamma[b] - 0.01, 9)
        beta = beta[(beta > 0) & (beta < covered - math.pi + 2 * gamma[b])]
        here = parker_weights(g, beta, covered)[:, b]
        there = parker_weights(g, beta + math.pi - 2 * gamma[b], covered)[:, 40 - b]
        assert (here + there - 1).abs().max() < 1e-12


def test_view_weights_sum_to_half_a_turn():
    for g in (scan("parallel", 180, 90), scan("parallel", 360, 91), scan("fan-flat", 360, 90),
              scan("fan-arc", 222, 400), scan("fan-flat", 120, 60), scan("fan-arc", 300, 250)):
        expected = min(math.pi, math.radians(abs(g.angles_deg[-1] - g.angles_deg[0]) * g.views / (g.views - 1)))
        assert float(view_weights(g).sum(0)[g.bins // 2]) == pytest.approx(expected, rel=2e-3)


def test_too_short_a_scan_is_refused_only_if_asked():
    g = scan("fan-flat", 150, 100)
    with pytest.raises(InputError, match="cover 150.0 degrees"):
        fbp(torch.zeros(100, 220), g, GRID, short_scan=True)
    assert fbp(torch.zeros(100, 220), g, GRID).abs().max() == 0
    with pytest.raises(InputError, match="99 x 220"):
        fbp(torch.zeros(99, 220), g, GRID)


def test_ramp_filter_taps():
    d = 0.8
    taps = torch.fft.irfft(ramp_response(100, d))
    assert len(taps) == 256 and taps[0] == pytest.approx(1 / (4 * d))
    assert taps[[1, 3, 99]].tolist() == pytest.approx([-1 / (math.pi**2 * k * k * d) for k in (1, 3, 99)])
    assert taps[[2, 4]].abs().max() < 1e-15 and torch.allclose(taps[1:], taps[1:].flip(0))
    arc = torch.fft.irfft(ramp_response(100, 0.01, arc=True))
    assert arc[3] == pytest.approx(-0.01 / (math.pi * math.sin(0.03)) ** 2)
    hann, ramp = ramp_response(100, d, "hann"), ramp_response(100, d)
    assert hann[-1].abs() < 1e-12 and hann[64] == pytest.approx(float(ramp[64]) / 2)
    with pytest.raises(ValueError, match="'box'"):
        ramp_response(100, d, "box")


@pytest.mark.parametrize("kind,span,rows", [("fan-flat", 360, 24), ("fan-arc", 222, 31), ("parallel", 180, 24)])
def test_fbp_is_linear_batched_and_differentiable(kind, span, rows):
    g, grid = scan(kind, span, 40, bins=61), ImageGrid(rows, 24, 1.5)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(3, 2, 40, 61, generator=generator, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 2, rows, 24, generator=generator, dtype=torch.float64)
    found = fbp(y, g, grid)
    single = fbp(y[1, 1], g, grid)
    assert (found[1, 1] - single).abs().max() < 1e-12 * single.abs().max()
    (gradient,) = torch.autograd.grad((found * x).sum(), y)
    z = torch.randn(3, 2, 40, 61, generator=generator, dtype=torch.float64)
    assert float((fbp(z, g, grid) * x).sum()) == pytest.approx(float((gradient * z).sum()), rel=1e-9)


def sample(real_data) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Geometry, ImageGrid]:
    """SynDeepLesion slice: image in HU, polychromatic projections, their published FBP in HU, geometry, grid."""
    folder = real_data / "syndeeplesion-sample"
    stored = syndeeplesion.read(folder, 0)
    published = np.load(folder / "gt.npz")["poly_CT_hu"].astype(np.float32)
    arrays = (stored.reference.array[0], stored.reference_sinogram.array[0], published)
    geometry = Geometry.from_dict(syndeeplesion.geometry())
    return *map(torch.from_numpy, arrays), geometry, ImageGrid(416, 416, syndeeplesion.PIXEL_MM)


@pytest.mark.real
def test_projection_of_a_real_slice_meets_its_stored_sinogram(real_data):
    image, sinogram, _, geometry, grid = sample(real_data)
    found = projector(geometry, grid).forward(hu_to_mu(image))
    gap = found - sinogram
    assert float(gap.pow(2).mean().sqrt()) == pytest.approx(0.0119, abs=0.0003)
    assert float(gap.mean()) == pytest.approx(-0.0082, abs=0.0003)
    assert float((found * sinogram).sum() / (found * found).sum()) == pytest.approx(1.0073, abs=0.0003)


@pytest.mark.real
def test_fbp_of_a_real_sinogram_meets_its_published_reconstruction(real_data):
    image, sinogram, published, geometry, grid = sample(real_data)
    gap = mu_to_hu(fbp(sinogram, geometry, grid)) - published
    body = torch.from_numpy(binary_erosion(image.numpy() > -500, iterations=5))
    assert float(gap[body].mean()) == pytest.approx(-8, abs=1) and float(gap[body].std()) < 2.5

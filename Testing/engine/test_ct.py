"""Geometry, projector and matched adjoint: laws, closed forms, ASTRA."""

from __future__ import annotations

import math

import astra
import ct_phantoms
import numpy as np
import pytest
import torch

from diffusion_backend.errors import InputError
from diffusion_backend.physics.ct import (
    MEMORY_LIMIT,
    Backprojector,
    Geometry,
    ImageGrid,
    Projector,
    _operators,
    hu_to_mu,
    mu_to_hu,
    projector,
    quarter_turns,
)
from diffusion_backend.physics.tables import gather_sum, joseph_table, transpose

FAN = {"source_axis_mm": 80.0, "source_detector_mm": 130.0}
ANGLES = {
    "full circle": np.arange(60) * 6.0 + 0.7,
    "full circle, clockwise": -np.arange(60) * 6.0,
    "half circle": np.arange(50) * 3.6,
    "odd number": np.arange(37) * 360 / 37,
    "irregular": np.cumsum(np.linspace(1, 17, 23)) + 11.0,
    "axes": np.array([0.0, 45.0, 90.0, 180.0, 270.0, 359.9999]),
}
GRIDS = {"square": ImageGrid(33, 33, 1.1), "even": ImageGrid(32, 32, 1.1), "wide": ImageGrid(31, 40, 0.9),
         "tall": ImageGrid(38, 27, 0.9), "row": ImageGrid(1, 33, 1.1)}


def geometry(kind: str, angles: np.ndarray, bins: int = 57, offset: float = 0.6, pitch: float = 1.7) -> Geometry:
    return Geometry(kind, tuple(angles), bins, pitch, offset, **({} if kind == "parallel" else FAN))


CASES = [(kind, angles, grid, limit) for kind in ("parallel", "fan-arc", "fan-flat")
         for angles, grid, limit in (("full circle", "square", None), ("full circle", "even", 250_000),
                                     ("full circle, clockwise", "square", None), ("half circle", "even", None),
                                     ("full circle", "wide", None), ("odd number", "tall", 250_000),
                                     ("irregular", "wide", None), ("axes", "square", None),
                                     ("odd number", "row", None))]


def dot_gap(op: Projector, batch: tuple[int, ...] = (3,)) -> float:
    """|<Ax,y> - <x,A'y>| / (|Ax| |y|), sums in float64."""
    g = torch.Generator().manual_seed(7)
    x = torch.randn(*batch, op.grid.rows, op.grid.columns, generator=g, dtype=op.dtype)
    y = torch.randn(*batch, op.geometry.views, op.geometry.bins, generator=g, dtype=op.dtype)
    ax, aty = op.forward(x), op.adjoint(y)
    assert ax.shape == y.shape and aty.shape == x.shape and ax.norm() > 0
    gap = (ax.double() * y.double()).sum() - (x.double() * aty.double()).sum()
    return float(gap.abs() / (ax.double().norm() * y.double().norm()))


@pytest.mark.parametrize("kind,angles,grid,limit", CASES)
@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_adjoint_is_the_transpose(kind, angles, grid, limit, dtype, tolerance):
    op = Projector(geometry(kind, ANGLES[angles]), GRIDS[grid], dtype=dtype, memory_limit_bytes=limit or MEMORY_LIMIT)
    assert (len(op.tables.blocks) > 1) == (limit is not None)
    assert dot_gap(op) <= tolerance


@pytest.mark.parametrize("kind,angles,grid,limit", CASES)
def test_turns_and_blocks_equal_one_table_of_all_views(kind, angles, grid, limit):
    g, grid = geometry(kind, ANGLES[angles]), GRIDS[grid]
    op = Projector(g, grid, dtype=torch.float64, memory_limit_bytes=limit or MEMORY_LIMIT)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(grid.rows, grid.columns, generator=generator, dtype=torch.float64)
    y = torch.randn(g.views, g.bins, generator=generator, dtype=torch.float64)
    table = joseph_table(g, grid, 0, g.views, torch.float64)
    expected = gather_sum(table, x.view(-1, 1)).view(g.views, g.bins)
    back = gather_sum(transpose(table, x.numel()), y.view(-1, 1)).view(x.shape)
    for _ in range(2):  # second time from kept tables
        assert (op.forward(x) - expected).abs().max() <= 1e-12 * expected.abs().max()
        assert (op.adjoint(y) - back).abs().max() <= 1e-12 * back.abs().max()


@pytest.mark.parametrize("angles,grid,turns", [
    ("full circle", "square", [0, 1, 2, 3]), ("full circle, clockwise", "even", [0, -1, -2, -3]),
    ("half circle", "square", [0, 1]), ("full circle", "wide", [0, 2]), ("odd number", "square", [0]),
    ("half circle", "wide", [0]), ("irregular", "square", [0])])
def test_symmetry_of_the_views_is_found(angles, grid, turns):
    assert quarter_turns(geometry("fan-flat", ANGLES[angles]), GRIDS[grid]) == turns


def test_tables_stay_within_the_limit():
    limit = 250_000
    op = Projector(geometry("fan-arc", ANGLES["odd number"]), GRIDS["even"], memory_limit_bytes=limit)
    dot_gap(op)
    assert 0.3 * limit < op.tables.held_bytes <= limit
    whole = Projector(geometry("fan-arc", ANGLES["odd number"]), GRIDS["even"])
    dot_gap(whole)
    assert len(whole.tables.blocks) == 1 and whole.tables.held_bytes > limit


def test_cache_holds_two_geometries():
    grid = GRIDS["square"]
    one, two, three = (geometry("parallel", ANGLES["full circle"], bins=b) for b in (5, 6, 7))
    first = projector(one, grid)
    assert projector(one, grid) is first
    projector(two, grid)
    projector(three, grid)
    assert projector(one, grid) is not first and _operators.cache_info().currsize == 2


@pytest.mark.parametrize("slices", [1, 3, 16, 37])
def test_batch_equals_single_slices(slices):
    op = projector(geometry("fan-flat", ANGLES["full circle"]), GRIDS["even"])
    x = torch.randn(slices, 32, 32, generator=torch.Generator().manual_seed(3))
    y = op.forward(x)
    single = torch.stack([op.forward(s) for s in x])
    assert (y - single).abs().max() <= 1e-5 * y.abs().max()
    back = torch.stack([op.adjoint(s) for s in y])
    assert (op.adjoint(y) - back).abs().max() <= 1e-5 * back.abs().max()
    assert op.forward(x[:, None, None]).shape == (slices, 1, 1, 60, 57)


@pytest.mark.parametrize("kernel", ["csr", "add"])
def test_kernels_agree(kernel):
    g, grid = geometry("fan-arc", ANGLES["odd number"]), GRIDS["wide"]
    reference = Projector(g, grid, dtype=torch.float64)
    other = Projector(g, grid, dtype=torch.float64, kernel=kernel)
    x = torch.randn(5, 31, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = reference.forward(x)
    assert torch.allclose(other.forward(x), y, rtol=0, atol=1e-12 * float(y.abs().max()))
    z = reference.adjoint(y)
    assert torch.allclose(other.adjoint(y), z, rtol=0, atol=1e-12 * float(z.abs().max()))


def test_gradients_of_both_directions_and_second_order():
    small = Geometry("fan-flat", tuple(ANGLES["full circle"][::15]), 7, 1.7, 0.3, 20.0, 33.0)
    op = Projector(small, ImageGrid(5, 5, 1.0), dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 5, generator=g, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 4, 7, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(op.forward, x) and torch.autograd.gradcheck(op.adjoint, y)
    assert torch.autograd.gradgradcheck(lambda v: op.forward(v).pow(3), x)
    backprojector = Backprojector(op.geometry, op.grid, dtype=torch.float64)
    assert torch.autograd.gradcheck(backprojector.backproject, y)


@pytest.mark.parametrize("kind", ["parallel", "fan-arc", "fan-flat"])
def test_ellipses_within_one_percent(kind):
    fan = {} if kind == "parallel" else {"source_axis_mm": 400.0, "source_detector_mm": 700.0}
    g = Geometry(kind, tuple(np.arange(48) * 7.5 + 1), 300, 1.0 if kind == "parallel" else 1.7, 0.4, **fan)
    grid = ImageGrid(256, 256, 0.9)
    exact = ct_phantoms.line_integrals(g, ct_phantoms.ELLIPSES, 115.0)
    ours = projector(g, grid).forward(ct_phantoms.image(grid, ct_phantoms.ELLIPSES, 115.0).float())
    assert float((ours - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()) < 0.004  # gate: 0.01


def test_central_ray_of_a_disc_is_its_diameter():
    g = Geometry("fan-flat", (0.0, 33.0), 512, 1.6, 0.8, 595.0, 1085.6)
    grid = ImageGrid(256, 256, 1.328)
    disc = ct_phantoms.image(grid, ((0, 0, 1, 1, 0, 1.0),), 100.0)
    y = projector(g, grid, torch.float64).forward(disc)
    middle = int(g.positions_mm().abs().argmin())
    assert g.positions_mm()[middle] == pytest.approx(0, abs=1e-9)
    assert y[:, middle] == pytest.approx([200, 200], rel=3e-3)


@pytest.mark.parametrize("row,column,angle,expected", [(207, 308, 0.0, 429.45), (100, 250, 1.0, 441.06)])
def test_one_pixel_lands_at_the_bin_of_the_formula(row, column, angle, expected):
    """Numbers of the SynDeepLesion geometry (lengths in pixels): wrong signs or axes move the shadow."""
    g = Geometry("fan-flat", (math.degrees(angle),), 641, 2 * math.sqrt(2) * 416 / 641, 0.0, 1075.0, 2150.0)
    x = torch.zeros(416, 416)
    x[row, column] = 1
    y = projector(g, ImageGrid(416, 416, 1.0)).forward(x)[0].double()
    assert float((y * torch.arange(641)).sum() / y.sum()) == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("kind", ["parallel", "fan-flat"])
def test_agrees_with_astra(kind):
    n = 256
    angles = np.arange(60) * (3.0 if kind == "parallel" else 6.0)
    fan = {} if kind == "parallel" else {"source_axis_mm": 512.0, "source_detector_mm": 1024.0}
    g = Geometry(kind, tuple(angles), 384, 1.0 if kind == "parallel" else 2.0, 0.0, **fan)
    x = ct_phantoms.image(ImageGrid(n, n, 1.0), ct_phantoms.ELLIPSES, 120.0).numpy()
    if kind == "parallel":
        pg, model, tolerance = astra.create_proj_geom("parallel", 1.0, 384, np.deg2rad(angles)), "linear", 1e-5
    else:
        pg = astra.create_proj_geom("fanflat", 2.0, 384, np.deg2rad(angles), 512.0, 512.0)
        model, tolerance = "line_fanflat", 2.5e-3  # chords of pixels, not the bilinear image: measured 1.4e-3 on discs
    volume = astra.create_vol_geom(n, n)
    identifier, theirs = astra.create_sino(x.astype(np.float32), astra.create_projector(model, pg, volume))
    astra.data2d.delete(identifier)
    ours = projector(g, ImageGrid(n, n, 1.0)).forward(torch.from_numpy(x).float()).numpy()
    assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)


def test_units():
    hu = [-1000.0, 0.0, 3000.0]
    assert mu_to_hu(hu_to_mu(torch.tensor(hu))).tolist() == pytest.approx(hu, abs=1e-3)
    assert hu_to_mu(0.0) == 0.0192 and hu_to_mu(-1000.0) == 0.0
    x = torch.rand(20, 20, generator=torch.Generator().manual_seed(0))
    single = projector(Geometry("parallel", (10.0,), 30, 1.0), ImageGrid(20, 20, 1.0)).forward(x)
    double = projector(Geometry("parallel", (10.0,), 30, 2.0), ImageGrid(20, 20, 2.0)).forward(x)
    assert torch.allclose(2 * single, double, rtol=1e-5)


def test_geometry_survives_json():
    g = geometry("fan-arc", ANGLES["irregular"])
    assert Geometry.from_dict(g.to_dict()) == g and hash(g) == hash(Geometry.from_dict(g.to_dict()))
    p = geometry("parallel", ANGLES["axes"])
    assert Geometry.from_dict(p.to_dict()) == p


@pytest.mark.parametrize("change,words", [
    ({"type": "cone"}, "must be one of"), ({"angles_deg": []}, "at least one view"), ({"bin_mm": 0.0}, "pitch above 0"),
    ({"angles_deg": [0.0, float("nan")]}, "finite"), ({"source_axis_mm": None}, "source_axis_mm = None"),
    ({"source_detector_mm": 50.0}, "<= source_detector_mm"), ({"bins": None}, "lacks bins"),
    ({"bins": "many"}, "isn't a number"), ({"bin_mm": 20.0}, "less than 180"), ({"offset_mm": float("inf")}, "finite")])
def test_bad_geometry_gets_a_sentence(change, words):
    with pytest.raises(InputError, match=words):
        Geometry.from_dict({**geometry("fan-arc", ANGLES["axes"]).to_dict(), **change})


def test_misfits_get_a_sentence():
    g = geometry("fan-flat", ANGLES["axes"])
    op = Projector(g, GRIDS["square"])
    with pytest.raises(InputError, match="7 x 57 values.*6 views x 57 bins"):
        op.adjoint(torch.zeros(7, 57))
    with pytest.raises(ValueError, match="33 rows"):
        op.forward(torch.zeros(33, 34))
    with pytest.raises(InputError, match="source turns at 80 mm"):
        Projector(g, ImageGrid(200, 200, 1.0))
    with pytest.raises(InputError, match="pixel size above 0"):
        ImageGrid(4, 4, -1.0)
    with pytest.raises(ValueError, match="float32"):
        Projector(g, GRIDS["square"], dtype=torch.float64, device="mps")

"""Sparse matrices of view-based tomography as row-compressed tables, and their fast product with slices.

A table holds offsets [rows + 1], column indices and weights; its product with x [columns, slices] is a weighted sum
of rows of x. Forward and adjoint have a table each: the adjoint is the *transposed* table, hence exactly matched.
All builders work in float64 on the CPU, whatever the type of the finished table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor

if TYPE_CHECKING:
    from .ct import Geometry, ImageGrid

ADD_CHUNK = 1 << 24  # products held at once by the portable kernel
BLOCK_SHARE = 16  # a block of views takes at most 1/16 of the memory limit where not all views fit
ESTIMATE_SLACK = 1.05  # margin on estimated table sizes
WHOLE_MAXIMUM = 1 << 33  # bytes of one table: keeps the number of weights far below the range of int32


class Table(NamedTuple):
    """Row-compressed matrix: offsets int32 [rows + 1], column int32 [weights], weight float [weights]."""

    offsets: Tensor
    column: Tensor
    weight: Tensor

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self)

    def to(self, device: torch.device) -> Table:
        return Table(*(t.to(device) for t in self))


def transpose(table: Table, columns: int) -> Table:
    """Table of the transposed matrix (rows = former columns); entries keep their order within a row."""
    off, idx, w = (t.cpu().numpy() for t in table)
    t = csr_matrix((w, idx, off), shape=(len(off) - 1, columns)).tocsc()
    return Table(*(torch.from_numpy(a) for a in (t.indptr, t.indices, t.data))).to(table.weight.device)


def gather_sum(table: Table, x: Tensor, kernel: str = "auto") -> Tensor:
    """Product of a table with x [columns, slices] -> [rows, slices].

    kernel: "bag" (embedding_bag: fastest on x86, deterministic on CUDA), "csr" (sparse product), "add" (indexed
    addition: runs everywhere), "auto" = "add" on MPS, which lacks the other two, and "bag" elsewhere."""
    if kernel == "auto":
        kernel = "add" if x.device.type == "mps" else "bag"
    off, idx, w = table
    if kernel == "bag":
        return F.embedding_bag(idx, x, off, mode="sum", per_sample_weights=w, include_last_offset=True)
    rows = len(off) - 1
    if kernel == "csr":
        return torch.sparse_csr_tensor(off, idx, w, (rows, len(x)), check_invariants=False) @ x
    row = torch.repeat_interleave(torch.arange(rows, device=x.device), off.diff().long())
    out = x.new_zeros(rows, x.shape[1])
    step = max(1, ADD_CHUNK // x.shape[1])
    for i in range(0, len(idx), step):
        out.index_add_(0, row[i : i + step], x[idx[i : i + step].long()] * w[i : i + step, None])
    return out


def rays(geometry: Geometry, view: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Origin x, y (mm) and direction x, y of the rays of one view, each float64 [bins]. Source at angle t:
    (R sin t, -R cos t); detector axis (cos t, sin t); parallel rays run along (-sin t, cos t)."""
    t = torch.deg2rad(torch.tensor(geometry.angles_deg[view], dtype=torch.float64))
    sin, cos, u = t.sin(), t.cos(), geometry.positions_mm()
    if geometry.type == "parallel":
        return u * cos, u * sin, (-sin).expand_as(u), cos.expand_as(u)
    g = geometry.fan_angles()
    r, _ = geometry.distances_mm()
    one = torch.ones_like(u)
    return r * sin * one, -r * cos * one, g.sin() * cos - g.cos() * sin, g.sin() * sin + g.cos() * cos


class March(NamedTuple):
    """Where the rays of one view cross the grid, all [bins]. A flat ray marches along x, a steep one along y; at step
    first <= k < first + count it crosses the other axis at start - slope * k, in pixels; a step is length mm long."""

    flat: Tensor
    start: Tensor
    slope: Tensor
    length: Tensor
    first: Tensor
    count: Tensor


def march(geometry: Geometry, grid: ImageGrid, view: int) -> March:
    """Each ray marches along the axis of its larger direction component, over the steps that meet the grid."""
    ox, oy, dx, dy = rays(geometry, view)
    ox, oy = ox / grid.pixel_mm, oy / grid.pixel_mm
    cx, cy = (grid.columns - 1) / 2, (grid.rows - 1) / 2
    flat = dx.abs() >= dy.abs()
    slope = torch.where(flat, dy / dx, dx / dy)
    slope = torch.where(slope == 0, 1e-200, slope)  # spares a case below; no position changes
    start = torch.where(flat, cy - oy + slope * (ox + cx), cx + ox + slope * (cy - oy))
    width = torch.where(flat, grid.rows, grid.columns)
    steps = torch.where(flat, grid.columns, grid.rows)
    # A pixel has weight while -1 < position < width.
    ends = torch.stack([(start + 1) / slope, (start - width) / slope])
    first = torch.minimum(ends.amin(0).ceil().clamp(min=0), steps).long()
    last = torch.minimum(ends.amax(0).floor(), steps - 1.0).clamp(min=-1).long()
    return March(flat, start, slope, (1 + slope * slope).sqrt() * grid.pixel_mm, first, (last + 1 - first).clamp(min=0))


def joseph_view(m: March, grid: ImageGrid, column: Tensor, weight: Tensor) -> None:
    """Fills column int32 and weight [steps, 2] with the two neighbours of every step of one view's rays."""
    ray = torch.repeat_interleave(m.count)
    k = torch.arange(len(ray)) + (m.first - m.count.cumsum(0) + m.count)[ray]
    p = m.start[ray].addcmul_(m.slope[ray], k, value=-1)
    low = p.floor()
    length = m.length.to(weight.dtype)[ray]
    upper = p.sub_(low).to(weight.dtype).mul_(length)
    low, width = low.int(), torch.where(m.flat, grid.rows, grid.columns).int()[ray]
    across = torch.where(m.flat, grid.columns, 1).int()[ray]
    along = k.int() * torch.where(m.flat, 1, grid.columns).int()[ray]
    for side, w in ((0, length - upper), (1, upper)):  # outside the grid: weight 0 on its border
        j = low + side
        torch.mul(w, (j >= 0) & (j < width), out=weight[:, side])
        torch.addcmul(along, torch.minimum(j.clamp_(min=0), width - 1), across, out=column[:, side])


def joseph_table(geometry: Geometry, grid: ImageGrid, first: int, last: int, dtype: torch.dtype) -> Table:
    """Line integrals of the bilinear image (Joseph, IEEE TMI 1(3), 1982) for the views first ... last - 1.

    One sample per row or column, two weights a sample, step sqrt(1 + slope^2) pixels. Rows = rays (view-major),
    columns = pixels, weights in mm."""
    marches = [march(geometry, grid, v) for v in range(first, last)]
    offsets = F.pad(torch.cat([m.count for m in marches]).cumsum(0), (1, 0))
    column = torch.empty(int(offsets[-1]), 2, dtype=torch.int32)
    weight = torch.empty(len(column), 2, dtype=dtype)
    for v, m in enumerate(marches):
        a, b = offsets[v * geometry.bins], offsets[(v + 1) * geometry.bins]
        joseph_view(m, grid, column[a:b], weight[a:b])
    return Table((2 * offsets).int(), column.view(-1), weight.view(-1))


def pixel_table(geometry: Geometry, grid: ImageGrid, first: int, last: int, dtype: torch.dtype) -> Table:
    """Pixel-driven backprojection of the views first ... last - 1 with distance weights and linear interpolation
    between bins (Kak & Slaney 1988, eqs. 3.109 flat, 3.97 arc): rows = pixels, columns = rays.

    Weights: parallel 1; fan-flat (R/L)^2 with L the distance from the source along the central ray; fan-arc
    1/distance^2 (1/mm^2). A pixel that no bin sees has weight 0."""
    x, y = grid.coordinates_mm()
    views, pixels, bins = last - first, grid.rows * grid.columns, geometry.bins
    index = torch.empty(pixels, views, 2, dtype=torch.int32)
    weight = torch.empty(pixels, views, 2, dtype=dtype)
    for v in range(views):
        t = torch.deg2rad(torch.tensor(geometry.angles_deg[first + v], dtype=torch.float64))
        u, scale = x * t.cos() + y * t.sin(), torch.ones_like(x)
        if geometry.type != "parallel":
            axis, detector = geometry.distances_mm()
            away = axis - (x * t.sin() - y * t.cos())
            if geometry.type == "fan-flat":
                u, scale = u / away * detector, (axis / away) ** 2
            else:
                u, scale = torch.atan2(u, away) * detector, 1 / (u * u + away * away)
        b = (u - geometry.offset_mm) / geometry.bin_mm + (bins - 1) / 2
        low = b.floor()
        for side, w in ((0, 1 - (b - low)), (1, b - low)):
            j = low + side
            weight[:, v, side] = torch.where((j >= 0) & (j < bins), w * scale, 0.0).to(dtype)
            index[:, v, side] = j.clamp(0, bins - 1).int() + v * bins
    offsets = torch.arange(0, pixels * views * 2 + 1, views * 2, dtype=torch.int32)
    return Table(offsets, index.view(-1), weight.view(-1))


def joseph_bytes(geometry: Geometry, grid: ImageGrid, views: int, itemsize: int) -> int:
    """Estimated bytes of the Joseph table of one view: mean over some of the first `views` views."""
    sample = range(0, views, max(1, views // 8))
    steps = sum(int(march(geometry, grid, v).count.sum()) for v in sample) / len(sample)
    return int(2 * steps * (4 + itemsize)) + 4 * geometry.bins


class Budget:
    """Bytes that tables may hold in memory, shared by the operators of one geometry in the order of their creation."""

    def __init__(self, limit: int) -> None:
        self.limit = self.free = limit


class BlockTables:
    """Tables of blocks of views within a budget; one direction is built, the other one is its transpose.

    `build(first, last)` makes the table of a block with `columns(first, last)` columns. Where the tables of all views
    fit (both directions if `both`), there is one block and all is kept. Else blocks are small, built tables are kept
    as far as they fit, transposed ones if there is room beside all built ones; the rest is made, used and dropped."""

    def __init__(
        self, build: Callable[[int, int], Table], columns: Callable[[int, int], int], views: int,
        bytes_per_view: int, budget: Budget, both: bool,
    ) -> None:
        need = int(ESTIMATE_SLACK * views * bytes_per_view * (2 if both else 1))
        scratch = budget.limit // BLOCK_SHARE
        if need <= budget.free and views * bytes_per_view < WHOLE_MAXIMUM:
            size, self._room = views, need
        else:
            size, self._room = max(1, min(views, scratch // bytes_per_view)), max(0, budget.free - 2 * scratch)
        budget.free -= self._room
        self.blocks = [(a, min(a + size, views)) for a in range(0, views, size)]
        self._build, self._columns, self._views = build, columns, views
        self._kept: dict[tuple[int, bool], Table] = {}

    @property
    def held_bytes(self) -> int:
        """Bytes of the tables that are kept now."""
        return sum(t.bytes for t in self._kept.values())

    def get(self, block: int, transposed: bool) -> Table:
        """Table of one block, as built or transposed."""
        if (block, transposed) in self._kept:
            return self._kept[block, transposed]
        first, last = self.blocks[block]
        if transposed:
            source = self.get(block, False)
            table = transpose(source, self._columns(first, last))
            others = sum(t.bytes for (_, other), t in self._kept.items() if other)
            room = self._room - others - source.bytes * self._views // (last - first)
        else:
            table, room = self._build(first, last), self._room - self.held_bytes
        if table.bytes <= room:
            self._kept[block, transposed] = table
        return table

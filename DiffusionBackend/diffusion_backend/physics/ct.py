"""CT physics: units, geometry, and the projector with its matched adjoint.

Units: attenuation 1/mm, lengths mm, HU. Images [..., H, W] (row 0 on top = +y, x grows with the column, centre of the
grid on the rotation axis); projections [..., V, D] (views, bins), line integrals without dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .tables import BlockTables, Budget, Table, gather_sum, joseph_bytes, joseph_table, pixel_table

MU_WATER = 0.0192
"""Attenuation of water at 70 keV, 1/mm."""
MEMORY_LIMIT = 1_400_000_000
"""Default limit of the tables of one geometry, bytes."""
COLUMNS = 16
"""Columns (slices times turns) per table product: beyond, the image falls out of the cache."""
ANGLE_TOLERANCE = 1e-6
"""Two view angles that differ by less are the same, degrees."""
TYPES = ("parallel", "fan-arc", "fan-flat")

Values = TypeVar("Values", Tensor, np.ndarray, float)


def hu_to_mu(hu: Values, mu_water: float = MU_WATER) -> Values:
    """Hounsfield units to attenuation, 1/mm: mu = mu_water (1 + HU/1000). No clipping."""
    return mu_water * (1 + hu / 1000)  # pyright: ignore[reportReturnType]


def mu_to_hu(mu: Values, mu_water: float = MU_WATER) -> Values:
    """Attenuation, 1/mm, to Hounsfield units: HU = 1000 (mu/mu_water - 1). No clipping."""
    return 1000 * (mu / mu_water - 1)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Geometry:
    """Scanner geometry of one slice. At angle t the source stands at (R sin t, -R cos t), R = `source_axis_mm`; bins
    grow along (cos t, sin t); parallel rays run along (-sin t, cos t).

    bin_mm : bin pitch at the detector, mm (parallel: at the axis; fan-arc: arc length at the detector).
    offset_mm : shift of the detector along its axis, mm at the detector; centre of bin b is at
        (b - (bins - 1)/2) bin_mm + offset_mm.
    source_axis_mm, source_detector_mm : distances from the source, mm; None for parallel rays."""

    type: str
    angles_deg: tuple[float, ...]
    bins: int
    bin_mm: float
    offset_mm: float = 0.0
    source_axis_mm: float | None = None
    source_detector_mm: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "angles_deg", tuple(float(a) for a in self.angles_deg))
        if self.type not in TYPES:
            raise InputError(f"The geometry has the type '{self.type}'; it must be one of {', '.join(TYPES)}.")
        if not self.angles_deg or not all(math.isfinite(a) for a in self.angles_deg):
            raise InputError("The geometry needs at least one view angle (angles_deg), all of them finite degrees.")
        if self.bins < 1 or not (self.bin_mm > 0 and math.isfinite(self.bin_mm)) or not math.isfinite(self.offset_mm):
            raise InputError(f"The geometry has {self.bins} bins of {self.bin_mm} mm, offset {self.offset_mm} mm; it "
                             "needs at least one bin, a pitch above 0 and a finite offset.")
        if self.type != "parallel":
            self._check_fan()

    def _check_fan(self) -> None:
        axis, detector = self.source_axis_mm, self.source_detector_mm
        if axis is None or detector is None or not 0 < axis <= detector < math.inf:
            raise InputError(f"A {self.type} geometry has source_axis_mm = {axis} and source_detector_mm = {detector}; "
                             "it needs 0 < source_axis_mm <= source_detector_mm.")
        if self.type == "fan-arc" and self.half_fan_rad() >= math.pi / 2:
            raise InputError(f"The arc detector covers {2 * math.degrees(self.half_fan_rad()):.0f} degrees seen from "
                             "the source; it must be less than 180. Check bins, bin_mm and source_detector_mm.")

    @property
    def views(self) -> int:
        """Number of views."""
        return len(self.angles_deg)

    def distances_mm(self) -> tuple[float, float]:
        """Source to axis and source to detector, mm; fan beams only."""
        if self.source_axis_mm is None or self.source_detector_mm is None:
            raise ValueError("Parallel rays have no source.")
        return self.source_axis_mm, self.source_detector_mm

    def positions_mm(self) -> Tensor:
        """Positions of the bin centres along the detector, mm, float64 [bins]."""
        return (torch.arange(self.bins, dtype=torch.float64) - (self.bins - 1) / 2) * self.bin_mm + self.offset_mm

    def fan_angles(self) -> Tensor:
        """Angles between the rays and the central ray, radians, float64 [bins] (parallel: 0)."""
        if self.type == "parallel":
            return torch.zeros(self.bins, dtype=torch.float64)
        u = self.positions_mm() / self.distances_mm()[1]
        return u if self.type == "fan-arc" else u.atan()

    def half_fan_rad(self) -> float:
        """Largest angle between a ray and the central ray, radians (parallel: 0)."""
        return float(self.fan_angles().abs().max())

    def to_dict(self) -> dict[str, Any]:
        """JSON form (the one beside projections in files)."""
        return {**asdict(self), "angles_deg": list(self.angles_deg)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Geometry:
        """Geometry from its JSON form; unknown entries are ignored, missing ones named."""
        missing = [k for k in ("type", "angles_deg", "bins", "bin_mm") if data.get(k) is None]
        if missing:
            raise InputError(f"The geometry of the projections lacks {', '.join(missing)}.")
        try:
            number = {k: None if data.get(k) is None else float(data[k])
                      for k in ("source_axis_mm", "source_detector_mm")}
            return cls(str(data["type"]), tuple(float(a) for a in data["angles_deg"]), int(data["bins"]),
                       float(data["bin_mm"]), float(data.get("offset_mm") or 0.0), **number)
        except (TypeError, ValueError) as error:
            raise InputError(f"The geometry of the projections holds a value that isn't a number: {error}.") from error

    def check_sinogram(self, sinogram: Tensor) -> None:
        """InputError unless the last two axes are this geometry's views and bins."""
        if tuple(sinogram.shape[-2:]) != (self.views, self.bins):
            found = " x ".join(str(n) for n in sinogram.shape[-2:])
            raise InputError(f"The projections have {found} values, but their geometry describes {self.views} views x "
                             f"{self.bins} bins.")


@dataclass(frozen=True)
class ImageGrid:
    """Square pixels, centred on the rotation axis."""

    rows: int
    columns: int
    pixel_mm: float

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1 or not (self.pixel_mm > 0 and math.isfinite(self.pixel_mm)):
            raise InputError(f"The image grid is {self.rows} x {self.columns} with {self.pixel_mm} mm; it needs at "
                             "least one row and column and a pixel size above 0.")

    def coordinates_mm(self) -> tuple[Tensor, Tensor]:
        """x and y of the pixel centres, mm, float64 [rows * columns] each."""
        x = (torch.arange(self.columns, dtype=torch.float64) - (self.columns - 1) / 2) * self.pixel_mm
        y = ((self.rows - 1) / 2 - torch.arange(self.rows, dtype=torch.float64)) * self.pixel_mm
        return x.repeat(self.rows), y.repeat_interleave(self.columns)


def quarter_turns(geometry: Geometry, grid: ImageGrid) -> list[int]:
    """Turns (in quarters) that make all views from the first ones: view g * m + k is view k turned by turns[g].

    [0, 1, 2, 3] for views over 360 degrees in a number divisible by 4, [0, 1] for 180 degrees, negative if the angles
    fall, [0, 2] on grids with rows != columns; [0] where the views have no such symmetry.
    """
    angles = np.array(geometry.angles_deg)
    square = grid.rows == grid.columns
    for groups, quarters in ((4, 1), (4, -1), (2, 1), (2, -1), (2, 2)):
        if geometry.views % groups or not (square or quarters == 2):
            continue
        turned = angles.reshape(groups, -1)
        gap = turned - turned[0] - 90.0 * quarters * np.arange(groups)[:, None]
        if np.abs((gap + 180) % 360 - 180).max() < ANGLE_TOLERANCE:
            return [quarters * g for g in range(groups)]
    return [0]


class _Product(torch.autograd.Function):
    """One direction of an operator; its gradient is the other direction, so that all orders of derivatives work."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: _ViewOperator, to_views: bool) -> Tensor:
        ctx.operator, ctx.to_views = operator, to_views
        return operator.to_views(x) if to_views else operator.to_image(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(grads[0], ctx.operator, not ctx.to_views), None, None


class _ViewOperator:
    """Linear operator between images and projections, given by a table builder; tables are built at first use."""

    def __init__(
        self, geometry: Geometry, grid: ImageGrid, build: Callable[..., Table], from_image: bool, *,
        dtype: torch.dtype, device: torch.device | str, memory_limit_bytes: int | Budget, kernel: str,
    ) -> None:
        self.geometry, self.grid, self.dtype, self.device = geometry, grid, dtype, torch.device(device)
        if self.device.type == "mps" and dtype == torch.float64:
            raise ValueError("MPS devices have no float64; use float32 there.")
        half = math.hypot(grid.rows, grid.columns) / 2 * grid.pixel_mm
        if geometry.source_axis_mm is not None and geometry.source_axis_mm <= half:
            raise InputError(f"The image reaches {half:.0f} mm from the axis, but the source turns at "
                             f"{geometry.source_axis_mm:.0f} mm. Use a smaller image or pixel.")
        self.turns = quarter_turns(geometry, grid)
        self.base_views = geometry.views // len(self.turns)
        self._from_image, self._kernel = from_image, kernel
        pixels = grid.rows * grid.columns
        per_view = joseph_bytes(geometry, grid, self.base_views, dtype.itemsize)
        if not from_image:
            per_view = 2 * pixels * (4 + dtype.itemsize)
        budget = memory_limit_bytes if isinstance(memory_limit_bytes, Budget) else Budget(memory_limit_bytes)
        self.tables = BlockTables(
            lambda a, b: build(geometry, grid, a, b, dtype).to(self.device),
            lambda a, b: pixels if from_image else (b - a) * geometry.bins,
            self.base_views, per_view, budget, both=from_image)

    def _turn_groups(self, slices: int) -> list[list[int]]:
        """Indices of the turns that share one table product, so that it has about `COLUMNS` columns."""
        size = max(1, COLUMNS // slices)
        return [list(range(g, min(g + size, len(self.turns)))) for g in range(0, len(self.turns), size)]

    def to_views(self, image: Tensor) -> Tensor:
        """Image [S, H, W] -> projections [S, V, D], without gradient."""
        bins, shape = self.geometry.bins, (len(image), len(self.turns), self.base_views, self.geometry.bins)
        out = image.new_empty(shape)
        for block, (first, last) in enumerate(self.tables.blocks):
            table = self.tables.get(block, transposed=not self._from_image)
            for part, result in zip(image.split(COLUMNS), out.split(COLUMNS)):
                s = len(part)
                inner = part.permute(1, 2, 0).contiguous()  # [H, W, s]
                for group in self._turn_groups(s):
                    # A view at t + 90 degrees of an image is the view at t of the image turned back by 90 degrees.
                    turned = torch.stack([torch.rot90(inner, -self.turns[g], (0, 1)) for g in group], 2)
                    rows = gather_sum(table, turned.reshape(-1, len(group) * s), self._kernel)
                    rows = rows.view(last - first, bins, len(group), s).permute(3, 2, 0, 1)
                    result[:, group[0] : group[-1] + 1, first:last] = rows
            del table  # before the next one is built
        return out.view(len(image), self.geometry.views, bins)

    def to_image(self, sinogram: Tensor) -> Tensor:
        """Projections [S, V, D] -> image [S, H, W], without gradient."""
        rows, columns = self.grid.rows, self.grid.columns
        views = sinogram.reshape(len(sinogram), len(self.turns), self.base_views, -1)
        out = sinogram.new_zeros(len(sinogram), rows, columns)
        for block, (first, last) in enumerate(self.tables.blocks):
            table = self.tables.get(block, transposed=self._from_image)
            for part, result in zip(views.split(COLUMNS), out.split(COLUMNS)):
                s = len(part)
                total = sinogram.new_zeros(rows, columns, s)
                for group in self._turn_groups(s):
                    inner = part[:, group[0] : group[-1] + 1, first:last].permute(2, 3, 1, 0)
                    pixels = gather_sum(table, inner.contiguous().view(-1, len(group) * s), self._kernel)
                    turned = pixels.view(rows, columns, len(group), s)
                    for i, g in enumerate(group):
                        total += torch.rot90(turned[:, :, i], self.turns[g], (0, 1))
                result += total.permute(2, 0, 1)
            del table
        return out

    def _image_to_views(self, image: Tensor) -> Tensor:
        if tuple(image.shape[-2:]) != (self.grid.rows, self.grid.columns):
            raise ValueError(f"The image is {tuple(image.shape[-2:])}; the grid has {self.grid.rows} rows and "
                             f"{self.grid.columns} columns.")
        flat = image.to(self.device, self.dtype).reshape(-1, self.grid.rows, self.grid.columns)
        return _Product.apply(flat, self, True).reshape(*image.shape[:-2], self.geometry.views, self.geometry.bins)

    def _views_to_image(self, sinogram: Tensor) -> Tensor:
        self.geometry.check_sinogram(sinogram)
        flat = sinogram.to(self.device, self.dtype).reshape(-1, self.geometry.views, self.geometry.bins)
        return _Product.apply(flat, self, False).reshape(*sinogram.shape[:-2], self.grid.rows, self.grid.columns)


class Projector(_ViewOperator):
    """Line integrals of the bilinear image (Joseph's model) and their exact transpose; see `tables.joseph_view`.

    Works on [..., H, W] and [..., V, D] of any batch shape; differentiable both ways to any order. Memory: tables
    take at most `memory_limit_bytes`; above it they are built and dropped block by block, which is slower."""

    def __init__(
        self, geometry: Geometry, grid: ImageGrid, *, dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu", memory_limit_bytes: int | Budget = MEMORY_LIMIT, kernel: str = "auto",
    ) -> None:
        super().__init__(geometry, grid, joseph_table, True, dtype=dtype, device=device,
                         memory_limit_bytes=memory_limit_bytes, kernel=kernel)

    def forward(self, image: Tensor) -> Tensor:
        """Image [..., H, W] in 1/mm -> line integrals [..., V, D]."""
        return self._image_to_views(image)

    def adjoint(self, sinogram: Tensor) -> Tensor:
        """Transpose of `forward`: [..., V, D] -> [..., H, W], in mm times the unit of the sinogram."""
        return self._views_to_image(sinogram)


class Backprojector(_ViewOperator):
    """Pixel-driven, distance-weighted backprojection for FBP (`tables.pixel_table`). Not the adjoint of `Projector`."""

    def __init__(
        self, geometry: Geometry, grid: ImageGrid, *, dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu", memory_limit_bytes: int | Budget = MEMORY_LIMIT, kernel: str = "auto",
    ) -> None:
        super().__init__(geometry, grid, pixel_table, False, dtype=dtype, device=device,
                         memory_limit_bytes=memory_limit_bytes, kernel=kernel)

    def backproject(self, sinogram: Tensor) -> Tensor:
        """Filtered projections [..., V, D] -> sum over the views [..., H, W]."""
        return self._views_to_image(sinogram)

    def transpose(self, image: Tensor) -> Tensor:
        """Transpose of `backproject`."""
        return self._image_to_views(image)


class _Operators:
    """Projector and backprojector of one geometry with a common memory budget, made when asked for."""

    def __init__(self, geometry: Geometry, grid: ImageGrid, dtype: torch.dtype, device: str) -> None:
        self._arguments = (geometry, grid)
        self._options: dict[str, Any] = {
            "dtype": dtype, "device": device, "memory_limit_bytes": Budget(MEMORY_LIMIT)}

    @cached_property
    def projector(self) -> Projector:
        return Projector(*self._arguments, **self._options)

    @cached_property
    def backprojector(self) -> Backprojector:
        return Backprojector(*self._arguments, **self._options)


_operators = lru_cache(maxsize=2)(_Operators)


def projector(
    geometry: Geometry, grid: ImageGrid, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Projector:
    """Projector from a cache of at most two geometries: tables are built once per geometry."""
    return _operators(geometry, grid, dtype, str(device)).projector


def backprojector(
    geometry: Geometry, grid: ImageGrid, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Backprojector:
    """Backprojector of FBP from the same cache."""
    return _operators(geometry, grid, dtype, str(device)).backprojector

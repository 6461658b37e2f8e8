"""What flows between user, methods and files: Grid, Segmentation, Table, Text. Arrays are numpy; imports without
torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .predicates import long_axis

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS (ITK, DICOM) <-> RAS (Slicer): the first two patient axes change sign


@dataclass(frozen=True)
class PatientGeometry:
    """Where a voxel grid lies in the patient.

    spacing, origin, direction : as ITK has them, in LPS millimetres, order (i, j, k); direction row by row (9 numbers).
    ijk_to_ras : 4 x 4, voxel index (i, j, k, 1) -> RAS millimetres, as Slicer has it. Both are kept as they came, so
    that
    neither a file nor a node changes by a rounding error.
    """

    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    ijk_to_ras: tuple[tuple[float, ...], ...]

    @classmethod
    def from_itk(cls, spacing: Any, origin: Any, direction: Any) -> PatientGeometry:
        """From ITK's three fields: RAS = diag(-1, -1, 1) (direction diag(spacing) ijk + origin)."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.asarray(direction, float).reshape(3, 3) * np.asarray(spacing, float)
        matrix[:3, 3] = origin
        return cls(_floats(spacing), _floats(origin), _floats(direction), _rows(_FLIP @ matrix))

    @classmethod
    def from_ijk_to_ras(cls, matrix: Any) -> PatientGeometry:
        """From Slicer's 4 x 4 matrix. Sheared or singular matrices raise ValueError."""
        matrix = np.asarray(matrix, float).reshape(4, 4)
        lps = _FLIP @ matrix
        with np.errstate(all="ignore"):
            spacing = np.linalg.norm(lps[:3, :3], axis=0)
        if not np.all(np.isfinite(matrix)) or not (spacing.min() > 0 and np.all(np.isfinite(spacing))):
            raise ValueError("The ijkToRAS matrix has a zero or undefined voxel size.")
        if matrix[3].tolist() != [0, 0, 0, 1]:
            raise ValueError("The last row of the ijkToRAS matrix isn't 0 0 0 1.")
        direction = lps[:3, :3] / spacing
        if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-3:
            raise ValueError("The ijkToRAS matrix is sheared. Harden the transform or resample the volume.")
        return cls(_floats(spacing), _floats(lps[:3, 3]), _floats(direction.ravel()), _rows(matrix))

    def to_dict(self) -> dict[str, Any]:
        """As stored in `job.json` and `result.json`."""
        return {
            "ijkToRAS": [list(row) for row in self.ijk_to_ras],
            "spacing": list(self.spacing),
            "origin": list(self.origin),
            "direction": list(self.direction),
        }

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> PatientGeometry:
        """From `to_dict`, or from a dict that holds `ijkToRAS` alone. ValueError where the fields contradict each
        other."""
        plain = cls.from_ijk_to_ras(d["ijkToRAS"])
        if "spacing" not in d:
            return plain
        kept = cls(_floats(d["spacing"]), _floats(d["origin"]), _floats(d["direction"]), _rows(d["ijkToRAS"]))
        for name in ("spacing", "origin", "direction"):
            if not np.allclose(getattr(kept, name), getattr(plain, name), rtol=1e-3, atol=1e-3):
                raise ValueError(f"The {name} contradicts the ijkToRAS matrix.")
        return kept


@dataclass(frozen=True)
class Axis:
    """One array axis: its name, unit and step ("k", "mm", 2.5); step 0 where it isn't regular."""

    name: str
    unit: str = ""
    step: float = 0.0


@dataclass(frozen=True)
class Grid:
    """An array on named axes: volume (k, j, i), projections ([slice,] view, bin), RGB (k, j, i, component), k-space,
    RF.

    array : numpy, in its native type; it may be memory-mapped and is never written to.
    geometry : place in the patient, or None. acquisition : how it was measured (CT geometry, mask, probe, the
    scanner's own correction of metal) as JSON values.
    """

    array: np.ndarray
    axes: tuple[Axis, ...]
    unit: str = ""
    geometry: PatientGeometry | None = None
    acquisition: dict[str, Any] = field(default_factory=dict)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size (i, j, k) in mm."""
        if self.geometry is None:
            raise ValueError("This grid has no patient geometry, hence no voxel size.")
        return self.geometry.spacing

    @property
    def components(self) -> int:
        """Values per voxel: 1, or the length of the axis "component"."""
        names = [a.name for a in self.axes]
        return self.array.shape[names.index("component")] if "component" in names else 1

    def like(self, array: np.ndarray, unit: str | None = None) -> Grid:
        """Another array of the same shape on the same grid."""
        if tuple(array.shape) != tuple(self.array.shape):
            raise ValueError(f"The array has shape {tuple(array.shape)}, but the grid has {tuple(self.array.shape)}.")
        return replace(self, array=array, unit=self.unit if unit is None else unit)


@dataclass(frozen=True)
class Segmentation:
    """Labels (k, j, i), integers, 0 = background; `labels` names them: {"metal": 1}."""

    array: np.ndarray
    geometry: PatientGeometry | None = None
    labels: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Named columns and rows of numbers or short texts."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Text:
    """A text, such as a prompt or a report."""

    text: str


Item = Grid | Segmentation | Table | Text


def kinds(item: Item) -> tuple[str, ...]:
    """The kinds of an input (see `method.KINDS`) that an item can serve as."""
    if isinstance(item, Segmentation):
        return ("segmentation", "structures")
    if not isinstance(item, Grid):
        return ("table",) if isinstance(item, Table) else ("text", "file")
    names = tuple(axis.name for axis in item.axes)
    if names[-1:] == ("bin",):
        return ("projections",) if names[-2:-1] == ("view",) and item.array.ndim in (2, 3) else ()
    if names[:1] == ("frame",):
        return ("sequence",)
    volumes = ("volume", "vector volume", "complex volume")
    return volumes if names in (("k", "j", "i"), ("k", "j", "i", "component")) else ()


def axial_axis(item: Grid | Segmentation) -> int:
    """The array axis of a volume whose direction is closest to the patient's long axis (slices as acquired); 0 without
    geometry and for projections."""
    if item.geometry is None or (isinstance(item, Grid) and item.axes[0].name != "k"):
        return 0
    return long_axis(item.geometry.ijk_to_ras, item.geometry.spacing)


def volume(array: np.ndarray, geometry: PatientGeometry, unit: str = "HU") -> Grid:
    """A scalar (k, j, i) or vector (k, j, i, component) volume."""
    steps = zip("kji", reversed(geometry.spacing))
    axes = tuple(Axis(name, "mm", step) for name, step in steps)
    return Grid(array, (*axes, Axis("component")) if array.ndim == 4 else axes, unit, geometry)


def projections(array: np.ndarray, acquisition: dict[str, Any], geometry: PatientGeometry | None = None) -> Grid:
    """Line integrals (view, bin) or (slice, view, bin) with the CT geometry (see `physics.ct.Geometry.to_dict`)."""
    axes = (Axis("view", "deg"), Axis("bin", "mm", float(acquisition.get("bin_mm") or 0)))
    return Grid(array, (Axis("slice"), *axes) if array.ndim == 3 else axes, "", geometry, acquisition)


def _floats(values: Any) -> tuple[Any, ...]:
    return tuple(float(v) for v in values)


def _rows(matrix: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(_floats(row) for row in matrix)

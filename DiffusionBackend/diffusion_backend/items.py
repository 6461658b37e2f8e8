"""The unit of work: slices, slabs, tiles, frames or the whole, how each is cut out and how results are put together.

Each kind has the same four members, used by `Run.map` alone: `len()`, `keys` (identity of each item for the noise),
`take(array,
chosen)` -> tensor [B, ...], and `collector(piece)` -> an object with `add(chosen, pieces)` and `result()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Slices:
    """Single indices along one axis; the results are stacked along that axis again."""

    keys: tuple[int, ...]
    axis: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, array: Any, chosen: Sequence[int]) -> Tensor:
        """[B, ...] without the axis itself."""
        return torch.stack([_tensor(array[(slice(None),) * self.axis + (self.keys[c],)]) for c in chosen])

    def collector(self, piece: Tensor) -> Stacked:
        return Stacked(torch.empty((len(self), *piece.shape[1:]), dtype=piece.dtype), self.axis)


@dataclass(frozen=True)
class Boxes:
    """Overlapping boxes in the last axes of an array; the results are blended with weights that fall towards the
    edges."""

    shape: tuple[int, ...]
    size: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    weights: tuple[Tensor, ...]

    @property
    def keys(self) -> tuple[int, ...]:
        return tuple(range(len(self.starts)))

    def __len__(self) -> int:
        return len(self.starts)

    def box(self, c: int) -> tuple[Any, ...]:
        """Index of box `c` in an array."""
        return (..., *(slice(s, s + n) for s, n in zip(self.starts[c], self.size)))

    def take(self, array: Any, chosen: Sequence[int]) -> Tensor:
        """[B, ..., *size]."""
        return torch.stack([_tensor(array[self.box(c)]) for c in chosen])

    def collector(self, piece: Tensor) -> Blended:
        lead = piece.shape[1 : piece.ndim - len(self.size)]
        return Blended(
            self, torch.zeros((*lead, *self.shape), dtype=piece.dtype), torch.zeros(self.shape, dtype=piece.dtype)
        )


@dataclass(frozen=True)
class Whole:
    """The whole array as one item."""

    keys: tuple[int, ...] = (0,)

    def __len__(self) -> int:
        return 1

    def take(self, array: Any, chosen: Sequence[int]) -> Tensor:
        """[1, ...]."""
        return _tensor(array)[None]

    def collector(self, piece: Tensor) -> Stacked:
        return Stacked(torch.empty_like(piece), None)


Items = Slices | Boxes | Whole


def slices(which: int | Iterable[int], axis: int = 0) -> Slices:
    """All slices (a count) or the listed ones, along `axis`."""
    return Slices(tuple(range(which)) if isinstance(which, int) else tuple(int(w) for w in which), axis)


def frames(which: int | Iterable[int]) -> Slices:
    """Frames of a sequence, along the first axis."""
    return slices(which)


def whole() -> Whole:
    """Everything at once."""
    return Whole()


def slabs(shape: Sequence[int], n: int, overlap: int = 0) -> Boxes:
    """Slabs of `n` slices of a volume of `shape` (k, j, i), each sharing `overlap` slices with the next."""
    return tiles(shape, (n, *shape[1:]), (overlap, *[0] * (len(shape) - 1)))


def tiles(shape: Sequence[int], size: int | Sequence[int], overlap: int | Sequence[int] = 0) -> Boxes:
    """Tiles of `size` with at least `overlap` shared elements in an array whose last axes have `shape`."""
    size, overlap = _each(size, len(shape)), _each(overlap, len(shape))
    size = tuple(min(n, whole_n) for n, whole_n in zip(size, shape))
    if any(o >= n for o, n in zip(overlap, size) if o) or min(size, default=1) < 1:
        raise ValueError(f"Tiles of {size} can't overlap by {overlap}: the overlap must be smaller than the tile.")
    starts = tuple(product(*(_starts(*axis) for axis in zip(shape, size, overlap))))
    return Boxes(tuple(shape), size, starts, tuple(_ramp(n, o) for n, o in zip(size, overlap)))


@dataclass
class Stacked:
    """Collects results in item order."""

    out: Tensor
    axis: int | None

    def add(self, chosen: Sequence[int], pieces: Tensor) -> None:
        self.out[chosen[0] : chosen[-1] + 1] = pieces

    def result(self) -> Tensor:
        if self.axis is None:
            return self.out[0]
        return self.out.movedim(0, min(self.axis, self.out.ndim - 1))


@dataclass
class Blended:
    """Collects overlapping boxes as a weighted mean."""

    boxes: Boxes
    total: Tensor
    weight: Tensor

    def add(self, chosen: Sequence[int], pieces: Tensor) -> None:
        window = self.boxes.weights[0]
        for ramp in self.boxes.weights[1:]:
            window = window[..., None] * ramp
        window = window.to(self.total.dtype)
        for c, piece in zip(chosen, pieces):
            self.total[self.boxes.box(c)] += window * piece
            self.weight[self.boxes.box(c)] += window

    def result(self) -> Tensor:
        return self.total / self.weight


def _tensor(part: Any) -> Tensor:
    """A copy as a tensor: arrays may be memory-mapped and read-only."""
    return part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))


def _each(value: int | Sequence[int], n: int) -> tuple[int, ...]:
    return (value,) * n if isinstance(value, int) else tuple(value)


def _starts(whole_n: int, n: int, overlap: int) -> list[int]:
    """First elements of boxes that cover 0 ... whole_n evenly."""
    count = 1 if whole_n <= n else -(-(whole_n - overlap) // (n - overlap))
    return [round(i * (whole_n - n) / max(count - 1, 1)) for i in range(count)]


def _ramp(n: int, overlap: int) -> Tensor:
    """Weights of one axis: rising over the overlap, one in the middle, falling; positive everywhere. float64 [n]."""
    distance = torch.minimum(torch.arange(n) + 1, n - torch.arange(n)).double()
    return (distance / (overlap + 1)).clamp(max=1)

"""Repeated samples: the mean and the voxel-wise standard deviation (segmentation: majority and entropy) of every
output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .data import Grid, Item, Segmentation, volume
from .method import Method, Output


class Samples:
    """Gathers the outputs of repeated runs one by one: memory doesn't grow with their number."""

    def __init__(self, method: Method, samples: int) -> None:
        self.samples = samples
        self.declared = [o for o in method.outputs if not o.when]
        self.spreads = [o for o in method.outputs if o.when == "samples>1"]
        self.count = 0
        self.first: dict[str, Item] = {}
        self._moments: dict[str, list[np.ndarray]] = {}

    def add(self, outputs: Mapping[str, Item]) -> None:
        """Take the outputs of one more sample."""
        missing = [o.name for o in self.declared if o.name not in outputs]
        if missing:
            raise ValueError(f"The method didn't return its declared output '{missing[0]}'.")
        self.count += 1
        if self.count == 1:
            self.first = dict(outputs)
        if self.samples < 2:
            return
        for name, item in outputs.items():
            if isinstance(item, Segmentation):
                self._count_labels(name, item.array)
            elif isinstance(item, Grid) and item.components == 1 and not np.iscomplexobj(item.array):
                self._welford(name, item.array)

    def outputs(self) -> dict[str, Item]:
        """The outputs of all samples; with more than one sample each is a mean, and the declared spreads are added.

        Fewer may have been gathered when all are known to be equal (no noise was drawn)."""
        if self.samples < 2:
            return self.first
        result = dict(self.first)
        for name, item in self.first.items():
            if name not in self._moments:
                continue
            if isinstance(item, Segmentation):
                majority = np.stack(self._moments[name]).argmax(0).astype(item.array.dtype)
                result[name] = Segmentation(majority, item.geometry, item.labels)
            elif isinstance(item, Grid):
                result[name] = item.like(self._moments[name][0].astype(_real(item.array.dtype)))
        for spread in self.spreads:
            result[spread.name] = self._spread(spread)
        return result

    def _spread(self, output: Output) -> Item:
        source = output.of or next(o.name for o in self.declared if o.name in self._moments)
        item, moments = self.first[source], self._moments[source]
        if isinstance(item, Segmentation):
            share = np.stack(moments) / self.count
            entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(0)
            return _volume(entropy.astype(np.float32), item)
        deviation = np.sqrt(moments[1] / max(self.count - 1, 1))
        return item.like(deviation.astype(np.float32), output.unit)  # type: ignore[union-attr]

    def _welford(self, name: str, array: np.ndarray) -> None:
        """Running mean and sum of squared deviations in float64 (Welford 1962): equal samples give exactly 0."""
        x = np.asarray(array, np.float64)
        if name not in self._moments:
            self._moments[name] = [x.copy(), np.zeros_like(x)]
            return
        mean, squares = self._moments[name]
        delta = x - mean
        mean += delta / self.count
        squares += delta * (x - mean)

    def _count_labels(self, name: str, array: np.ndarray) -> None:
        counts = self._moments.setdefault(name, [])
        while len(counts) <= array.max(initial=0):
            counts.append(np.zeros(array.shape, np.uint16))
        for label, count in enumerate(counts):
            count += array == label


def _real(dtype: Any) -> Any:
    return dtype if np.issubdtype(dtype, np.floating) else np.float32


def _volume(array: np.ndarray, item: Segmentation) -> Grid:
    if item.geometry is None:
        raise ValueError("A segmentation without patient geometry has no entropy volume.")
    return volume(array, item.geometry, "")

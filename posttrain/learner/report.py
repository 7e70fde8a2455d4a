"""What an update says about itself: sums and counts over all micro-batches and ranks, reduced once a step."""

from __future__ import annotations

import math

import torch

from posttrain.comm import Distributed, SingleProcess


class Report:
    """Columns become means over their tokens, scalars are added up, maxima stay maxima."""

    def __init__(self) -> None:
        self._means: dict[str, tuple[float, int]] = {}
        self._sums: dict[str, float] = {}
        self._maxima: dict[str, float] = {}

    def track(self, name: str, x: torch.Tensor) -> None:
        """A `[a]` column is averaged over all its tokens; a scalar is added up, as the parts of a loss are."""
        if x.dim() == 0:
            self._sums[name] = self._sums.get(name, 0.0) + float(x)
            return
        total, count = self._means.get(name, (0.0, 0))
        self._means[name] = (total + float(x.double().sum()), count + x.numel())

    def track_max(self, name: str, x: torch.Tensor) -> None:
        if x.numel():
            self._maxima[name] = _largest(self._maxima.get(name, -math.inf), float(x.max()))

    def reduce(self, comm: Distributed | SingleProcess) -> dict[str, float]:
        """The same numbers on every rank. A rank that had no rows of a part simply adds nothing."""
        everyone = comm.gather_objects((self._means, self._sums, self._maxima))
        out: dict[str, float] = {}
        for name in sorted({n for means, _, _ in everyone for n in means}):
            pairs = [means[name] for means, _, _ in everyone if name in means]
            count = sum(n for _, n in pairs)
            out[name] = sum(t for t, _ in pairs) / count if count else 0.0
        for name in sorted({n for _, sums, _ in everyone for n in sums}):
            out[name] = sum(sums.get(name, 0.0) for _, sums, _ in everyone)
        for name in sorted({n for _, _, maxima in everyone for n in maxima}):
            out[name] = _largest(*(maxima[name] for _, _, maxima in everyone if name in maxima))
        return out


def _largest(*numbers: float) -> float:
    """NaN if any is: `max` would hide it behind whatever came first."""
    return math.nan if any(math.isnan(x) for x in numbers) else max(numbers)

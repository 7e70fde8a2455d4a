"""What an evaluation says: accuracy with its interval, by level, before and after, and telling samples.

A row has problem_id, level, prompt, completion, answer, correct, status, reward, tokens and finish.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

EvalRow = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Accuracy:
    share: float
    low: float  # ends of the 95% interval
    high: float
    problems: int


@dataclass(frozen=True, slots=True)
class Pair:
    """The same problem before and after; either side may be missing."""

    before: EvalRow | None
    after: EvalRow | None

    @property
    def any(self) -> EvalRow:
        row = self.after if self.after is not None else self.before
        assert row is not None
        return row

    @property
    def change(self) -> str:
        if self.before is None or self.after is None:
            return "right" if self.any["correct"] else "wrong"
        if bool(self.before["correct"]) == bool(self.after["correct"]):
            return "right" if self.after["correct"] else "wrong"
        return "learned" if self.after["correct"] else "lost"

    @property
    def words(self) -> str:
        if self.before is None or self.after is None:
            return self.change
        return {
            "learned": "wrong before, right now",
            "lost": "right before, wrong now",
            "right": "right before and now",
            "wrong": "still wrong",
        }[self.change]


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a share (Wilson, 1927): it stays inside [0, 1] and is honest at 0% and 100%."""
    if n == 0:
        return 0.0, 1.0
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy(rows: Sequence[EvalRow]) -> Accuracy | None:
    """Mean over all completions. The interval counts problems: samples of one problem are not independent."""
    if not rows:
        return None
    share = sum(bool(row["correct"]) for row in rows) / len(rows)
    problems = len({row["problem_id"] for row in rows})
    return Accuracy(share, *wilson(share, problems), problems)


def by_level(rows: Iterable[EvalRow]) -> dict[int, Accuracy]:
    levels: dict[int, list[EvalRow]] = {}
    for row in rows:
        levels.setdefault(int(row["level"] or 0), []).append(row)
    found = {level: accuracy(levels[level]) for level in sorted(levels)}
    return {level: value for level, value in found.items() if value is not None}


def pairs(before: Sequence[EvalRow], after: Sequence[EvalRow]) -> list[Pair]:
    """The first completion of every problem on either side, in the order of the evaluation."""
    first, last = _first(before), _first(after)
    return [Pair(first.get(problem), last.get(problem)) for problem in {**last, **first}]


def teaching(found: Sequence[Pair], count: int = 3) -> list[Pair]:
    """The most telling pairs, each kind of change in turn: learned, still wrong, lost, right all along.

    Within a kind the harder problem comes first.
    """
    kinds: dict[str, list[Pair]] = {"learned": [], "wrong": [], "lost": [], "right": []}
    for pair in sorted(found, key=lambda p: -int(p.any["level"] or 0)):
        kinds[pair.change].append(pair)
    chosen: list[Pair] = []
    while len(chosen) < count and any(kinds.values()):
        for waiting in kinds.values():
            if waiting and len(chosen) < count:
                chosen.append(waiting.pop(0))
    return chosen


def _first(rows: Sequence[EvalRow]) -> dict[str, EvalRow]:
    found: dict[str, EvalRow] = {}
    for row in rows:
        found.setdefault(str(row["problem_id"]), row)
    return found

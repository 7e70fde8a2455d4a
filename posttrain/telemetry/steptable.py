"""The row of a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from posttrain.telemetry.words import clock, number

HEADER_EVERY = 20
RECENT = 20  # steps whose mean duration predicts the rest


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    width: int
    key: str
    pattern: str
    keep: int = 0  # a narrow terminal drops the highest numbers first
    seconds: bool = False


COLUMNS = (
    Column("reward", 7, "reward/mean", ".3f"),
    Column("accuracy", 8, "reward/accuracy", ".1%"),
    Column("entropy", 7, "policy/entropy", ".3f"),
    Column("length", 6, "rollout/length", ".1f", keep=1),
    Column("tok/s", 6, "rollout/tokens_per_second", ".0f", keep=2),
    Column("rollout", 7, "time/rollout", ".1f", keep=3, seconds=True),
    Column("reward", 6, "time/reward", ".1f", keep=5, seconds=True),
    Column("learn", 5, "time/learn", ".1f", keep=4, seconds=True),
    Column("sync", 5, "time/sync", ".1f", keep=6, seconds=True),
)


class StepTable:
    def __init__(self, *, steps: int, width: int) -> None:
        self.steps = steps
        self.step_width = max(4, 2 * len(str(steps)) + 1)
        self.columns, self.gap = _fitting(width, self.step_width)
        self.rows = 0
        self.durations: deque[float] = deque(maxlen=RECENT)

    def lines(self, step: int, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        """The row, with the header above it when it is due, and the evaluation below it: (line, style)."""
        if "time/step" in metrics:
            self.durations.append(metrics["time/step"])
        lines = [(line, "bold") for line in self._header()] if self.rows % HEADER_EVERY == 0 else []
        self.rows += 1
        cells = [f"{step}/{self.steps}".rjust(self.step_width)]
        cells += [number(metrics, c.key, c.pattern).rjust(c.width) for c in self.columns]
        cells.append(self._eta(step).rjust(7))
        lines.append((self.gap.join(cells), ""))
        if "eval/accuracy" in metrics:
            lines.append((f"  held-out problems: {metrics['eval/accuracy']:.1%} right", "cyan"))
        return lines

    def _eta(self, step: int) -> str:
        if not self.durations:
            return "-"
        return clock(sum(self.durations) / len(self.durations) * max(0, self.steps - step))

    def _header(self) -> list[str]:
        titles = [
            "step".rjust(self.step_width),
            *(c.title.rjust(c.width) for c in self.columns),
            "ETA".rjust(7),
        ]
        line = self.gap.join(titles)
        timed = [c for c in self.columns if c.seconds]
        if not timed:
            return [line]
        width = sum(c.width for c in timed) + len(self.gap) * (len(timed) - 1)
        after = len(self.gap) + 7
        title = " seconds in " if width >= 14 else " s "
        return [title.center(width, "-").rjust(len(line) - after), line]


def _fitting(width: int, step_width: int) -> tuple[tuple[Column, ...], str]:
    """The columns a terminal has room for, and the space between two of them."""
    columns: tuple[Column, ...] = COLUMNS
    while True:
        for gap in ("  ", " "):
            if step_width + sum(c.width for c in columns) + 7 + len(gap) * (len(columns) + 1) <= width:
                return columns, gap
        last = max(c.keep for c in columns)
        if last == 0:
            return columns, " "
        columns = tuple(c for c in columns if c.keep < last)

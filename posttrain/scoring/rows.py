"""Scores rows of a JSON Lines file, in order, whatever stands in them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from posttrain.config.errors import ConfigError
from posttrain.data.types import Prompt, Score
from posttrain.scoring.columns import prompt_of
from posttrain.scoring.output import Output
from posttrain.scoring.scorer import Scorer

WINDOW = 4096  # rows read ahead of the oldest one without a verdict
WAIT = 0.002
Row = dict[str, Any]


def score_rows(lines: Iterable[bytes], scorer: Scorer) -> Iterator[Row]:
    """`{id, reward, status, detail}` for every line that is not blank; a line that cannot be read says so in its row."""
    waiting: deque[tuple[int, Any]] = deque()  # number and id of the rows not yet given out
    done: dict[int, Score] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, work = _read(line, number)
        waiting.append((number, name))
        if isinstance(work, Score):
            done[number] = work
        else:
            scorer.submit(number, *work)
        yield from _finished(waiting, done, scorer)
        while len(waiting) >= WINDOW:
            time.sleep(WAIT)
            yield from _finished(waiting, done, scorer)
    while waiting:
        yield from _finished(waiting, done, scorer)
        if waiting:
            time.sleep(WAIT)


def score_file(source: Path | None, out: Path | None, scorer: Scorer, report: Progress) -> Counter[str]:
    """How many rows ended in which status. Without `source` they are read from the standard input, without `out` printed."""
    counts: Counter[str] = Counter()
    with ExitStack() as files:
        lines = sys.stdin.buffer if source is None else files.enter_context(open(source, "rb"))
        rows = files.enter_context(Output(out))
        for row in score_rows(_counted(lines, report), scorer):
            rows.write(row)
            counts[row["status"]] += 1
            report.scored(counts)
    return counts


class Progress:
    """A line on a terminal, rewritten; elsewhere a line every half a minute. Nothing for what is over at once."""

    def __init__(self, size: int, stream: Any) -> None:
        self.size, self.stream = size, stream
        self.read = 0
        self.live = stream.isatty()
        self.began = self.last = time.monotonic()

    def scored(self, counts: Mapping[str, int]) -> None:
        now = time.monotonic()
        if now - self.last < (0.5 if self.live else 30.0):
            return
        self.last = now
        self._show(counts, "\r" if self.live else "", "" if self.live else "\n")

    def end(self, counts: Mapping[str, int]) -> None:
        self._show(counts, "\r" if self.live else "", "\n")

    def _show(self, counts: Mapping[str, int], before: str, after: str) -> None:
        rows, seconds = sum(counts.values()), time.monotonic() - self.began
        share = f"{min(1.0, self.read / self.size):4.0%} " if self.size else ""
        states = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"
        text = f"{share}{rows} rows ({states}), {rows / max(seconds, 1e-9):.0f}/s"
        self.stream.write(f"{before}{text}{after}")
        self.stream.flush()


def _counted(lines: Iterable[bytes], report: Progress) -> Iterator[bytes]:
    for line in lines:
        report.read += len(line)
        yield line


def _finished(waiting: deque[tuple[int, Any]], done: dict[int, Score], scorer: Scorer) -> Iterator[Row]:
    """The rows at the head of the queue that have their verdicts."""
    done.update(scorer.ready())  # type: ignore[arg-type]  # the keys are ours
    while waiting and waiting[0][0] in done:
        number, name = waiting.popleft()
        score = done.pop(number)
        yield {"id": name, "reward": score.value, "status": score.status, "detail": score.detail}


def _read(line: bytes, number: int) -> tuple[Any, tuple[str, Prompt] | Score]:
    """The id of a row, and what to judge or why it cannot be."""

    def bad(why: str) -> Score:
        return Score(value=None, status="error", detail=f"line {number}: {why}"[:500])

    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        return None, bad(f"not UTF-8: {error.reason} at byte {error.start}")
    except (ValueError, RecursionError) as error:
        return None, bad(f"not JSON: {error}")
    if not isinstance(row, dict):
        return None, bad(f"a row is an object {{id, completion, answer, ...}}, got {type(row).__name__}")
    name = row.pop("id", None)
    if not _is_json(name):
        return None, bad("id holds NaN or Infinity, which no JSON can. Write text or a whole number")
    completion = row.pop("completion", None)
    if not isinstance(completion, str):
        return name, bad(
            f"completion must be text, got {'nothing' if completion is None else type(completion).__name__}"
        )
    try:
        return name, (completion, prompt_of(row, "" if name is None else str(name)))
    except TypeError as error:
        return name, bad(str(error))


def _is_json(value: Any) -> bool:
    """Whether it can be written as it was read: Python's reader takes numbers that JSON has not."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def rows_of(name: str) -> Path | None:
    """The file, if it can be read; None for `-`, the standard input."""
    if name == "-":
        return None
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"there is no file {path}. Rows are JSON Lines: {{id, completion, answer, ...columns}}.")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"rewards score: {path} may not be read. Change its permissions, or name another file.")
    return path

"""The last page of a run on the terminal: (line, style) pairs, whoever prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from posttrain.telemetry.outcomes import Accuracy, EvalRow, Pair, accuracy, by_level, pairs, teaching
from posttrain.telemetry.words import clock, one_line

Line = tuple[str, str]


def closing_lines(
    *,
    before: Sequence[EvalRow],
    after: Sequence[EvalRow],
    seconds: Mapping[str, float],
    total: float,
    width: int,
    folder: Path | None,
    report: Path | None,
) -> list[Line]:
    lines = accuracy_lines(before, after)
    lines += sample_lines(teaching(pairs(before, after)), width)
    lines += time_lines(seconds, total)
    lines.append(("", ""))
    if folder is not None:
        lines.append((f"run folder  {folder}", "bold"))
    if report is not None:
        lines.append((f"report      {report}", "bold"))
    return lines


def accuracy_lines(before: Sequence[EvalRow], after: Sequence[EvalRow]) -> list[Line]:
    old, new = accuracy(before), accuracy(after)
    if old is None and new is None:
        return [("", ""), ("no evaluation was made (eval.before, eval.after)", "dim")]
    lines = [("", ""), (_row("held-out accuracy", "problems", "before", "after", "change"), "bold")]
    old_levels, new_levels = by_level(before), by_level(after)
    levels = sorted({*old_levels, *new_levels})
    if len(levels) > 1:
        lines += [(_accuracy_row(f"level {n}", old_levels.get(n), new_levels.get(n)), "") for n in levels]
    lines.append((_accuracy_row("all", old, new), "bold"))
    lines.append(("in brackets: the 95% interval (Wilson)", "dim"))
    failed = sum(row["status"] != "ok" for row in [*before, *after])
    if failed:
        lines.append(
            (
                f"{failed} of {len(before) + len(after)} completions could not be judged and count as wrong",
                "yellow",
            )
        )
    return lines


def sample_lines(chosen: Sequence[Pair], width: int) -> list[Line]:
    lines: list[Line] = []
    for number, pair in enumerate(chosen, start=1):
        row = pair.any
        lines += [("", ""), (f"sample {number}: {pair.words} (level {row['level']})", "bold")]
        lines.append((_labelled("prompt", row["prompt"], width), ""))
        for label, side in (("before", pair.before), ("after", pair.after)):
            if side is not None:
                style = "green" if side["correct"] else "red"
                lines.append((_labelled(label, side["completion"], width - 8) + "  " + verdict(side), style))
        lines.append((_labelled("answer", str(row["answer"]), width), ""))
    return lines


def time_lines(seconds: Mapping[str, float], total: float) -> list[Line]:
    lines: list[Line] = [("", ""), (f"time{clock(total):>32}", "bold")]
    other = total - sum(seconds.values())
    parts = [*seconds.items(), *([("everything else", other)] if other >= 0.5 else [])]
    for name, took in parts:
        share = f"{took / total:6.0%}" if total > 0 else ""
        lines.append((f"  {one_line(name, 24):<24}{clock(took):>10}{share}", ""))
    return lines


def verdict(row: EvalRow) -> str:
    """right, wrong, or why there is no verdict."""
    if row["status"] != "ok":
        return str(row["status"])
    return "right" if row["correct"] else "wrong"


def _labelled(label: str, text: str, width: int) -> str:
    return f"  {label:<8}{one_line(text, max(30, width - 10))}"


def _accuracy_row(title: str, old: Accuracy | None, new: Accuracy | None) -> str:
    known = new or old
    change = f"{100 * (new.share - old.share):+.1f} pts" if old and new else ""
    return _row(title, str(known.problems if known else ""), _share(old), _share(new), change)


def _share(value: Accuracy | None) -> str:
    return f"{value.share:6.1%} [{value.low:4.0%},{value.high:5.0%}]" if value else "-"


def _row(title: str, problems: str, before: str, after: str, change: str) -> str:
    return f"{title:<18}{problems:>8}  {before:>19}  {after:>19}  {change:>10}"

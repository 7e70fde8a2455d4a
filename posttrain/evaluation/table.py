"""Results as a table in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

Results = Mapping[str, Any]
COLUMNS = (
    "model",
    "benchmark",
    "n",
    "avg@k",
    "95%",
    "pass@k",
    "maj@k",
    "cut off",
    "no box",
    "no answer",
    "not read",
    "tokens",
)


def table(results: Results) -> Table:
    """One row for each model and benchmark; a model that failed has one with the reason."""
    out = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for name in COLUMNS:
        words = name in COLUMNS[:2]
        out.add_column(name, justify="left" if words else "right", overflow="fold")
    for key, model in results["models"].items():
        if model["failed"]:
            out.add_row(Text(key, style="cyan"), Text("failed", style="bold red"))
        for bench, one in model["benchmarks"].items():
            out.add_row(Text(key, style="cyan"), Text(bench), *_numbers(one))
    return out


def remarks(results: Results) -> list[tuple[str, str]]:
    """(kind, text) of everything that a reader of the table must know: failures, marks, what was left out."""
    out = []
    for key, model in results["models"].items():
        if model["failed"]:
            out.append(("failed: ", f"{key}: {model['failed']}"))
        for bench, one in model["benchmarks"].items():
            at = f"{key}, {bench}: "
            out += [(head, at + text) for head, text in (*doubts(one), *_curves(one))]
            if one.get("note"):
                out.append(("note: ", f"{at}{one['note']}"))
            if (verdict := one.get("calibration")) is not None:
                out.append(("calibration: ", f"{at}{verdict['text']}"))
    return out


def doubts(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kind, text) about the samples of one benchmark that have no verdict."""
    if one["marked"]:
        return [("marked: ", f"not to be relied on. {one['marked']}")]
    return [("note: ", f"{one['unjudged']} samples have no verdict and are left out")] if one["unjudged"] else []


def _curves(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where pass@k and maj@k at the largest k rest on fewer questions than the mean, or there is none for more samples."""
    out = []
    judged, asked = one["questions"] - one["unjudged_questions"], math.ceil(one["samples"] / one["questions"])
    for name, what in (("pass", "verdicts"), ("maj", "samples")):
        curve = one[f"{name}_at_k"]
        most = max(map(int, curve), default=asked)
        fewer = curve.get(str(most), {}).get("questions")
        if fewer:
            out.append(f"{name}@{most} rests on {fewer} of {judged} questions: the others have fewer {what}")
        if most < asked:
            out.append(f"{name}@k ends at k = {most} of {asked}: for more, too few questions have enough {what}")
    return [("note: ", text) for text in out]


def _numbers(one: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy, rates = one["accuracy"], one["rates"]
    most = max(map(int, one["pass_at_k"]), default=0)
    voters = max(map(int, one["maj_at_k"]), default=0)
    low, high = accuracy["low"], accuracy["high"]
    return (
        str(one["questions"]),
        f"{_percent(accuracy['mean'])} @{one['samples'] / one['questions']:g}",
        "-" if low is None else f"{100 * low:.1f} - {100 * high:.1f}",
        f"{_percent(one['pass_at_k'][str(most)]['value'])} @{most}" if most > 1 else "-",
        f"{_percent(one['maj_at_k'][str(voters)]['value'])} @{voters}" if voters > 1 else "-",
        _percent(rates["truncated"]),
        _percent(rates["malformed"]),
        _percent(rates["no_answer"]),
        _percent(rates["unparseable"]),
        f"{one['lengths']['mean']:.0f}",
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"

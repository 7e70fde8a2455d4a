"""The tables of a comparison as rows of text, for the terminal and the page alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from posttrain.compare import heldout, progress
from posttrain.compare.arms import Arm, Spread, differences
from posttrain.compare.runs import COSTS, TrainingRun
from posttrain.telemetry.words import clock

FAILING = {
    "groups/all_wrong": "Prompts without a right answer: policy alone",
    "credit/all_wrong": "Prompts without a right answer: after the strategy",
}


@dataclass(frozen=True)
class Told:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    arms: list[Arm]
    target: float | None
    asked: bool  # whether the target was given, or is the best that every run reached
    metrics: list[str] = field(default_factory=list)  # that were asked for

    @property
    def runs(self) -> list[TrainingRun]:
        return [run for arm in self.arms for run in arm.runs]


def tables(found: Comparison) -> Iterator[Told]:
    yield _accuracy(found)
    if found.target is not None:
        yield _costs(found, found.target)
    if len(found.arms) > 1:
        yield _contrasts(found)
    if len(heldout.levels(found.arms)) > 1:
        yield _levels(found)
    for start, title in FAILING.items():
        yield from _over_time(found, start, title)
    for key in found.metrics:
        yield from _over_time(found, key, key)
    yield _settings(found)


def remarks(found: Comparison) -> list[str]:
    said = [f"{run.folder}: the run has not ended" for run in found.runs if not run.ended]
    said += [f"{run.folder}: no held-out evaluation after training" for run in found.runs if not run.after]
    for name, key in COSTS.items():
        if without := [str(run.folder) for run in found.runs if run.spent(key) is None]:
            said.append(f"no {name}: metrics.jsonl of {_listed(without)} lacks {key}")
    for arm in found.arms:
        seeds = [run.seed for run in arm.runs]
        if len(set(map(str, seeds))) < len(seeds):
            said.append(f"{arm.name}: several runs have the same seed, so their spread says too little")
    planned = {run.folder: run.after_step for run in found.runs if run.after}
    if len(set(planned.values())) > 1:
        listed = ", ".join(f"{folder} {step}" for folder, step in planned.items())
        said.append(f"the last evaluations were made after different numbers of steps: {listed}")
    return said


def _accuracy(found: Comparison) -> Told:
    rows = []
    for arm in found.arms:
        old, new = heldout.start(arm), heldout.final(arm)
        change = f"{100 * (new.mean - old.mean):+.1f} pts" if old and new else "-"
        extremes = f"{100 * new.low:.1f}-{new.high:.1%}" if new and new.runs > 1 else "-"
        rows.append((arm.name, str(len(arm.runs)), arm.seeds, _share(old), _share(new), extremes, change))
    head = ("arm", "runs", "seeds", "before", "after", "range", "change")
    return Told(
        "Held-out accuracy",
        head,
        rows,
        "Means over runs, +- their standard deviation in points; the range is that after training.",
    )


def _costs(found: Comparison, target: float) -> Told:
    spent = [progress.costs(arm, target) for arm in found.arms]
    steps = (costs["steps"] for costs in spent)
    rows = [
        (
            "reached by",
            *(f"{of.runs if of else 0} of {len(arm.runs)}" for of, arm in zip(steps, found.arms, strict=True)),
        )
    ]
    rows += [
        (name, *(_amount(costs[name], clock if name == "seconds" else _short) for costs in spent))
        for name in ("steps", *COSTS)
    ]
    why = "" if found.asked else " This target is the best that every run reached; --target sets another."
    note = (
        "Until the first evaluation at or above the target: mean of the runs that reached it [lowest, highest]. Learner "
        f"tokens: those of responses that went through the learner. Seconds: of the steps, without evaluations.{why}"
    )
    return Told(f"To a held-out accuracy of {target:.1%}", ("", *(arm.name for arm in found.arms)), rows, note)


def _contrasts(found: Comparison) -> Told:
    rows = []
    for arm in found.arms[1:]:
        one = heldout.contrast(arm, found.arms[0])
        d = one.difference
        size, interval, p = (
            (f"{100 * d.mean:+.1f} pts", f"[{100 * d.low:+.1f}, {100 * d.high:+.1f}]", f"{d.p_value:.3g}")
            if d
            else ("-", "-", "-")
        )
        seeds = ", ".join(f"{100 * value:+.1f}" for value in one.by_seed.values()) or "-"
        error = "-" if one.error is None else f"+- {100 * one.error:.1f}"
        left = f" ({one.left_out} left out)" if one.left_out else ""
        rows.append((arm.name, f"{one.problems}{left}", size, interval, p, seeds, error))
    head = ("arm", "problems", "change", "95% interval", "p", "by seed", "error")
    note = (
        "After training, each arm minus the first, paired over the same problems; the samples of all runs of an arm count "
        "together. Interval and p are about other problems and samples, with these very runs; what other seeds do is in "
        "the last two columns: the difference at each seed of both arms, and the standard error over runs."
    )
    return Told(f"Against {found.arms[0].name}", head, rows, note)


def _levels(found: Comparison) -> Told:
    rows = [
        (str(n), *(_change(heldout.at_level(arm, n, before=True), heldout.at_level(arm, n)) for arm in found.arms))
        for n in heldout.levels(found.arms)
    ]
    head = ("level", *(arm.name for arm in found.arms))
    return Told("Held-out accuracy by level", head, rows, "Before > after training, means over runs.")


def _over_time(found: Comparison, key: str, title: str) -> Iterator[Told]:
    """The metric by quarters of the steps; and for each of its levels the first quarter and the last."""
    rows = [(arm.name, *map(_number, progress.over_time(arm, key))) for arm in found.arms]
    if any(cell != "-" for row in rows for cell in row[1:]):
        head = ("arm", *(f"quarter {n + 1}" for n in range(progress.PARTS)))
        yield Told(title, head, rows, f"{key}: means over the quarters of the steps, averaged over runs.")
    rows = []
    for level in progress.levels(found.runs, key):
        parts = [progress.over_time(arm, f"{key}/level_{level}") for arm in found.arms]
        rows.append((str(level), *(f"{_number(of[0])} > {_number(of[-1])}" for of in parts)))
    if rows:
        head = ("level", *(arm.name for arm in found.arms))
        yield Told(f"{title}, by level", head, rows, f"{key}/level_N: first quarter of the steps > last.")


def _settings(found: Comparison) -> Told:
    rows = [(key, *values) for key, values in differences(found.arms)]
    note = "" if rows else "None: the arms have the same settings apart from seed, output and name."
    return Told("Settings that differ", ("setting", *(arm.name for arm in found.arms)), rows, note)


def _share(value: Spread | None) -> str:
    if value is None:
        return "-"
    return f"{value.mean:.1%}" + ("" if value.deviation is None else f" +-{100 * value.deviation:.1f}")


def _change(old: Spread | None, new: Spread | None) -> str:
    return " > ".join("-" if value is None else f"{value.mean:.0%}" for value in (old, new))


def _amount(value: Spread | None, shown: Callable[[float], str]) -> str:
    if value is None:
        return "-"
    return shown(value.mean) + (f" [{shown(value.low)}, {shown(value.high)}]" if value.runs > 1 else "")


def _short(value: float) -> str:
    """82, 20.0k, 1.25M: three digits."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            scaled = value / size
            return f"{scaled:.{max(2 - int(math.log10(scaled)), 0)}f}{unit}"
    return f"{value:.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")

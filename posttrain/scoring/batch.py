"""TRL's side of a function in TRL's form: what it is handed beside the columns, and what it may give back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Any

from posttrain.data.types import Score
from posttrain.scoring.outcome import Outcome

# What shows that a function reads messages where it gets text, and the other way round.
_WANTS_MESSAGES = ("string indices must be integers", "'str' object has no attribute", "string index out of range")
_WANTS_TEXT = ("got 'list'", "'list' object has no attribute", "list indices must be integers")


@dataclass(frozen=True)
class TrainerState:
    """The part of transformers' TrainerState that is known where rewards are judged."""

    global_step: int
    """Steps that are finished."""
    max_steps: int
    epoch: float | None = None
    """Not known here: processes that judge do not know how large the data is."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"trainer_state has no {name!r} here, only global_step, max_steps and epoch (None)")


@dataclass
class Log:
    """`log_metric` and `log_extra`: numbers and remarks that go into the verdict."""

    numbers: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def metric(self, name: str, value: Any) -> None:
        number = float(value)
        if math.isfinite(number):
            self.numbers[name] = number
        else:
            self.remarks.append(f"log_metric {name}: {number} is left out")

    def extra(self, name: str, values: Iterable[Any]) -> None:
        self.remarks.extend(f"{name}: {value}" for value in list(values)[:1])


def with_log(value: Any, log: Log) -> Any:
    """A value and what was logged beside it."""
    if isinstance(value, Score | Outcome) or not (log.numbers or log.remarks):
        return value
    detail = "; ".join(log.remarks)
    if value is None:
        return Outcome(None, "skipped", f"returned None; {detail}".removesuffix("; "), log.numbers)
    return Outcome(value, parts=log.numbers, detail=detail)


def only(returned: Any) -> Any:
    """The one value in what a function returned for one completion; NaN is None there, as TRL takes it."""
    if not _is_list(returned):
        what = "None" if returned is None else f"{type(returned).__name__} {str(returned)[:60]!r}"
        return _refused(f"returned {what}")
    values = list(returned)
    if len(values) != 1:
        return _refused(f"returned {len(values)} values")
    value = values[0]
    number = number_of(value)
    if number is None:
        return value
    return None if math.isnan(number) else number


def _is_list(thing: Any) -> bool:
    if isinstance(thing, str | bytes | Mapping | set | frozenset) or getattr(thing, "ndim", 1) == 0:
        return False
    return hasattr(thing, "__iter__")


def _refused(what: str) -> Outcome:
    return Outcome(
        None,
        "error",
        f"{what}, expected a list with one value per completion. It gets 1 completion at a time: return [value].",
    )


def number_of(thing: Any) -> float | None:
    """A number, or what a library has for one: numpy's and torch's scalars; None for anything else."""
    if getattr(thing, "ndim", None) == 0 and hasattr(thing, "item"):
        thing = thing.item()
    return float(thing) if isinstance(thing, Real | Decimal) else None


def other_form(error: Exception, chat: bool) -> str:
    """What to do where the function seems to read messages and gets text, or the other way round; else empty."""
    text = str(error)
    if isinstance(error, TypeError | AttributeError | IndexError):
        if not chat and any(sign in text for sign in _WANTS_MESSAGES):
            return 'If it reads messages, as in completion[0]["content"], set `chat: true` beside `use`.'
        if chat and any(sign in text for sign in _WANTS_TEXT):
            return "With `chat: true` completions are lists of messages; if it reads text, set `chat: false`."
    return ""

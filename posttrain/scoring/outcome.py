"""What a plain function may return instead of a number, and words for what it raises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from posttrain.config.errors import text_of
from posttrain.data.types import Status


@dataclass(frozen=True)
class Outcome:
    """What a function may return instead of a number: the verdict with its reasons.

    A `reward` of 1 or more counts as correct unless `correct` says otherwise. With a status other than "ok" nothing was
    judged: the sample is left out of its group's baseline.
    """

    reward: float | None
    status: Status = "ok"
    detail: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Numbers to be logged by name."""
    correct: bool | None = None


def told(error: BaseException) -> str:
    """An exception in words."""
    return f"{type(error).__name__}: {text_of(error)}"

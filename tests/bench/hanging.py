"""Rewards that hang where a completion says so: asleep, or burning a core in Python or in one call into C."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from posttrain_rewards.math import Math

SLEEPS, BURNS, BURNS_IN_C = "this one sleeps", "this one burns", "this one burns in C"


def hang(completion: str) -> None:
    if completion == SLEEPS:
        time.sleep(3600)
    while completion == BURNS:
        pass
    if completion == BURNS_IN_C:
        re.fullmatch(r"(a+)+b", "a" * 60)


@dataclass(frozen=True)
class HangingMath(Math):
    """`Math`, which hangs where it is told to."""

    def __call__(self, completion: str, prompt: Any) -> Any:
        hang(completion)
        return super().__call__(completion, prompt)


@dataclass(frozen=True)
class Even:
    """Takes the same time of a core for every answer."""

    seconds: float = 0.005

    def __call__(self, completion: str, prompt: Any) -> float:
        hang(completion)
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        return 1.0

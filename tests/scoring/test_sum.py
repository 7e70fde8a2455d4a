"""How several rewards become one: weights, bounds, gates, and what is logged of each."""

from __future__ import annotations

import math
from typing import Any

import pytest
from test_verdicts import PROMPT, hostile

from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import Part, judge_all


def of(value: float | None, **more: Any) -> Part:
    return Part(hostile.Constant(value), **more)


def at(step: int) -> Prompt:
    return Prompt(id="p", source="t", messages=(), answer="7", columns={"training_step": step})


def judged(prompt: Prompt = PROMPT, steps: int = 1, **parts: Part) -> Score:
    return judge_all(parts, "x", prompt, steps)


def test_a_value_is_bounded_before_it_is_weighted() -> None:
    score = judged(right=of(1.0), long=of(-7.0, weight=0.5, clip=(-1.0, 0.0)))
    assert (score.value, score.correct) == (0.5, True)
    assert score.parts == {"right": 1.0, "long": -7.0, "long/counted": -0.5, "long/failed": 0.0}
    assert judged(right=of(3.0, clip=(0.0, 1.0))).value == 1.0
    assert judged(right=of(3.0, clip=(0.0, 1.0))).correct  # the verdict is not bounded


def test_a_weight_follows_the_step_and_an_evaluation_has_the_last() -> None:
    ramp = hostile.Ramp(0.1)
    values = [judged(at(step), steps=11, right=of(1.0, weight=ramp)).value for step in (0, 5, 10)]
    assert values == [0.0, 0.5, 1.0]
    evaluated = judged(steps=11, right=of(1.0, weight=ramp))
    assert (evaluated.value, evaluated.correct) == (1.0, True)


@pytest.mark.parametrize(
    ("gate", "value", "counted"),
    [(1.0, 1.5, 0.5), (2.0, 2.5, 0.5), (0.5, 0.5, 0.0), (0.0, 0.0, 0.0), (None, None, 0.0)],
)
def test_a_gate_lets_through_what_the_other_accepts(gate: float | None, value: float, counted: float) -> None:
    score = judged(right=of(gate), short=of(0.5, only_if="right"))
    assert score.value == value
    assert (score.parts["short"], score.parts["short/counted"]) == (0.5, counted)


@pytest.mark.parametrize(
    "beside",
    [
        {"long": of(5.0, weight=0.0)},
        {"long": of(5.0, only_if="right")},
        {"shape": of(1.0, weight=0.0), "long": of(None, only_if="shape")},
    ],
)
def test_where_all_that_have_weight_skip_nothing_is_judged(beside: dict[str, Part]) -> None:
    score = judged(right=of(None), **beside)
    assert (score.value, score.correct, score.status, score.detail) == (None, False, "skipped", "returned None")
    assert score.parts["long/counted"] == 0.0


def test_a_gate_that_judged_and_closed_is_an_honest_0() -> None:
    score = judged(right=of(0.0, weight=0.0), long=of(5.0, only_if="right"))
    assert (score.value, score.correct, score.status) == (0.0, False, "ok")
    assert judged(right=of(1.0, weight=0.0), other=of(None)).status == "skipped"


def test_what_has_no_weight_is_no_verdict_of_correctness() -> None:
    score = judged(right=of(None), long=of(300.0, weight=0.0), other=of(0.0))
    assert (score.value, score.correct) == (0.0, False)


def test_where_nothing_has_weight_the_first_still_says_what_is_correct() -> None:
    score = judged(at(0), right=of(1.0, weight=hostile.Ramp(1.0)), long=of(5.0, weight=0.0))
    assert (score.value, score.correct, score.status) == (0.0, True, "ok")


def test_a_gate_looks_at_the_verdict_alone() -> None:
    assert judged(right=of(0.0), shape=of(1.0, weight=0.0), short=of(0.5, only_if="shape")).value == 0.5
    assert judged(right=of(1.0, clip=(0.0, 0.1)), short=of(0.5, only_if="right")).value == pytest.approx(0.6)
    chain = judged(right=of(0.0), a=of(1.0, only_if="right"), b=of(0.25, only_if="a"))
    assert chain.value == 0.25  # `a` accepted, though it did not count


def test_behind_a_closed_gate_nothing_fails_but_is_logged() -> None:
    score = judged(right=of(0.0), short=of(math.nan, only_if="right"))
    assert (score.value, score.status, score.parts["short/failed"]) == (0.0, "ok", 1.0)
    assert judged(right=of(1.0), short=of(math.nan, only_if="right")).status == "error"


def test_a_gate_that_fails_leaves_the_sample_unjudged() -> None:
    score = judged(right=of(1.0), shape=of(math.nan, weight=0.0), short=of(0.5, only_if="shape"))
    assert (score.value, score.status) == (None, "error")
    assert score.detail.startswith("shape: ")
    without = judged(right=of(1.0), shape=of(math.nan, weight=0.0), short=of(0.5, weight=0.0, only_if="shape"))
    assert (without.value, without.parts["shape/failed"]) == (1.0, 1.0)


def test_a_weight_that_is_0_at_the_step_fails_nothing_then() -> None:
    ramp = hostile.Ramp(1.0)
    assert judged(at(0), right=of(1.0), late=of(math.nan, weight=ramp)).value == 1.0
    assert judged(at(1), right=of(1.0), late=of(math.nan, weight=ramp)).status == "error"


def test_a_step_that_is_none_is_an_error() -> None:
    wrong = Prompt(id="p", source="t", messages=(), answer="7", columns={"training_step": "three"})
    score = judged(wrong, right=of(1.0))
    assert (score.status, "training_step" in score.detail) == ("error", True)


def test_of_a_plain_reward_its_value_is_logged() -> None:
    assert judged(right=of(1.0), shape=of(1.0, weight=0.5)).parts == {"right": 1.0, "shape": 1.0}

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from posttrain.config.errors import ConfigError
from posttrain.config.imports import load_file
from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import as_reward, judge, judge_all, to_score

hostile = load_file(Path(__file__).with_name("hostile_rewards.py"))
PROMPT = Prompt(id="p1", source="gsm8k", messages=({"role": "user", "content": "q"},), answer="7")


@pytest.mark.parametrize(
    ("returned", "value", "correct", "status"),
    [
        (1.0, 1.0, True, "ok"),
        (1, 1.0, True, "ok"),
        (True, 1.0, True, "ok"),
        (False, 0.0, False, "ok"),
        (0.5, 0.5, False, "ok"),
        (-1, -1.0, False, "ok"),
        (np.float32(0.25), 0.25, False, "ok"),
        (np.bool_(True), 1.0, True, "ok"),
        (np.int64(2), 2.0, True, "ok"),
        (None, None, False, "skipped"),
        (math.nan, None, False, "error"),
        (-math.inf, None, False, "error"),
        ("1", None, False, "error"),
        ([1.0], None, False, "error"),
        (1j, None, False, "error"),
        (Score(value=None), None, False, "skipped"),
        (Score(value=None, status="unparseable"), None, False, "unparseable"),
        (Score(value=3.0, correct=True, status="timeout"), None, False, "timeout"),
        (Score(value=math.nan, correct=True), None, False, "error"),
        (Score(value=1.0, parts={"a": math.nan}), None, False, "error"),
        (Score(value=0.5, correct=True), 0.5, True, "ok"),
    ],
)
def test_every_return_becomes_a_verdict(returned, value, correct, status):
    score = to_score(returned)
    assert (score.value, score.correct, score.status) == (value, correct, status)


def several(**values) -> Score:
    return judge_all({name: (hostile.Constant(v), w) for name, (v, w) in values.items()}, "x", PROMPT)


def test_the_value_is_the_weighted_sum_and_the_first_judges():
    score = several(right=(0.0, 1.0), shape=(1.0, 0.25))
    assert (score.value, score.correct, score.parts) == (0.25, False, {"right": 0.0, "shape": 1.0})
    assert several(right=(1.0, 2.0), length=(-3.0, 1.0)).value == -1.0
    assert several(right=(1.0, 2.0), length=(-3.0, 1.0)).correct


def test_a_failed_reward_fails_the_sample():
    score = several(right=(1.0, 1.0), broken=(math.nan, 0.1))
    assert (score.value, score.status, score.correct) == (None, "error", False)
    assert score.detail.startswith("broken: ")
    assert score.parts == {"right": 1.0}


def test_a_reward_of_weight_0_is_only_logged_unless_it_is_the_first():
    assert several(right=(1.0, 1.0), logged=(math.nan, 0.0)).value == 1.0
    assert several(right=(math.nan, 0.0), other=(1.0, 1.0)).status == "error"


def test_a_reward_that_skips_adds_nothing():
    score = several(code=(None, 1.0), math=(1.0, 1.0))
    assert (score.value, score.correct, score.status) == (1.0, True, "ok")
    assert several(code=(None, 1.0), math=(None, 1.0)).status == "skipped"


def test_a_raising_reward_is_an_error_with_type_and_message():
    score = judge(hostile.Obey(), "raise boom", PROMPT)
    assert (score.status, score.detail) == ("error", "ValueError: boom")


def test_functions_through_the_registry():
    cls = REWARDS.find("hostile_rewards.py:trl_length", Path(__file__).parent)
    reward = cls()
    assert judge(reward, "abc", PROMPT).value == 4.0
    assert judge(pickle.loads(pickle.dumps(reward)), "abc", PROMPT).value == 4.0
    with pytest.raises(ConfigError, match="`completions`"):
        as_reward(hostile.nothing)
    with pytest.raises(ConfigError, match="not a reward"):
        as_reward(hostile.Constant)

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest

from posttrain.data.types import Group, Score
from tests.row_samples import group, row


def test_rewards_are_nan_where_there_is_no_verdict() -> None:
    g = group([1.0, None, 0.25])
    assert g.rewards().tolist()[::2] == [1.0, 0.25]
    assert math.isnan(g.rewards()[1])
    unscored = Group(prompt=g.prompt, rollouts=(row(),))
    assert math.isnan(unscored.rewards()[0])


def test_correct_is_the_verifiers_word_not_the_reward() -> None:
    g = group([1.0, None])
    praised = row(score=Score(value=5.0, correct=False))
    g = Group(prompt=g.prompt, rollouts=(*g.rollouts, praised, row()))
    assert g.correct().tolist() == [True, False, False, False]
    assert g.solved()
    assert not Group(prompt=g.prompt, rollouts=(praised,)).solved()


def test_an_empty_group() -> None:
    empty = group([])
    assert empty.rewards().shape == (0,)
    assert not empty.solved()


def test_what_travels_cannot_be_changed_under_way() -> None:
    for thing, name in ((row(), "text"), (group([1.0]), "rollouts"), (Score(value=1.0), "value")):
        with pytest.raises(FrozenInstanceError):
            setattr(thing, name, None)

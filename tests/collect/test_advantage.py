from __future__ import annotations

import numpy as np
import pytest

from posttrain.collect.advantage import GroupAdvantage
from posttrain.data.types import Group
from tests.row_samples import group, prompt, row


def filled(g: Group) -> list[float]:
    return [float(r.advantage[0]) for r in g.rollouts if r.advantage is not None]


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1.0, 0.0, 0.0, 0.0], [1.5, -0.5, -0.5, -0.5]),  # mean 1/4, standard deviation 1/2
        ([1.0, 0.0], [0.5**0.5, -(0.5**0.5)]),
        ([2.0, 4.0, 9.0], [-3 / 13**0.5, -1 / 13**0.5, 4 / 13**0.5]),
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]),
    ],
)
def test_by_hand(rewards: list[float], expected: list[float]) -> None:
    (g,) = GroupAdvantage()([group(rewards)])
    assert filled(g) == pytest.approx(expected, abs=1e-5)


def test_scale_none_leaves_the_division_out() -> None:
    (g,) = GroupAdvantage(scale="none")([group([1.0, 0.0, 0.0, 0.0])])
    assert filled(g) == [0.75, -0.25, -0.25, -0.25]


def test_eps_is_added_to_the_deviation() -> None:
    (g,) = GroupAdvantage(eps=0.5)([group([1.0, 0.0, 0.0, 0.0])])
    assert filled(g) == [0.75, -0.25, -0.25, -0.25]


def test_unjudged_rollouts_take_no_part_and_are_left_out() -> None:
    (g,) = GroupAdvantage()([group([1.0, None, 0.0, None, 0.0, 0.0])])
    assert [r.seed for r in g.rollouts] == [0, 2, 4, 5]
    assert filled(g) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)


@pytest.mark.parametrize("rewards", [[], [None], [1.0], [1.0, None, None]])
def test_without_two_verdicts_there_is_no_baseline(rewards: list[float | None]) -> None:
    groups = GroupAdvantage()([group(rewards, "lonely"), group([1.0, 0.0], "fine")])
    assert [len(g.rollouts) for g in groups] == [0, 2]  # the same groups, in the same order
    assert groups[0].prompt.id == "lonely"


def test_every_token_gets_its_sequences_advantage() -> None:
    rollouts = (row(response_ids=[1, 2, 3], reward=1.0), row(response_ids=[4], reward=0.0))
    (g,) = GroupAdvantage(scale="none")([Group(prompt=prompt(), rollouts=rollouts)])
    first, second = (r.advantage for r in g.rollouts)
    assert first is not None
    assert second is not None
    assert first.tolist() == [0.5, 0.5, 0.5]
    assert second.tolist() == [-0.5]
    assert first.dtype == np.float32
    assert rollouts[0].advantage is None  # what was given stays as it was


def test_groups_do_not_see_each_other() -> None:
    one, two = group([1.0, 0.0], "a"), group([10.0, 0.0, 0.0], "b")
    both = GroupAdvantage()([one, two])
    assert [filled(g) for g in both] == [filled(GroupAdvantage()([g])[0]) for g in (one, two)]

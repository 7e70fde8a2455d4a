from __future__ import annotations

from posttrain.collect.advantage import GroupAdvantage
from posttrain.collect.select import MixedGroups
from posttrain.data.types import Group
from tests.row_samples import group


def kept(*groups: Group) -> list[str]:
    return [g.prompt.id for g in MixedGroups()(groups, step=0)]


def test_groups_with_one_reward_teach_nothing() -> None:
    wrong, right, mixed = group([0.0, 0.0], "w"), group([1.0, 1.0], "r"), group([0.0, 1.0, 1.0], "m")
    assert kept(wrong, mixed, right) == ["m"]
    assert kept(group([0.5, 0.25], "shaped")) == ["shaped"]


def test_empty_groups_go() -> None:
    assert kept(group([], "empty"), group([1.0], "single"), group([0.0, 1.0], "m")) == ["m"]


def test_what_is_kept_is_kept_whole_and_in_order() -> None:
    groups = [group([0.0, 1.0], "a"), group([1.0, 1.0], "b"), group([1.0, 0.0, 0.0], "c")]
    assert MixedGroups()(groups, step=3) == [groups[0], groups[2]]


def test_exactly_the_groups_with_an_advantage_stay() -> None:
    groups = GroupAdvantage()([group(r, str(r)) for r in ([1.0, 1.0], [1.0, 0.0, None], [0.0, None], [0.5, 0.5, 0.5])])
    with_signal = [g for g in groups if any(r.advantage is not None and r.advantage.any() for r in g.rollouts)]
    assert MixedGroups()(groups, step=0) == with_signal
    assert len(with_signal) == 1

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from posttrain.collect.advantage import GroupAdvantage, LeaveOneOut
from posttrain.collect.credit import Credit
from posttrain.collect.returns import GAE, ReturnToGo
from posttrain.collect.select import MixedGroups
from posttrain.collect.shaping import KLPenalty, Overlong
from posttrain.data.types import Group
from tests.collect.measured_groups import by_name, judged_rows, measured_groups, shuffled
from tests.row_samples import group, prompt, row


@dataclass
class Doubles:
    """Twice what shaping has added, and one more at every token."""

    needs: ClassVar[frozenset[str]] = frozenset({"ref_logp"})

    def __call__(self, groups: Sequence[Group], step: int) -> list[Group]:
        def more(x: np.ndarray | None, n: int) -> np.ndarray:
            return np.ones(n) if x is None else 2 * x + 1

        rows = [
            [replace(r, token_reward=more(r.token_reward, len(r.response_ids))) for r in g.rollouts] for g in groups
        ]
        return [replace(g, rollouts=tuple(r)) for g, r in zip(groups, rows, strict=True)]


class Bare:
    """A hook of somebody else that reads nothing and does not say so."""

    def __call__(self, groups: Sequence[Group], step: int) -> list[Group]:
        return list(groups)


class Without:
    """Drops one group, and remembers the step."""

    def __init__(self, name: str) -> None:
        self.name, self.steps = name, list[int]()

    def __call__(self, groups: Sequence[Group], step: int) -> list[Group]:
        self.steps.append(step)
        return [g for g in groups if g.prompt.id != self.name]


def test_rows_know_the_number_and_the_solve_rate_of_their_whole_group() -> None:
    groups = [group([1.0, 0.0, None, 0.0], "a"), group([], "b"), group([None, 1.0, 0.5, 1.0], "c")]
    out = Credit({}, ReturnToGo())(groups, 0)
    assert [[(r.seed, r.group) for r in g.rollouts] for g in out] == [
        [(0, 0), (1, 0), (3, 0)],
        [],
        [(1, 2), (2, 2), (3, 2)],
    ]
    assert [[r.solve_rate for r in g.rollouts] for g in out] == [[1 / 3] * 3, [], [2 / 3] * 3]


def test_numbers_stay_when_groups_are_dropped() -> None:
    groups = [
        group([1.0, 1.0], "right"),
        group([1.0, 0.0], "mixed"),
        group([0.0, 0.0], "wrong"),
        group([0.0, 1.0], "m"),
    ]
    out = Credit({}, GroupAdvantage(), [MixedGroups()])(groups, 0)
    assert [(g.prompt.id, g.rollouts[0].group) for g in out] == [("mixed", 1), ("m", 3)]


def test_shaping_comes_in_order_and_before_the_advantage() -> None:
    rows = (row(response_ids=[1, 2], reward=1.0), row(response_ids=[3], reward=1.0))
    groups = [Group(prompt=prompt(), rollouts=rows)]
    shaping = {"late": Doubles(), "overlong": Overlong(longest=2, buffer=1)}
    (g,) = Credit(shaping, GroupAdvantage(scale="none"))(groups, 0)
    assert [r.token_reward.tolist() for r in g.rollouts] == [[1.0, 0.0], [1.0]]
    assert [r.advantage.tolist() for r in g.rollouts] == [[0.0, 0.0], [0.0]]
    (g,) = Credit(dict(reversed(shaping.items())), GroupAdvantage(scale="none"))(groups, 0)
    assert [r.token_reward.tolist() for r in g.rollouts] == [[1.0, -1.0], [1.0]]
    assert [r.advantage.tolist() for r in g.rollouts] == [[-0.5, -0.5], [0.5]]


def test_selects_come_last_one_after_the_other() -> None:
    first, second = Without("b"), Without("c")
    credit = Credit({}, GroupAdvantage(), [first, second])
    groups = credit.advantages([group([1.0, 0.0], name) for name in "abcd"], 5)
    assert [g.prompt.id for g in groups] == list("abcd")
    assert first.steps == []
    assert [g.prompt.id for g in credit.select(groups, 5)] == ["a", "d"]
    assert first.steps == second.steps == [5]


def test_both_halves_are_the_whole() -> None:
    credit = Credit({"overlong": Overlong(9, 8)}, GroupAdvantage(), [MixedGroups(by="correct"), Without("a")])
    groups = measured_groups(2)
    halves, whole = credit.select(credit.advantages(groups, 3), 3), credit(groups, 3)
    assert [g.prompt.id for g in halves] == [g.prompt.id for g in whole]
    assert by_name(halves, "advantage") == by_name(whole, "advantage") != {}


def test_whitening_is_over_what_a_filter_leaves() -> None:
    """Two right answers of four, and seven prompts that none solves: +-.5 over the deviation of four, not of 32."""
    values = {"values": np.zeros(1)}
    rewards = [[0.0] * 4, [1.0, 1.0, 0.0, 0.0], *([[0.0] * 4] * 6)]
    groups = [
        Group(prompt=prompt(str(i)), rollouts=tuple(row(response_ids=[1], reward=r, **values) for r in some))
        for i, some in enumerate(rewards)
    ]
    credit = Credit({}, GAE(), [MixedGroups(by="correct")])
    everyone = credit.advantages(groups, 0)
    assert [g.prompt.id for g in everyone] == list("01234567")  # curriculum and metrics see them all
    advantages = [[r.advantage.tolist() for r in g.rollouts] for g in everyone]
    root = 3**0.5 / 2
    assert advantages.pop(1) == [pytest.approx([a], abs=1e-6) for a in (root, root, -root, -root)]
    assert advantages == [[[0.0]] * 4] * 7
    (trained,) = credit.select(everyone, 0)
    assert trained is everyone[1]


@pytest.mark.parametrize("advantage", [GroupAdvantage(), GroupAdvantage(scale="none"), LeaveOneOut()], ids=repr)
@pytest.mark.parametrize("by", ["reward", "correct"])
@pytest.mark.parametrize("seed", range(5))
def test_a_filter_moves_no_advantage_of_a_group(seed: int, by: Any, advantage: Any) -> None:
    groups, shaping = measured_groups(seed), {"overlong": Overlong(9, 8)}
    filtered, plain = Credit(shaping, advantage, [MixedGroups(by)]), Credit(shaping, advantage)
    expected = MixedGroups(by)(plain(groups, 0), 0)
    assert by_name(filtered(groups, 0), "advantage") == by_name(expected, "advantage") != {}
    seen = [[(r.group, r.seed) for r in g.rollouts] for g in filtered.advantages(groups, 0)]
    assert seen == [[(r.group, r.seed) for r in g.rollouts] for g in plain.advantages(groups, 0)]


def test_a_filter_behind_another_select_waits_for_it() -> None:
    groups = [group([1.0, 0.0], "a"), group([1.0, 1.0], "b"), group([0.0, 1.0], "c")]
    last = Credit({}, GroupAdvantage(scale="batch"), [Without("a"), MixedGroups()])
    assert by_name(last(groups, 0), "advantage") == by_name(
        [g for g in Credit({}, GroupAdvantage(scale="batch"))(groups, 0) if g.prompt.id == "c"], "advantage"
    )


def test_needs_are_those_of_all_hooks() -> None:
    assert Credit({}, GroupAdvantage()).needs == frozenset()
    assert Credit({"kl": KLPenalty()}, GroupAdvantage()).needs == frozenset()
    assert Credit({"kl": KLPenalty(0.1)}, GroupAdvantage()).needs == {"old_logp", "ref_logp"}
    everything = Credit({"kl": KLPenalty(0.1), "twice": Doubles(), "bare": Bare()}, GAE())
    assert everything.needs == {"old_logp", "ref_logp", "values"}


def test_a_constant_group_is_not_hidden_by_shaping() -> None:
    rows = (row(response_ids=[1] * 5, reward=1.0, seed=0), row(response_ids=[1], reward=1.0, seed=1))
    groups = [Group(prompt=prompt("same"), rollouts=rows), group([1.0, 0.0], "mixed")]
    credit = Credit({"overlong": Overlong(longest=6, buffer=4)}, GroupAdvantage(), [MixedGroups()])
    assert np.ptp(credit.advantages(groups, 0)[0].totals()) == 0.75  # 5 tokens of 2 that are free
    assert [g.prompt.id for g in credit(groups, 0)] == ["mixed"]


@pytest.mark.parametrize("advantage", [GroupAdvantage(scale="batch"), ReturnToGo(), GAE(length_adaptive=0.3)], ids=repr)
def test_another_order_changes_the_order_and_nothing_else(advantage: GroupAdvantage | ReturnToGo | GAE) -> None:
    groups = measured_groups(7)
    shaping = {"kl": KLPenalty(0.2), "overlong": Overlong(9, 8)}
    credit = Credit(shaping, advantage, [MixedGroups()])
    for field in ("advantage", "token_reward", "returns"):
        expected = by_name(credit(groups, 0), field)
        assert expected.keys() < {
            (g.prompt.id, r.seed) for g, rows in zip(groups, judged_rows(groups), strict=True) for r in rows
        }
        for seed in range(3):
            got = by_name(credit(shuffled(groups, seed), 0), field)
            assert got == {k: v if v is None else pytest.approx(v, rel=1e-12, abs=1e-12) for k, v in expected.items()}

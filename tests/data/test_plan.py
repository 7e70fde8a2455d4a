from __future__ import annotations

import random

import pytest

from posttrain.data.plan import plan_micro_batches


def padded(lengths: list[int], cut: list[int]) -> int:
    return len(cut) * max((lengths[i] for i in cut), default=0)


@pytest.mark.parametrize("seed", range(60))
def test_every_row_once_within_the_budget_and_equally_many_everywhere(seed: int) -> None:
    rng = random.Random(seed)
    world, budget = rng.randint(1, 5), rng.randint(20, 200)
    lengths = [rng.randint(1, budget) for _ in range(rng.randint(1, 60))]
    plan = plan_micro_batches(lengths, world, budget)
    assert len(plan) == world
    assert sorted(row for hand in plan for cut in hand for row in cut) == list(range(len(lengths)))
    assert all(padded(lengths, cut) <= budget for hand in plan for cut in hand)
    assert len({len(hand) for hand in plan}) == 1
    assert max(len([c for c in hand if c]) for hand in plan) == len(plan[0])  # no turn in which nobody has rows
    assert plan_micro_batches(lengths, world, budget) == plan
    rows = [sum(map(len, hand)) for hand in plan]
    assert max(rows) - min(rows) <= 1


def test_by_hand() -> None:
    # longest first, dealt in turn: rank 0 gets 9 7 3, rank 1 gets 8 4 1
    assert plan_micro_batches([3, 9, 1, 8, 4, 7], 2, 16) == [[[1], [5, 0]], [[3, 4], [2]]]


def test_rows_that_fit_share_a_micro_batch() -> None:
    assert plan_micro_batches([4, 4, 4, 4], 1, 8) == [[[0, 1], [2, 3]]]
    assert plan_micro_batches([4, 4, 4, 4], 1, 7) == [[[0], [1], [2], [3]]]


def test_a_rank_without_rows_gets_empty_micro_batches() -> None:
    assert plan_micro_batches([5], 3, 10) == [[[0]], [[]], [[]]]
    assert plan_micro_batches([], 2, 10) == [[[]], [[]]]


def test_a_row_above_the_budget_is_refused() -> None:
    assert plan_micro_batches([10], 1, 10) == [[[0]]]
    with pytest.raises(ValueError, match=r"a row has 11 tokens, more than learner\.tokens_per_micro_batch=10"):
        plan_micro_batches([3, 11], 1, 10)

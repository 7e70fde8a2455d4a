from __future__ import annotations

import json
from collections import Counter

import pytest

from posttrain.collect.curriculum import Shuffled
from posttrain.config.registries import CURRICULA
from tests.row_samples import group, prompt


def started(count: int = 7, seed: int = 3) -> Shuffled:
    curriculum = Shuffled()
    curriculum.start([prompt(f"p{i}") for i in range(count)], seed)
    return curriculum


def names(curriculum: Shuffled, n: int) -> list[str]:
    return [p.id for p in curriculum.next(n)]


@pytest.mark.parametrize("size", [1, 2, 5, 7, 14])
def test_each_prompt_comes_once_an_epoch_whatever_the_batch(size: int) -> None:
    curriculum = started()
    order: list[str] = []
    while len(order) < 70:
        order += names(curriculum, size)
    epochs = [order[i : i + 7] for i in range(0, 70, 7)]
    assert all(Counter(e) == Counter(f"p{i}" for i in range(7)) for e in epochs)
    assert len({tuple(e) for e in epochs}) > 5  # and in another order


def test_the_seed_decides_the_order() -> None:
    assert names(started(30), 60) == names(started(30), 60)
    assert names(started(30), 30) != names(started(30, seed=4), 30)


def test_what_was_observed_changes_nothing() -> None:
    one, two = started(), started()
    one.observe([group([1.0, 0.0])])
    assert names(one, 20) == names(two, 20)


@pytest.mark.parametrize("done", [0, 3, 7, 25])
def test_a_restored_state_goes_on_where_it_was(done: int) -> None:
    first = started()
    first.next(done)
    state = json.loads(json.dumps(first.state_dict()))
    second = started()
    second.load_state_dict(state)
    assert names(second, 20) == names(first, 20)


def test_a_state_can_be_put_back_in_the_same_run() -> None:
    curriculum = started()
    curriculum.next(3)
    before = curriculum.state_dict()
    asked = names(curriculum, 9)  # into the next epoch
    curriculum.load_state_dict(before)
    assert names(curriculum, 9) == asked


def test_a_state_of_other_data_is_refused() -> None:
    state = started(7).state_dict()
    other = started(8)
    with pytest.raises(ValueError, match=r"made on 7 training prompts, the task now has 8"):
        other.load_state_dict(state)
    assert other.position == 0


def test_its_state_is_no_setting() -> None:
    curriculum = CURRICULA.build("shuffled", at="test")
    curriculum.start([prompt()], 0)
    curriculum.next(1)
    assert CURRICULA.dump(curriculum) == {"use": "shuffled"}

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from telemetry_samples import group, rollout

from posttrain.data.types import Origin
from posttrain.telemetry.metrics import Max, Mean, Min, Seconds, StepMetrics, Sum


def test_mean_of_unequal_shares_is_not_the_mean_of_means():
    # (3 + 0) / (1 + 3) = 0.75, while the mean of the means 3 and 0 would be 1.5
    assert Mean(3, 1).merge(Mean(0, 3)).value() == 0.75


def test_the_other_kinds_reduce_as_their_names_say():
    assert Max(2).merge(Max(5)).value() == 5
    assert Min(2).merge(Min(5)).value() == 2
    assert Sum(2).merge(Sum(5)).value() == 7
    assert Seconds(2).merge(Seconds(5)).value() == 5


@pytest.mark.parametrize("kind", [Max, Min])
def test_a_nan_survives_in_either_order(kind):
    assert math.isnan(kind(math.nan).merge(kind(1.0)).value())
    assert math.isnan(kind(1.0).merge(kind(math.nan)).value())


def mixed_groups():
    """Two groups: (right, wrong, not judged) and (wrong, wrong, wrong)."""
    first = group(
        rollout(1.0, tokens=(1, 2, 3), parts={"correct": 1.0, "format": 0.5}),
        rollout(0.2, tokens=(1,), correct=False, finish="length", parts={"correct": 0.0, "format": 1.0}),
        rollout(None, tokens=(1,)),
    )
    second = group(*[rollout(0.0, tokens=(4, 5), parts={"correct": 0.0}) for _ in range(3)], id="p2")
    return first, second


def test_answers_to_a_hint_count_with_their_lengths_and_failures_alone():
    plain, (first, second) = StepMetrics(1), mixed_groups()
    plain.groups([second])
    both = StepMetrics(1)
    both.groups([second, replace(first, prompt=replace(first.prompt, hint="3+"))])
    alone, result = plain.result(), both.result()
    same = [k for k in result if k.startswith(("reward/", "groups/")) and not k.endswith(("failed", "_rate"))]
    assert len(same) >= 8
    assert {k: result[k] for k in same} == {k: alone[k] for k in same}
    assert result["reward/failed"] == pytest.approx(1 / 6)
    assert (alone["rollout/tokens"], result["rollout/tokens"]) == (6, 11)


def test_rewards_over_judged_samples_only():
    metrics = StepMetrics(1)
    metrics.groups(mixed_groups())
    result = metrics.result()
    assert result["reward/mean"] == pytest.approx(1.2 / 5)
    assert result["reward/accuracy"] == pytest.approx(1 / 5)
    assert result["reward/failed"] == pytest.approx(1 / 6)
    assert result["reward/correct"] == pytest.approx(1 / 5)
    assert result["reward/format"] == pytest.approx(1.5 / 2)
    assert (result["reward/min"], result["reward/max"]) == (0.0, 1.0)
    assert metrics.notes["failed"] == "problem 'p1', sample 2: timeout (5.0 s)"


def test_group_mix_and_lengths():
    metrics = StepMetrics(1)
    metrics.groups(mixed_groups())
    result = metrics.result()
    assert (result["groups/all_right"], result["groups/all_wrong"], result["groups/mixed"]) == (0.0, 0.5, 0.5)
    # first group: (1,) twice; second: all three alike. 1 + 2 copies of 2 + 2 possible ones
    assert result["groups/duplicates"] == pytest.approx(3 / 4)
    assert result["rollout/tokens"] == 11
    assert result["rollout/length"] == pytest.approx(11 / 6)
    assert result["rollout/truncated"] == pytest.approx(1 / 6)


def test_unjudged_samples_do_not_spoil_a_group_that_is_all_right():
    metrics = StepMetrics(1)
    metrics.groups([group(rollout(1.0), rollout(None)), group(rollout(None), rollout(None))])
    result = metrics.result()
    assert result["groups/all_right"] == 1.0  # of the one group that has a verdict
    assert result["reward/failed"] == 0.75


def test_skipped_on_purpose_is_not_a_failure():
    metrics = StepMetrics(1)
    metrics.groups([group(rollout(1.0), rollout(None, status="skipped"))])
    assert metrics.result()["reward/failed"] == 0.0
    assert metrics.notes == {}


def test_nothing_judged_has_no_mean():
    metrics = StepMetrics(1)
    metrics.groups([group(rollout(None))])
    result = metrics.result()
    assert result["reward/failed"] == 1.0
    assert not {"reward/mean", "reward/accuracy", "groups/mixed"} & set(result)


def test_ranks_join_to_what_one_rank_would_have_seen():
    first, second = mixed_groups()
    whole, left, right = StepMetrics(1), StepMetrics(1), StepMetrics(1)
    whole.groups([first, second])
    left.groups([first])
    right.groups([second])
    left.merge(pickle.loads(pickle.dumps(right)))
    assert left.result() == pytest.approx(whole.result())
    assert left.notes == whole.notes


def test_time_adds_up_within_a_rank_and_the_slowest_rank_counts():
    fast, slow = StepMetrics(1), StepMetrics(1)
    fast.add_seconds("rollout", 1.0)
    fast.add_seconds("rollout", 1.5)
    slow.add_seconds("rollout", 4.0)
    fast.add_sum("rollout/tokens", 60)
    slow.add_sum("rollout/tokens", 40)
    assert fast.result()["time/rollout"] == 2.5
    fast.merge(slow)
    assert fast.result()["time/rollout"] == 4.0
    assert fast.result()["rollout/tokens_per_second"] == 25.0


def test_a_block_that_raises_is_timed_too():
    metrics = StepMetrics(1)
    with pytest.raises(ZeroDivisionError), metrics.time("learn"):
        _ = 1 / 0
    assert metrics.result()["time/learn"] >= 0


def test_finished_numbers_are_taken_as_they_are():
    metrics = StepMetrics(1)
    metrics.merge({"policy/loss": 0.5, "policy/lr": 1e-3})
    metrics.merge({"policy/loss": 0.25})
    assert metrics.result() == {"policy/loss": 0.25, "policy/lr": 1e-3}


def test_a_part_cannot_take_the_name_of_a_metric():
    with pytest.raises(AssertionError, match="accuracy"):
        StepMetrics(1).groups([group(rollout(1.0, parts={"accuracy": 1.0}))])


def test_groups_without_a_right_answer_by_level():
    def at(level, *values):
        one = group(*(rollout(value) for value in values))
        return replace(one, prompt=replace(one.prompt, level=level))

    groups = [at(1, 0.0, 0.0), at(1, 1.0, 0.0), at(2, 0.0, None), at(0, 1.0), at(2, None)]
    metrics = StepMetrics(1)
    metrics.groups(groups)
    result = metrics.result()
    assert result["groups/all_wrong"] == 0.5  # of the four that have a verdict
    assert result["groups/all_wrong/level_1"] == 0.5
    assert result["groups/all_wrong/level_2"] == 1.0
    assert "groups/all_wrong/level_0" not in result  # of no known level
    assert result["rollout/completions"] == 8


def test_what_is_learned_from_counts_with_the_help_it_got():
    failed = group(rollout(0.0, advantage=np.zeros(2)), rollout(0.0, advantage=np.zeros(2)))
    helped = group(rollout(1.0, advantage=np.ones(2)), rollout(0.0, advantage=np.ones(2)), id="p2")
    helped = replace(helped, prompt=replace(helped.prompt, hint="3+", level=3))
    metrics = StepMetrics(1)
    metrics.credit([failed, helped])
    result = metrics.result()
    assert result["credit/all_wrong"] == 0.5
    assert (result["credit/all_wrong/level_2"], result["credit/all_wrong/level_3"]) == (1.0, 0.0)


def test_a_hinted_group_beside_its_failed_one_is_the_same_prompt():
    """Ten prompts, four of them hard, three solved with a hint: one without a right answer, wherever hinted rows go."""

    def at(name, *values, **more):
        rows = [rollout(v, advantage=np.ones(2), **{k: x for k, x in more.items() if k == "origin"}) for v in values]
        made = group(*rows, id=name)
        return replace(made, prompt=replace(made.prompt, level=1 + int(name) // 5, hint=more.get("hint", "")))

    solved, failed = [at(str(i), 1.0, 0.0) for i in range(6)], [at(str(i), 0.0, 0.0) for i in range(6, 10)]
    with_hint = [(str(i), *((1.0, 0.0) if i < 9 else (0.0, 0.0))) for i in range(6, 10)]
    beside = [at(*values, hint="3+", origin=Origin.HINTED) for values in with_hint]
    for groups in (
        [*solved, *(at(*values, hint="3+") for values in with_hint)],  # in place of the failed ones
        [*solved, *(g for pair in zip(failed, beside, strict=True) for g in pair)],
        [*solved, *failed, *beside],
    ):
        metrics = StepMetrics(1)
        metrics.credit(groups)
        result = metrics.result()
        assert result["credit/all_wrong"] == pytest.approx(0.1)
        assert (result["credit/all_wrong/level_1"], result["credit/all_wrong/level_2"]) == (0.0, pytest.approx(0.2))


def test_a_prompt_that_comes_twice_in_a_step_counts_twice():
    failed, helped = (
        group(rollout(v, advantage=np.ones(2), origin=origin))
        for v, origin in [(0.0, Origin.POLICY), (1.0, Origin.HINTED)]
    )
    metrics = StepMetrics(1)
    metrics.credit([failed, helped, failed])
    assert metrics.result()["credit/all_wrong"] == 0.5


def test_what_goes_through_the_learner():
    metrics = StepMetrics(1)
    metrics.learned([[rollout(1.0, tokens=(1, 2, 3))], [rollout(0.0, tokens=(1,)), rollout(0.0)]], epochs=2)
    assert metrics.result() == {"learn/rows": 3, "learn/updates": 4, "learn/tokens": 12}

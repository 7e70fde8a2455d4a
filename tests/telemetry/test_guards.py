from __future__ import annotations

import json
import math

import pytest

from posttrain.telemetry.guards import Guards, RunStopped, raise_if_stopping

GOOD = {
    "reward/accuracy": 0.5,
    "reward/min": 0.0,
    "reward/max": 1.0,
    "reward/failed": 0.0,
    "groups/all_right": 0.1,
    "groups/mixed": 0.8,
    "groups/duplicates": 0.1,
    "rollout/truncated": 0.1,
    "rollout/length": 40.0,
    "policy/entropy": 0.3,
    "policy/loss": 0.01,
    "policy/grad_norm": 0.4,
}
ZERO = {**GOOD, "reward/accuracy": 0.0, "reward/max": 0.0, "rollout/truncated": 0.98, "groups/mixed": 0.0}


def guards(**settings) -> Guards:
    return Guards(max_tokens=64, **settings)


def names(alarms):
    return [alarm.name for alarm in alarms]


def test_a_good_step_is_quiet():
    assert guards().check(1, GOOD) == []


def test_a_step_without_numbers_is_quiet():
    assert guards().check(1, {}) == []


def test_all_zero_comes_after_three_steps_and_names_the_evidence():
    watch = guards(truncated=1.0)
    assert watch.check(1, ZERO) == []
    assert watch.check(2, ZERO) == []
    (alarm,) = watch.check(3, ZERO)
    assert alarm.message == (
        "every group scored 0 for 3 steps: nothing can be learned; the reward never fires. Look "
        "at rollouts/step-00003.parquet; usual causes: answer format the verifier cannot read, problems too "
        "hard (start from easier levels or run a warm-up), completions cut before the answer: 98% hit "
        "sampling.max_tokens=64"
    )
    assert (alarm.severity, alarm.new) == ("warn", True)


def test_an_alarm_is_new_once_per_streak():
    watch = guards(truncated=1.0)
    seen = [[a.new for a in watch.check(s, m)] for s, m in enumerate([ZERO] * 4 + [GOOD] + [ZERO] * 3, start=1)]
    assert seen == [[], [], [True], [False], [], [], [], [True]]


def test_the_same_negative_reward_everywhere_counts_too():
    watch = guards(all_zero_steps=1)
    (alarm,) = watch.check(1, {**GOOD, "reward/accuracy": 0.0, "reward/min": -1.0, "reward/max": -1.0})
    assert alarm.message.startswith("every group scored -1 for 1 step:")


def test_all_zero_can_be_turned_off():
    watch = guards(all_zero_steps=0, truncated=1.0)
    assert [watch.check(step, ZERO) for step in range(5)] == [[]] * 5


def test_where_everything_is_skipped_the_run_is_warned_and_then_stops():
    skipped = {"reward/failed": 0.0, "reward/skipped_rate": 1.0, "reward/long": 5.0}
    watch = guards()
    seen = [watch.check(step, skipped) for step in (1, 2, 3)]
    assert [[(a.name, a.severity, a.new) for a in alarms] for alarms in seen] == [
        [("all_skipped", "warn", True)], [("all_skipped", "warn", False)], [("all_skipped", "stop", False)],
    ]  # fmt: skip
    with pytest.raises(RunStopped, match="every completion was skipped for 3 steps: nothing can be learned; no reward"):
        raise_if_stopping(seen[-1])
    assert [a.severity for a in guards(all_zero_steps=0).check(9, skipped)] == ["warn"]


def test_a_guard_that_leaves_all_out_or_one_verdict_is_no_reward_without_return():
    skipped = {"reward/failed": 0.0, "reward/skipped_rate": 1.0}
    assert guards().check(1, {**skipped, "reward/honest/overruled": 0.0}) == []
    assert guards().check(1, {**GOOD, "reward/skipped_rate": 0.99}) == []


def test_truncation_names_the_knob_and_the_share():
    assert guards().check(1, {**GOOD, "rollout/truncated": 0.5}) == []
    (alarm,) = guards().check(1, {**GOOD, "rollout/truncated": 0.61})
    assert "61%" in alarm.message
    assert "sampling.max_tokens=64" in alarm.message
    assert alarm.severity == "warn"


def test_nothing_left_to_learn_says_so_once_although_the_gradient_is_zero():
    step = {**GOOD, "groups/all_right": 1.0, "groups/mixed": 0.0, "policy/grad_norm": 0.0}
    assert names(guards().check(1, step)) == ["all_right"]


@pytest.mark.parametrize(("mixed", "why"), [(0.0, "no group holds both"), (0.3, "look at the advantage")])
def test_zero_gradient(mixed, why):
    (alarm,) = guards().check(1, {**GOOD, "groups/mixed": mixed, "policy/grad_norm": 0.0})
    assert why in alarm.message


def test_twins_are_suspicious_only_while_the_policy_has_a_choice():
    twins = {**GOOD, "groups/duplicates": 1.0}
    assert names(guards().check(1, twins)) == ["duplicates"]  # 0.3 nats x 40 tokens: no two should agree
    assert guards().check(1, {**twins, "policy/entropy": 0.02}) == []  # 0.8 nats: certain, so they agree


def test_entropy_collapse():
    assert names(guards().check(1, {**GOOD, "policy/entropy": 5e-4})) == ["entropy"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["policy/loss", "policy/grad_norm", "expert/loss"])
def test_a_broken_loss_or_gradient_stops(key, value):
    alarms = guards().check(1, {**GOOD, key: value})
    assert names(alarms) == ["not_finite"]
    with pytest.raises(RunStopped, match=f"{key} = "):
        raise_if_stopping(alarms)


def test_too_many_failed_verdicts_stop_and_name_the_first():
    assert guards(max_failed=0.02).check(1, {**GOOD, "reward/failed": 0.02}) == []
    alarms = guards(max_failed=0.02).check(
        1, {**GOOD, "reward/failed": 0.031}, {"failed": "problem 'p1', sample 2: timeout"}
    )
    with pytest.raises(
        RunStopped, match=r"3\.1% .* scoring\.max_failed = 0\.02\. First: problem 'p1', sample 2: timeout"
    ):
        raise_if_stopping(alarms)


def test_warnings_do_not_stop():
    raise_if_stopping(guards().check(1, {**GOOD, "rollout/truncated": 1.0}))


def test_streaks_go_through_a_checkpoint():
    first = guards(truncated=1.0)
    first.check(1, ZERO)
    first.check(2, ZERO)
    second = guards(truncated=1.0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert names(second.check(3, ZERO)) == ["all_zero"]

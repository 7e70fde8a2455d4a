"""The numbers of one step."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from posttrain.data.facts import with_facts
from posttrain.data.types import Group, Origin, Rollout
from posttrain.telemetry.reductions import Max, Mean, Metric, Min, Seconds, Sum, Value

# names under reward/ that are taken: a part of the reward cannot have them
RATES = ("timeout", "error", "unparseable", "skipped")  # reward/<status>_rate, logged even when they are 0
RESERVED_PARTS = frozenset({"mean", "accuracy", "failed", "max", "min", *(f"{status}_rate" for status in RATES)})


class StepMetrics:
    """Collects the metrics of one step on one rank.

    Ranks are joined by gathering the recorders (they pickle) and calling `merge`. `notes` carries the words
    that an alarm quotes, such as the first sample that could not be judged.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self.metrics: dict[str, Metric] = {}
        self.notes: dict[str, str] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Adds the seconds of the block to `time/<name>`, also when the block raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(name, time.perf_counter() - start)

    def add_seconds(self, name: str, seconds: float) -> None:
        key = f"time/{name}"
        known = self.metrics.get(key, Seconds())
        assert isinstance(known, Seconds), f"{key} is a {type(known).__name__}"
        self.metrics[key] = Seconds(known.seconds + seconds)

    def add_mean(self, key: str, total: float, count: float) -> None:
        """One more share of a weighted mean: `total` is a sum over `count` things."""
        self._add(key, Mean(float(total), float(count)))

    def add_max(self, key: str, value: float) -> None:
        self._add(key, Max(float(value)))

    def add_min(self, key: str, value: float) -> None:
        self._add(key, Min(float(value)))

    def add_sum(self, key: str, value: float) -> None:
        self._add(key, Sum(float(value)))

    def set(self, key: str, value: float) -> None:
        self.metrics[key] = Value(float(value))

    def merge(self, other: StepMetrics | Mapping[str, float]) -> None:
        """Joins another rank's recorder, or takes finished numbers (the learner's, say) as they are."""
        if isinstance(other, StepMetrics):
            for key, metric in other.metrics.items():
                self._add(key, metric)
            self.notes = {**other.notes, **self.notes}  # the first rank's words stay
        else:
            for key, value in other.items():
                self.set(key, value)

    def groups(self, groups: Sequence[Group]) -> None:
        """Rewards, group mix and lengths of this rank's groups.

        What was answered with a hint says nothing about what the policy can do without: only its lengths and failures
        of the verifier count here, and the parts of its rewards stand under hinted/.
        """
        for group in groups:
            self._failures(group)
            self._lengths(group)
            if group.prompt.hint:
                self._parts(group, "hinted")
            else:
                self._rewards(group)
                self._mix(group)

    def credit(self, groups: Sequence[Group]) -> None:
        """What credit assignment made of the step's groups; every rank has all of them, so nothing is added up.

        credit/all_wrong is the share of prompts without a right answer after the strategy's help, such as hints: a failed
        group and its hinted one beside it count once. groups/all_wrong is what the policy fails at alone.
        """
        rows = [r for g in groups for r in g.rollouts if r.advantage is not None and len(r.advantage)]
        if not rows:
            return
        advantage = np.concatenate([r.advantage for r in rows if r.advantage is not None])
        self.set("credit/advantage_std", advantage.std())
        for key, share in _all_wrong(_by_prompt(groups)).items():
            self.set(f"credit/{key}", share.value())
        shaped = [r.token_reward for r in rows if r.token_reward is not None]
        if shaped:
            self.set("credit/shaping", float(np.mean([x.sum() for x in shaped])))
        learned = [(r.values, r.returns) for r in rows if r.values is not None and r.returns is not None]
        if learned:
            values, returns = (np.concatenate(x) for x in zip(*learned, strict=True))
            self.set("critic/value", values.mean())
            self.set("critic/return", returns.mean())
            if returns.var() > 0:  # 1: the critic knows every return; 0: no better than their mean
                self.set("critic/explained_variance", 1 - (returns - values).var() / returns.var())

    def learned(self, batches: Sequence[Sequence[Rollout]], epochs: int) -> None:
        """What the learner is given; every rank has all of it. Tokens are those of the responses, once an epoch.

        Of them the learner tells how many its updates take through the model (learn/tokens_computed), and at how many
        the loss is computed (learn/tokens_trained): those that no part trains on are left out.
        """
        self.set("learn/rows", sum(map(len, batches)))
        self.set("learn/updates", len(batches) * epochs)
        self.set("learn/tokens", epochs * sum(len(r.response_ids) for batch in batches for r in batch))

    def result(self) -> dict[str, float]:
        """Flat and sorted. A mean over nothing is left out: it has no value."""
        rates = self._rates()
        values = {key: metric.value() for key, metric in self.metrics.items() if not _is_empty(metric)}
        return dict(sorted({**rates, **values}.items()))

    def _add(self, key: str, metric: Metric) -> None:
        known = self.metrics.get(key)
        assert known is None or type(known) is type(metric), f"{key} is a {type(known).__name__}"
        self.metrics[key] = metric if known is None else known.merge(metric)

    def _rewards(self, group: Group) -> None:
        rewards = group.rewards()
        judged = ~np.isnan(rewards)
        count = int(judged.sum())
        self.add_mean("reward/mean", float(rewards[judged].sum()), count)
        self.add_mean("reward/accuracy", float(group.correct()[judged].sum()), count)
        if count:
            self.add_max("reward/max", float(rewards[judged].max()))
            self.add_min("reward/min", float(rewards[judged].min()))
        self._parts(group, "reward")

    def _failures(self, group: Group) -> None:
        for index, rollout in enumerate(group.rollouts):
            score = rollout.score
            # what a reward leaves out on purpose is not judged, but it has not failed either
            failed = score is None or (score.value is None and score.status != "skipped")
            self.add_mean("reward/failed", float(failed), 1)
            for status in RATES:
                self.add_mean(f"reward/{status}_rate", float(score is not None and score.status == status), 1)
            if failed and "failed" not in self.notes:
                self.notes["failed"] = _failure(group, index, rollout)
                self.notes["failed_row"] = _row(group, index, rollout, self.step - 1)

    def _parts(self, group: Group, under: str) -> None:
        """Also of what was left out on purpose: a guard that does so must not hide how often."""
        for rollout in group.rollouts:
            if rollout.score is None or rollout.score.status not in ("ok", "skipped"):
                continue
            for part, value in rollout.score.parts.items():
                assert part not in RESERVED_PARTS, f"a reward part cannot be called {part!r}"
                self.add_mean(f"{under}/{part}", value, 1)

    def _mix(self, group: Group) -> None:
        """Only judged samples count; a group without any is in no class."""
        correct = group.correct()[~np.isnan(group.rewards())]
        if len(correct):
            self.add_mean("groups/all_right", float(correct.all()), 1)
            self.add_mean("groups/mixed", float(correct.any() and not correct.all()), 1)
        for key, share in _all_wrong([group]).items():
            self._add(f"groups/{key}", share)
        if len(group.rollouts) > 1:
            different = {rollout.response_ids.tobytes() for rollout in group.rollouts}
            self.add_mean("groups/duplicates", len(group.rollouts) - len(different), len(group.rollouts) - 1)

    def _lengths(self, group: Group) -> None:
        for rollout in group.rollouts:
            tokens = len(rollout.response_ids)
            self.add_mean("rollout/length", tokens, 1)
            self.add_sum("rollout/tokens", tokens)
            self.add_sum("rollout/completions", 1)
            self.add_mean("rollout/truncated", float(rollout.finish == "length"), 1)

    def _rates(self) -> dict[str, float]:
        tokens, seconds = self.metrics.get("rollout/tokens"), self.metrics.get("time/rollout")
        if tokens is None or seconds is None or seconds.value() <= 0:
            return {}
        return {"rollout/tokens_per_second": tokens.value() / seconds.value()}


def _is_empty(metric: Metric) -> bool:
    return isinstance(metric, Mean) and metric.count == 0


def _all_wrong(groups: Sequence[Group]) -> dict[str, Mean]:
    """The share of groups whose judged samples are all wrong: of all groups, and of each level where there are levels."""
    found: dict[str, Mean] = {}
    for group in groups:
        correct = group.correct()[~np.isnan(group.rewards())]
        level = [f"all_wrong/level_{group.prompt.level}"] if group.prompt.level else []
        for key in ["all_wrong", *level] if len(correct) else []:
            found[key] = found.get(key, Mean()).merge(Mean(float(not correct.any()), 1))
    return found


def _by_prompt(groups: Sequence[Group]) -> list[Group]:
    """Groups of hinted rows joined to the group before them that the same prompt has without the hint."""
    out: list[Group] = []
    last: dict[str, int] = {}  # a prompt may come several times in a step
    for group in groups:
        place = last.get(group.prompt.id)
        if place is not None and any(r.origin == Origin.HINTED for r in group.rollouts):
            out[place] = replace(out[place], rollouts=(*out[place].rollouts, *group.rollouts))
        else:
            last[group.prompt.id] = len(out)
            out.append(group)
    return out


def _failure(group: Group, index: int, rollout: Rollout) -> str:
    score = rollout.score
    status = "not scored" if score is None else score.status
    detail = f" ({score.detail})" if score is not None and score.detail else ""
    return f"problem {group.prompt.id!r}, sample {index}: {status}{detail}"


def _row(group: Group, index: int, rollout: Rollout, step: int) -> str:
    """The sample as `posttrain rewards score` reads it, with everything that the rewards were told."""
    prompt = with_facts(group.prompt, rollout.response_ids, rollout.finish == "length", step)
    row = {
        "solution": prompt.solution,
        "source": prompt.source,
        **({"level": prompt.level} if prompt.level else {}),  # a 0 that is written down is a column
        **prompt.columns,  # in the order of posttrain.scoring.columns.columns_of
        "id": f"{prompt.id}/{index}",
        "completion": rollout.text,
        "answer": prompt.answer,
        "messages": [dict(message) for message in prompt.messages],
    }
    return json.dumps(row, default=str)

"""What shaping and advantages read of a rollout, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from posttrain.data.types import Group, Rollout


def is_judged(row: Rollout) -> bool:
    return row.score is not None and row.score.value is not None


def judged(group: Group, least: int = 1) -> Group:
    """The group with its judged rollouts alone; empty where there are fewer than `least`."""
    rows = tuple(r for r in group.rollouts if is_judged(r))
    return replace(group, rollouts=rows if len(rows) >= least else ())


def measured(row: Rollout, name: Literal["old_logp", "ref_logp", "values"]) -> np.ndarray:
    """[m] what the learner measured of the row."""
    found: np.ndarray | None = getattr(row, name)
    if found is None:
        raise ValueError(f"a rollout has no {name}: whatever reads it must name it in `needs`")
    return found.astype(np.float64)


def token_reward(row: Rollout) -> np.ndarray:
    """[m] what shaping has added so far, as a new array."""
    length = len(row.response_ids)
    return np.zeros(length) if row.token_reward is None else row.token_reward.astype(np.float64)


def rewards(row: Rollout) -> np.ndarray:
    """[m] the reward at each token: what shaping added, and the score at the last."""
    assert row.score is not None
    assert row.score.value is not None
    out = token_reward(row)
    out[-1:] += row.score.value  # a response without tokens has no last one
    return out


def centred(x: np.ndarray) -> np.ndarray:
    """x minus its mean; exactly 0 where all are equal, which the rounding of the mean would spoil."""
    return x - x.mean() if len(x) and x.max() > x.min() else np.zeros_like(x)


def with_advantage(group: Group, advantages: Sequence[float] | np.ndarray) -> Group:
    """One advantage for each rollout, the same at all its tokens."""
    rows = zip(group.rollouts, advantages, strict=True)
    return replace(group, rollouts=tuple(replace(r, advantage=np.full(len(r.response_ids), float(a))) for r, a in rows))


def unmoved(group: Group, least: int = 1) -> Group:
    """The group's judged rollouts with advantages of 0; empty where there are fewer than `least`."""
    group = judged(group, least)
    return with_advantage(group, np.zeros(len(group.rollouts)))

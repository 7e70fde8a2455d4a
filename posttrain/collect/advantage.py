"""From scores to advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from posttrain.config.registries import ADVANTAGES
from posttrain.data.types import Group, Rollout


@ADVANTAGES.register("group")
@dataclass
class GroupAdvantage:
    """Reward minus the group's mean, over the group's standard deviation (GRPO, 2402.03300, section 4.1.2).

    `scale: none` leaves the division out (Dr. GRPO, 2503.20783). The deviation is the sample's (n - 1), as in the
    authors' released code and its peers; `eps` is added to it. Unjudged rollouts take no part and are left out, and a
    group with fewer than two judged rollouts has no baseline and is left out whole.
    """

    scale: Literal["std", "none"] = "std"
    eps: float = 1e-6
    min_samples: ClassVar[int] = 2

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        return [self._fill(g) for g in groups]

    def _fill(self, group: Group) -> Group:
        judged = [r for r in group.rollouts if r.score is not None and r.score.value is not None]
        if len(judged) < self.min_samples:
            return replace(group, rollouts=())
        rewards = replace(group, rollouts=tuple(judged)).rewards()
        advantage = rewards - rewards.mean()
        if self.scale == "std":
            advantage = advantage / (rewards.std(ddof=1) + self.eps)
        return replace(group, rollouts=tuple(_with(r, a) for r, a in zip(judged, advantage, strict=True)))


def _with(rollout: Rollout, advantage: float) -> Rollout:
    return replace(rollout, advantage=np.full(len(rollout.response_ids), advantage, dtype=np.float32))

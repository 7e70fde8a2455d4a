"""Which rollouts are worth a learner's forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.config.registries import SELECTS
from posttrain.data.types import Group


@SELECTS.register("mixed_groups")
@dataclass
class MixedGroups:
    """Drops groups in which every rollout has the same reward: their advantages are all 0.

    The rows still count in no denominator, so `token_mean` averages over the rows that are left (DAPO, 2503.14476).
    """

    def __call__(self, groups: Sequence[Group], step: int) -> list[Group]:
        return [g for g in groups if len(g.rollouts) > 0 and g.rewards().max() > g.rewards().min()]

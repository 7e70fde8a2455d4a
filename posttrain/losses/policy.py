"""Policy-gradient surrogates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Lt

from posttrain.config.registries import TERMS
from posttrain.lazy import torch
from posttrain.losses.api import Term, View
from posttrain.stats.columns import LOGP, OLD_LOGP


def clipped(log_ratio: torch.Tensor, advantage: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """max(-A r, -A clip(r, 1 - low, 1 + high)) with r = exp(log_ratio); [A] -> [A]."""
    ratio = log_ratio.clamp(-20, 20).exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - low, 1 + high))


def beyond_clip(log_ratio: torch.Tensor, advantage: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """[A] bool: where the clipped surrogate has no gradient."""
    below = log_ratio < math.log1p(-low) if low < 1 else torch.zeros_like(log_ratio, dtype=torch.bool)
    return torch.where(advantage > 0, log_ratio > math.log1p(high), below)


@TERMS.register("ppo_clip")
@dataclass
class PPOClip(Term):
    """PPO's clipped surrogate (1707.06347, eq. 7), as GRPO uses it (2402.03300, eq. 3)."""

    low: Annotated[float, Ge(0), Lt(1)] = 0.2
    high: Annotated[float, Ge(0)] = 0.2
    needs = frozenset({LOGP, OLD_LOGP})

    def __call__(self, t: View) -> torch.Tensor:
        log_ratio = t.logp - t.old_logp
        t.track("clipped", beyond_clip(log_ratio.detach(), t.advantage, self.low, self.high))
        return clipped(log_ratio, t.advantage, self.low, self.high)


@TERMS.register("reinforce")
@dataclass
class Reinforce(Term):
    """REINFORCE: -A log p, on-policy (Williams 1992)."""

    needs = frozenset({LOGP})

    def __call__(self, t: View) -> torch.Tensor:
        return -t.advantage * t.logp

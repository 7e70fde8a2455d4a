"""Functions of a token's whole distribution: `[c, V]` log-probabilities of a chunk in, a `[c]` column out.

A loss term never sees logits. It names the statistics it reads, and the policy computes exactly these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from posttrain.lazy import torch


class StatInput(NamedTuple):
    """What a statistic may look at besides the distribution."""

    target: torch.Tensor  # [c] int64, the token that was sampled


class VocabStat(Protocol):
    """A frozen, hashable dataclass, so that two readers of the same statistic share one computation."""

    def __call__(self, logp: torch.Tensor, x: StatInput) -> torch.Tensor: ...


@dataclass(frozen=True)
class Logprob:
    """log p(target). `[c, V] -> [c]`, nats."""

    def __call__(self, logp: torch.Tensor, x: StatInput) -> torch.Tensor:
        return logp.gather(-1, x.target[:, None]).squeeze(-1)


@dataclass(frozen=True)
class Entropy:
    """-sum p log p over the whole vocabulary. `[c, V] -> [c]`, nats."""

    def __call__(self, logp: torch.Tensor, x: StatInput) -> torch.Tensor:
        prob = logp.exp()
        return -(prob * logp.masked_fill(prob == 0, 0.0)).sum(-1)

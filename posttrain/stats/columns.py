"""The table the losses read: one row per action token, sorted by sequence. No prompts, no padding, no masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from posttrain.lazy import torch
from posttrain.stats.vocab import Logprob, VocabStat

Source = Literal["live", "old", "ref"]


class Need(NamedTuple):
    """A column a reader asks for: which policy, which statistic.

    live: the learner now, with gradient. old: the learner at the start of the step. ref: frozen.
    """

    source: Source
    stat: VocabStat


LOGP, OLD_LOGP, REF_LOGP = Need("live", Logprob()), Need("old", Logprob()), Need("ref", Logprob())


@dataclass(frozen=True)
class Actions:
    """Columns over the A action tokens of a batch, sorted by sequence."""

    target: torch.Tensor  # [A] int64, the token
    seq: torch.Tensor  # [A] int64, 0 .. num_seqs - 1, ascending
    advantage: torch.Tensor  # [A] float32
    sampler_logp: torch.Tensor  # [A] float32, as the engine reported it
    reward: torch.Tensor  # [A] float32, the sequence's raw reward, repeated
    origin: torch.Tensor  # [A] uint8, an `Origin`
    place: torch.Tensor  # [A] int64, the token's number in the step, however the rows are cut
    num_seqs: int

    def take(self, index: torch.Tensor) -> Actions:
        columns = {n: c for n, c in vars(self).items() if n != "num_seqs"}
        return replace(self, **{n: c[index] for n, c in columns.items()})

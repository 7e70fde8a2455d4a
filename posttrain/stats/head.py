"""Every statistic of every action token, chunk by chunk: an `[A, V]` tensor never exists, forward or backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from posttrain.lazy import torch
from posttrain.stats.vocab import StatInput, VocabStat


def vocab_stats(
    hidden: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    target: torch.Tensor,
    stats: Sequence[VocabStat],
    *,
    num_chunks: int,
    temperature: torch.Tensor | None = None,
) -> torch.Tensor:
    """The statistics of all action tokens, `[len(stats), A]` float32.

    hidden `[A, D]` at the positions that predict the targets; head `[c, D] -> [c, V]`; target `[A]` int64;
    temperature `[A]`, by which the logits are divided first. `num_chunks` must be the same on every rank: under
    ZeRO-3 each head call is a collective. Chunks are recomputed in backward.
    """
    from torch.utils.checkpoint import checkpoint

    def one(h: torch.Tensor, goal: torch.Tensor, temp: torch.Tensor | None) -> torch.Tensor:
        logits = head(h)
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        if temp is not None:
            logits = logits / temp[:, None]
        logp = logits.log_softmax(-1)
        x = StatInput(goal)
        return torch.stack([stat(logp, x) for stat in stats])

    temps = [None] * num_chunks if temperature is None else temperature.tensor_split(num_chunks)
    chunks = zip(hidden.tensor_split(num_chunks), target.tensor_split(num_chunks), temps, strict=True)
    if torch.is_grad_enabled():
        # The reentrant form breaks under ZeRO ("the parameter has already been reduced").
        out = [checkpoint(one, *chunk, use_reentrant=False) for chunk in chunks]
    else:
        out = [one(*chunk) for chunk in chunks]
    return torch.cat(out, dim=1)

"""The policy as DeepSpeed wraps it: a causal language model whose forward returns statistics, never logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from posttrain.config.errors import ConfigError
from posttrain.stats.head import vocab_stats
from posttrain.stats.vocab import VocabStat

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Policy(nn.Module):
    """Backbone on padded rows `[b, T]`, head on the `[A]` positions that predict an action token."""

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm

    def forward(
        self,
        input_ids: torch.Tensor,  # [b, T] int64, padded on the right
        source: torch.Tensor,  # [A] int64 into the flattened [b * T]: the position that predicts the token
        target: torch.Tensor,  # [A] int64
        temperature: torch.Tensor | None,  # [A]
        stats: Sequence[VocabStat],
        num_chunks: int,
    ) -> torch.Tensor:
        """`[len(stats), A]` float32. A tensor, not a dict: ZeRO-3's hooks demand it."""
        # Padding stands on the right and attention is causal, so no real token ever sees it: no mask is needed.
        lm: Any = self.lm
        hidden = lm.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        rows = hidden.reshape(-1, hidden.shape[-1])[source]
        return vocab_stats(
            rows, lm.get_output_embeddings(), target, stats, num_chunks=num_chunks, temperature=temperature
        )


def load_policy(folder: Path, dtype: str, attention: str, device: torch.device) -> Policy:
    """The causal language model in `folder`. Raises ConfigError where its backend cannot be kept in step."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    if device.type == "cpu" and config.tie_word_embeddings:
        raise ConfigError(
            f"model: {folder} ties its input and output embeddings, and vLLM's CPU backend keeps serving the old output "
            "head after new weights are loaded. Use an untied model here (tiny: tie_embeddings=false), or train on a GPU"
        )
    if attention == "auto":
        attention = "sdpa"
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], attn_implementation=attention)
    return Policy(lm)

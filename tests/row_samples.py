"""Small rows, prompts and groups for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.data.types import Group, Prompt, Rollout, Score


def prompt(name: str = "p", text: str = "1+2=", **fields: Any) -> Prompt:
    values = {"source": "test", "messages": ({"role": "user", "content": text},), "answer": "3"}
    return Prompt(id=name, **{**values, **fields})


def row(prompt_ids: Sequence[int] = (5,), response_ids: Sequence[int] = (6, 7), **fields: Any) -> Rollout:
    """A rollout; `reward` is a short form of its score, None for one that could not be judged."""
    ids = np.asarray(response_ids, dtype=np.int64)
    if "reward" in fields:
        value = fields.pop("reward")
        status = "timeout" if value is None else "ok"
        fields["score"] = Score(value=value, correct=value == 1.0, status=status)
    fields.setdefault("sampler_logp", np.full(len(ids), -1.0, dtype=np.float32))
    return Rollout(prompt_ids=np.asarray(prompt_ids, dtype=np.int64), response_ids=ids, **fields)


def group(rewards: Sequence[float | None], name: str = "p") -> Group:
    """One rollout for every reward."""
    return Group(prompt=prompt(name), rollouts=tuple(row(reward=r, seed=i) for i, r in enumerate(rewards)))

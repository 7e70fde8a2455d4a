"""The row of one sample: what was said, what the verifier made of it. The same for benchmarks and held-out problems."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.data.types import Score

Row = dict[str, Any]


def sample_row(*, sample: int, seed: int, text: str, tokens: int, finish: str, score: Score | None) -> Row:
    """`correct` is the verifier's verdict and False where there is none; `status` says which of the two it is."""
    return {
        "sample": sample,
        "seed": seed,
        "completion": text,
        "correct": score is not None and score.correct,
        "reward": None if score is None or score.value is None else float(score.value),
        "status": "skipped" if score is None else score.status,
        "detail": "" if score is None else score.detail,
        "tokens": tokens,
        "finish": finish,
        "format": None if score is None else _said(score, "format"),
        "parsed": None if score is None else _said(score, "parsed"),
    }


def digest(token_ids: Sequence[int] | np.ndarray) -> str:
    """16 hexadecimal digits that tell whether two completions are the same token for token."""
    return hashlib.blake2b(np.asarray(token_ids, dtype="<i8").tobytes(), digest_size=8).hexdigest()


def _said(score: Score, part: str) -> bool | None:
    """What the verifier, or a reward of that name, says of the answer. `format`: whether it stood where it was asked for;
    `parsed`: whether it could be read."""
    looked = [value for name, value in score.parts.items() if name.rpartition("/")[2] == part]
    return bool(looked[0]) if looked else None

"""The numbers of an evaluation, as pure functions: what a score is, how sure it is, and what else went wrong.

    from posttrain.evaluation.metrics import interval, maj_at_k, pass_at_k
    pass_at_k(n=32, c=5, k=8)                         # of 32 samples 5 are right
    maj_at_k([0, 0, 1, 2], correct=0, k=3)            # one cluster of equivalent answers for each sample
    interval([[1, 0, 1, 1], [0, 0, 1, 0]])            # avg@4 of two questions with its bootstrap interval

Scores and chances are shares in [0, 1], not percent. Nothing here reads files or asks a model; what is drawn at random
depends on `seed` alone. Impossible numbers raise ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.evaluation.chances import Scores, avg_at_k, pass_at_k, pass_at_k_curve, question_means
from posttrain.evaluation.majority import Estimate, distinct_answers, maj_at_k, maj_at_k_curve, majority
from posttrain.evaluation.spread import Difference, Interval, Over, interval, paired_difference, sign_flip_p

__all__ = [
    "Difference",
    "Estimate",
    "Interval",
    "Lengths",
    "Over",
    "Rates",
    "Scores",
    "avg_at_k",
    "distinct_answers",
    "interval",
    "lengths",
    "maj_at_k",
    "maj_at_k_curve",
    "majority",
    "paired_difference",
    "pass_at_k",
    "pass_at_k_curve",
    "question_means",
    "rates",
    "sign_flip_p",
]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rates:
    """Shares of completions. One completion may count in several. None where no row says."""

    truncated: float  # ran into the limit of tokens
    malformed: float | None  # not in the asked-for form
    no_answer: float | None  # of the judged ones: no answer was found
    unparseable: float | None  # of the judged ones: there is an answer, and the verifier cannot read it
    failed: float  # no verdict: the verifier broke or ran out of time, the reference cannot be read, ..


@dataclass(frozen=True)
class Lengths:
    """Tokens of the completions."""

    mean: float
    median: float
    p95: float
    longest: int


def rates(rows: Sequence[Row]) -> Rates:
    """What went wrong, over the completions of an evaluation (`posttrain.evaluation.runner` makes such rows).

    Read of each row: `finish` ("length" is truncated), `status` of its verdict ("ok" where it is judged), `extracted` (the
    answer; None or empty is none, absent where nobody looked), `format` (truth, or a number of which 0 is malformed; None
    or absent where nobody looked) and `parsed` (likewise: 0 is an answer that cannot be read, which is judged and wrong).
    Raises ValueError without rows, KeyError where finish or status is missing.
    """
    _some(rows)
    judged = [row for row in rows if row["status"] == "ok"]
    looked = [row["format"] for row in rows if row.get("format") is not None]
    answers = [row["extracted"] for row in judged if "extracted" in row]
    parsed = [row.get("parsed") for row in judged]
    return Rates(
        truncated=float(np.mean([row["finish"] == "length" for row in rows])),
        malformed=float(np.mean([not well for well in looked])) if looked else None,
        no_answer=float(np.mean([not answer for answer in answers])) if answers else None,
        unparseable=float(np.mean([one == 0 for one in parsed])) if set(parsed) - {None} else None,
        failed=(len(rows) - len(judged)) / len(rows),
    )


def lengths(rows: Sequence[Row]) -> Lengths:
    """Of the `tokens` of rows. Raises ValueError without rows, KeyError where tokens are missing."""
    _some(rows)
    tokens = np.array([row["tokens"] for row in rows], dtype=np.int64)
    median, p95 = np.quantile(tokens, [0.5, 0.95])
    return Lengths(float(tokens.mean()), float(median), float(p95), int(tokens.max()))


def _some(rows: Sequence[Row]) -> None:
    if not rows:
        raise ValueError("there are no rows: of no completions there is no rate")

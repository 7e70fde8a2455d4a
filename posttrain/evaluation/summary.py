"""From the samples of a benchmark to its numbers: a pure function of rows, so that the same samples give the same table.

Samples without a verdict (a status other than "ok": the verifier ran out of time, the reference cannot be read, the prompt
was too long) count neither as right nor as wrong; a question of which no sample was judged is left out. How many there
were is in `rates` and `unjudged`. pass@k and maj@k rest on the questions that have k samples to draw: the curves go up to
the largest k that nine in ten of the questions have, and where it is not all of them, `questions` at that k says how many.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from posttrain.evaluation.metrics import (
    Over,
    distinct_answers,
    interval,
    lengths,
    majority,
    pass_at_k_curve,
    question_means,
    rates,
)

Row = Mapping[str, Any]
Clusters = Mapping[str, Sequence[int | None]]
RIGHT = 0  # the cluster of the right answer
RESAMPLES = 10_000
AT_ONCE = 2**22  # numbers held at a time


def verdicts(rows: Iterable[Row], question: str = "question") -> dict[str, list[bool]]:
    """For each question, in the order of the rows, the verdicts on its judged samples. A row without status is judged."""
    found: dict[str, list[bool]] = {}
    for row in rows:
        judged = found.setdefault(str(row[question]), [])
        if row.get("status", "ok") == "ok":
            judged.append(bool(row["correct"]))
    return found


def accuracy(rows: Iterable[Row], question: str = "question") -> float | None:
    """avg@k over the judged samples; None where nothing was judged."""
    judged = [of for of in verdicts(rows, question).values() if of]
    return float(question_means(judged).mean()) if judged else None


def summarize(rows: Sequence[Row], clusters: Clusters, max_failed: float) -> dict[str, Any]:
    """The entry of one benchmark in results.json. Raises ValueError without rows.

    `clusters` has one id for each sample of a question: RIGHT for the reference answer, None for no answer. The result is
    marked where more than the share `max_failed` of the samples has no verdict.
    """
    found = verdicts(rows)
    judged = {name: of for name, of in found.items() if of}
    unjudged = len(rows) - sum(map(len, judged.values()))
    votes = {name: clusters[name] for name in judged if name in clusters}
    of_question: dict[str, list[Row]] = {name: [] for name in found}
    for row in rows:
        of_question[str(row["question"])].append(row)
    return {
        "questions": len(found),
        "samples": len(rows),
        "unjudged": unjudged,
        "unjudged_questions": len(found) - len(judged),
        "marked": mark(rows, max_failed),
        "accuracy": _accuracy(list(judged.values())),
        "pass_at_k": _pass_at_k(list(judged.values())),
        "maj_at_k": _maj_at_k(list(votes.values())),
        "rates": asdict(rates(rows)),
        "lengths": asdict(lengths(rows)),
        "distinct": float(np.mean([distinct_answers(of) for of in votes.values()])) if votes else None,
        "per_question": {
            name: {
                "correct": sum(found[name]),
                "judged": len(found[name]),
                "maj": majority(votes[name], RIGHT, len(votes[name])).value if name in votes else None,
                "distinct": distinct_answers(votes[name]) if name in votes else None,
                "tokens": float(np.mean([row["tokens"] for row in of])),
            }
            for name, of in of_question.items()
        },
    }


def mark(rows: Sequence[Row], max_failed: float) -> str | None:
    """Why the numbers must not be relied on, if that is so."""
    failed = [row for row in rows if row["status"] != "ok"]
    if not failed or len(failed) <= max_failed * len(rows):
        return None
    first = failed[0]
    return (
        f"{len(failed)} of {len(rows)} samples have no verdict, more than max_failed = {max_failed:g}. "
        f"First: {first['question']}, sample {first['sample']}: {first['status']}, {first['detail']}"
    )


def _accuracy(scores: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """None for what a single question, or a single sample of each, cannot say."""

    def bounds(over: Over, possible: bool) -> dict[str, float | None]:
        if not possible:
            return {"low": None, "high": None}
        found = interval(scores, over)
        return {"low": found.low, "high": found.high}

    questions, samples = len(scores) > 1, any(len(of) > 1 for of in scores)
    mean = float(question_means(scores).mean()) if scores else None
    both: Over = "both" if samples else "questions"
    return {
        "mean": mean,
        **bounds(both, questions),
        "over": "questions and samples" if samples else "questions",
        "by_question": bounds("questions", questions),
        "by_sample": bounds("samples", samples),
    }


def _pass_at_k(scores: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """For every k up to `_most`; the interval is over questions."""
    most = _most(scores)
    if most == 0:
        return {}
    known = np.array([[len(of) > k for k in range(most)] for of in scores])  # [questions, k]
    chances = np.zeros(known.shape)
    chances[known] = np.concatenate([pass_at_k_curve(len(of), sum(of))[:most] for of in scores])
    low, high = _bands(chances, known) if len(scores) > 1 else (None, None)
    return {
        str(k + 1): {
            "value": float(chances[known[:, k], k].mean()),
            "low": None if low is None else float(low[k]),
            "high": None if high is None else float(high[k]),
            **_fewer(int(known[:, k].sum()), len(scores)),
        }
        for k in range(most)
    }


def _most(samples: Iterable[Sequence[Any]]) -> int:
    """The largest k that nine in ten of the questions have, so that a few samples without a verdict cut off no curve."""
    counts = sorted(map(len, samples))
    return counts[len(counts) // 10] if counts else 0


def _fewer(questions: int, of: int) -> dict[str, int]:
    return {"questions": questions} if questions < of else {}


def _bands(values: np.ndarray, known: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """[k] bounds of the means over the questions that have a value of [questions, k], 0 where not `known`: a bootstrap in
    which all k draw the same questions."""
    rng, questions = np.random.default_rng(seed), len(values)
    share, at_once = np.full(questions, 1 / questions), max(1, AT_ONCE // questions)
    means = []
    for begin in range(0, RESAMPLES, at_once):
        drawn = rng.multinomial(questions, share, size=min(at_once, RESAMPLES - begin))
        means.append(drawn @ values / np.maximum(drawn @ known, 1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _maj_at_k(votes: Sequence[Sequence[int | None]]) -> dict[str, Any]:
    curve: dict[str, Any] = {}
    for k in some_ks(_most(votes)):
        found = [majority(of, RIGHT, k) for of in votes if len(of) >= k]
        error = math.sqrt(sum(one.error**2 for one in found)) / len(found)
        value = float(np.mean([one.value for one in found]))
        curve[str(k)] = {"value": value, "error": error, **_fewer(len(found), len(votes))}
    return curve


def some_ks(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, .. and the last: what a curve needs where each point is dear."""
    powers = [2**i for i in range(most.bit_length())]
    between = [3 * p // 2 for p in powers[1:]]
    return sorted({k for k in (*powers, *between, most) if 1 <= k <= most})

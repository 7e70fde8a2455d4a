"""How far a mean over questions can be trusted, and whether two models differ."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from posttrain.evaluation.chances import Scores, question_means

Over = Literal["questions", "samples", "both"]
RESAMPLES = 10_000
ENUMERATED = 16  # questions that differ: up to here all 2^n sign patterns are gone through
AT_ONCE = 2**22  # numbers held at a time


@dataclass(frozen=True)
class Interval:
    """A mean, in the unit of the scores, and the bounds of its interval of nominal coverage `level`."""

    mean: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Difference(Interval):
    """A mean difference, its interval, and the p-value of there being none."""

    p_value: float


def interval(
    scores: Scores, over: Over = "both", *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """avg@k (`avg_at_k`) with a percentile bootstrap interval (Efron 1979).

    scores: for each question a sequence of numbers or verdicts, or an array [questions, k]. For a number that is there
    once a question, such as its pass@k, give sequences of one. over: what another evaluation would draw anew.
      "questions"  others of the kind, each with its samples: what the benchmark says about others like it
      "samples"    other samples of the same questions: what another run of the same evaluation would give. n of n samples
                   vary by (n - 1) / n of what they should: the deviations are taken sqrt(n / (n - 1)) times
      "both"       other questions, and other samples of each: the widest, since the means of the questions that are drawn
                   hold the noise of their samples already
    A bootstrap sees only what is there: where all scores are equal the interval has no width, a question with one sample
    adds none over="samples", and no bound lies beyond the lowest or the highest score.
    Raises ValueError without questions or samples, with one question unless over="samples", and over="samples" where no
    question has two.
    """
    means, tables = question_means(scores), [_padded(scores)]
    _check(tables, over, level)
    drawn = np.concatenate([sums[0] for sums in _resampled(tables, over, resamples, seed)])
    return Interval(float(means.mean()), *_bounds(drawn, level, *_range(scores)), level)


def paired_difference(
    a: Scores, b: Scores, over: Over = "both", *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """avg@k of model a minus that of model b on the same questions in the same order, with interval and p-value.

    The interval is a bootstrap as in `interval`, in which both models get the same questions and each its own samples.
    The p-value is that of a two-sided sign-flip (paired permutation) test over questions (Fisher 1935): under the null
    hypothesis a question's difference of means is as likely the other way round. It goes through all sign patterns where
    at most 16 questions differ, otherwise it draws `resamples` of them and is (1 + hits) / (1 + resamples), never 0.
    Raises ValueError where the two have not as many questions, and as `interval`.
    """
    if len(a) != len(b):
        raise ValueError(f"model a has {len(a)} questions and model b {len(b)}: a pair needs the same questions")
    differences, tables = question_means(a) - question_means(b), [_padded(a), _padded(b)]
    _check(tables, over, level)
    drawn = np.concatenate([x - y for x, y in _resampled(tables, over, resamples, seed)])
    (least_a, most_a), (least_b, most_b) = _range(a), _range(b)
    low, high = _bounds(drawn, level, least_a - most_b, most_a - least_b)
    return Difference(float(differences.mean()), low, high, level, sign_flip_p(differences, resamples, seed))


def sign_flip_p(differences: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p-value of the mean of [questions] differences being 0; see `paired_difference`. 1 where all are 0."""
    d = differences[differences != 0]
    least = abs(d.sum()) - 1e-9 * np.abs(d).sum()  # sums that are equal but for rounding count as equal
    if len(d) <= ENUMERATED:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(d)))).reshape(2 ** len(d), len(d))
        return float((np.abs(signs @ d) >= least).mean())
    rng, hits = np.random.default_rng(seed), 0
    for some in _chunks(resamples, len(d)):
        signs = rng.integers(0, 2, size=(some, len(d))) * 2 - 1
        hits += int((np.abs(signs @ d) >= least).sum())
    return (1 + hits) / (1 + resamples)


# [questions, most samples] scores, 0 beyond a question's last; [questions] samples
Table = tuple[np.ndarray, np.ndarray]


def _padded(scores: Scores) -> Table:
    lengths = np.array([len(of_question) for of_question in scores], dtype=np.int64)
    table = np.zeros((len(lengths), lengths.max(initial=0)))
    for row, of_question in zip(table, scores, strict=True):
        row[: len(of_question)] = of_question
    return table, lengths


def _check(tables: list[Table], over: Over, level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level} is no probability between 0 and 1")
    if over not in ("questions", "samples", "both"):
        raise ValueError(f"over={over!r} is none of questions, samples, both")
    if over != "samples" and len(tables[0][1]) < 2:
        raise ValueError(f"one question says nothing about others: over={over!r} needs two. Take over='samples'")
    if over == "samples" and all(lengths.max() < 2 for _, lengths in tables):
        raise ValueError("one sample of each question says nothing about other samples. Take over='questions'")


def _resampled(tables: list[Table], over: Over, resamples: int, seed: int) -> Iterator[list[np.ndarray]]:
    """For every model [some] means over questions drawn anew, the same for all models."""
    rng, questions = np.random.default_rng(seed), len(tables[0][1])
    widest = 1 if over == "questions" else max(table.shape[1] for table, _ in tables)
    for some in _chunks(resamples, questions * widest):
        which = np.arange(questions)[None, :].repeat(some, 0)
        if over != "samples":
            which = rng.integers(questions, size=(some, questions))
        yield [_means(table, which, over, rng).mean(1) for table in tables]


def _means(table: Table, which: np.ndarray, over: Over, rng: np.random.Generator) -> np.ndarray:
    """[some, questions] means of these questions, over samples drawn anew from each question's own where these vary."""
    scores, lengths = table
    means = (scores.sum(1) / lengths)[which]
    if over == "questions":
        return means
    size = lengths[which][..., None]
    index = (rng.random((*which.shape, scores.shape[1])) * size).astype(np.int64)
    drawn = scores[which[..., None], index] * (np.arange(scores.shape[1]) < size)
    again = drawn.sum(-1) / size[..., 0]
    if over == "both":
        return again
    return means + (again - means) * np.sqrt(size / np.maximum(size - 1, 1))[..., 0]


def _chunks(total: int, width: int) -> Iterator[int]:
    at_once = max(1, AT_ONCE // max(width, 1))
    return (min(at_once, total - begin) for begin in range(0, total, at_once))


def _range(scores: Scores) -> tuple[float, float]:
    return float(min(map(min, scores))), float(max(map(max, scores)))


def _bounds(drawn: np.ndarray, level: float, least: float, most: float) -> tuple[float, float]:
    low, high = np.clip(np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]), least, most)
    return float(low), float(high)

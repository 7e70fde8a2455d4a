from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from posttrain.evaluation.metrics import Interval, avg_at_k, interval, paired_difference, sign_flip_p


def coins(seed: int, questions: int = 200, samples: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((questions, samples)) < rng.random((questions, 1))


def half(found: Interval) -> float:
    return (found.high - found.low) / 2


# ---- one model ----
def test_it_is_about_the_mean_over_questions() -> None:
    scores = [[1, 1, 1, 0], [0], [1, 0]]
    for over in ("questions", "samples", "both"):
        found = interval(scores, over)  # type: ignore[arg-type]
        assert found.mean == avg_at_k(scores) == pytest.approx(1.25 / 3)
        assert found.low <= found.mean <= found.high
        assert found.level == 0.95


def test_its_width_is_what_theory_says() -> None:
    """Of the means of many questions the bootstrap's deviation is known; 1.96 of them make 95 %."""
    scores = coins(0)
    questions, samples = scores.shape
    means = scores.mean(1)
    between, drawn = means.var() / questions, (scores.var(1) / samples).mean() / questions
    within = drawn * samples / (samples - 1)  # what the samples of another run vary by
    for over, variance in (("questions", between), ("samples", within), ("both", between + drawn)):
        found = interval(scores, over)  # type: ignore[arg-type]
        assert half(found) == pytest.approx(1.96 * variance**0.5, rel=0.04)
        narrow = interval(scores, over, level=0.5)  # type: ignore[arg-type]
        assert half(narrow) == pytest.approx(0.6745 * variance**0.5, rel=0.08)  # in steps of 1/1600


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    """Questions of a known difficulty: the benchmark's mean of 0.5 lies inside 95 % of the time."""
    inside = [
        found.low <= 0.5 <= found.high
        for found in (interval(coins(seed, 60, 4), "questions", resamples=500) for seed in range(300))
    ]
    assert 0.91 <= np.mean(inside) <= 0.98


@pytest.mark.parametrize("samples", [2, 3, 4])
def test_another_run_of_few_samples_lies_inside_as_often_as_it_says(samples: int) -> None:
    inside = []
    for seed in range(400):
        rng = np.random.default_rng([seed, samples])
        chances = rng.random((60, 1))
        found = interval(rng.random((60, samples)) < chances, "samples", resamples=400)
        inside.append(found.low <= chances.mean() <= found.high)
    assert 0.91 <= np.mean(inside) <= 0.98


def test_ragged_questions_are_drawn_from_their_own_samples() -> None:
    scores = [[5.0], [1.0, 1.0, 1.0], [0.0, 4.0]]
    found = interval(scores, "samples")  # only the last can vary: 0, 2 or 4, and sqrt(2) times as far from 2
    low, high = (8 - 8**0.5) / 3, (8 + 8**0.5) / 3
    assert found == Interval(mean=8 / 3, low=pytest.approx(low), high=pytest.approx(high), level=0.95)  # type: ignore[arg-type]


def test_no_bound_lies_beyond_what_a_score_can_be() -> None:
    found = interval([[True, False]], "samples")
    assert (found.low, found.high) == (0.0, 1.0)
    apart = paired_difference([[True, False]], [[False, True]], "samples")
    assert (apart.low, apart.high) == (-1.0, 1.0)


def test_the_seed_decides_and_nothing_else() -> None:
    scores = coins(1, 20)
    assert interval(scores) == interval(scores.tolist())
    assert interval(scores, seed=1) != interval(scores, seed=2)


def test_drawing_in_pieces_changes_no_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = coins(2, 50)
    whole = interval(scores)
    monkeypatch.setattr("posttrain.evaluation.spread.AT_ONCE", 5000)
    pieces = interval(scores)
    assert (pieces.low, pieces.high) == pytest.approx((whole.low, whole.high), abs=0.01)


def test_where_all_is_equal_there_is_no_width() -> None:
    assert interval([[1, 1], [1, 1]]) == Interval(1.0, 1.0, 1.0, 0.95)


# ---- two models ----
def by_signs(d: list[float]) -> float:
    hits = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True))) >= abs(sum(d)) - 1e-9
        for signs in itertools.product((1, -1), repeat=len(d))
    ]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("seed", range(10))
def test_the_p_value_is_that_of_all_sign_patterns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for d in (rng.normal(0.3, 1, 8), rng.integers(-2, 4, 9) / 8, rng.integers(0, 2, 5) * 0.1):
        assert sign_flip_p(d) == pytest.approx(by_signs(d.tolist()))


@pytest.mark.parametrize(
    ("differences", "p"),
    [([0.1] * 5, 2 / 32), ([0.0] * 5, 1.0), ([0.5, 0, 0], 1.0), ([0.3, 0.2, -0.1], 0.5), ([], 1.0)],
)
def test_p_values_by_hand(differences: list[float], p: float) -> None:
    """.3, .2, -.1 sum to .4; so does |.3 + .2 - .1| with all signs turned; .3 + .2 + .1 = .6 is more, twice."""
    assert sign_flip_p(np.array(differences)) == p


def test_many_questions_are_drawn_and_agree_with_all_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    d = np.random.default_rng(5).normal(0.4, 1, 14)
    wanted = sign_flip_p(d)
    monkeypatch.setattr("posttrain.evaluation.spread.ENUMERATED", 0)
    got = sign_flip_p(d, resamples=40_000)
    assert got == pytest.approx(wanted, abs=5 * (wanted / 40_000) ** 0.5)
    assert sign_flip_p(np.ones(30), resamples=99) == 0.01  # never 0


def test_without_a_difference_p_values_are_uniform() -> None:
    p = [paired_difference(coins(seed, 40, 4), coins(1000 + seed, 40, 4), resamples=200).p_value for seed in range(200)]
    assert 0.02 <= np.mean(np.array(p) <= 0.1) <= 0.18
    assert 0.4 <= np.mean(p) <= 0.6


def test_pairing_removes_what_the_questions_have_in_common() -> None:
    """Hard and easy questions, on which b is right once more of ten."""
    a = [[1] * right + [0] * (10 - right) for right in range(10)] * 4
    b = [[1] * (right + 1) + [0] * (9 - right) for right in range(10)] * 4
    found = paired_difference(b, a, "questions")
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    assert found.p_value == pytest.approx(1 / 10_001)
    assert half(interval(a, "questions")) > 0.08
    other = paired_difference(a, b, "questions")
    assert (other.mean, other.p_value) == (pytest.approx(-found.mean), found.p_value)


def test_the_width_of_a_difference_is_what_theory_says() -> None:
    a, b = coins(3), coins(4, samples=5)
    d = a.mean(1) - b.mean(1)
    between, drawn = d.var() / len(d), ((a.var(1) / 8).mean() + (b.var(1) / 5).mean()) / len(d)
    within = ((a.var(1, ddof=1) / 8).mean() + (b.var(1, ddof=1) / 5).mean()) / len(d)
    for over, variance in (("questions", between), ("samples", within), ("both", between + drawn)):
        found = paired_difference(a, b, over)  # type: ignore[arg-type]
        assert found.mean == pytest.approx(d.mean())
        assert half(found) == pytest.approx(1.96 * variance**0.5, rel=0.04)


def test_a_model_and_itself() -> None:
    found = paired_difference(coins(0), coins(0))
    assert (found.mean, found.p_value) == (0.0, 1.0)
    assert found.low < 0 < found.high  # its samples might have been others


# ---- what cannot be ----
@pytest.mark.parametrize(
    ("scores", "more", "message"),
    [
        ([], {}, "no questions"),
        ([[1], []], {}, r"questions \[1\] have no samples"),
        ([[1, 0]], {}, "one question says nothing about others"),
        ([[1, 0]], {"over": "questions"}, "Take over='samples'"),
        ([[1], [0]], {"over": "samples"}, "Take over='questions'"),
        ([[1], [0]], {"over": "tokens"}, "over='tokens' is none of"),
        ([[1], [0]], {"level": 95}, "level=95 is no probability"),
    ],
)
def test_impossible_questions_are_named(scores: Any, more: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interval(scores, **more)
    if scores:
        with pytest.raises(ValueError, match=message):
            paired_difference(scores, scores, **more)


def test_models_need_the_same_questions() -> None:
    with pytest.raises(ValueError, match="model a has 2 questions and model b 3"):
        paired_difference([[1], [1]], [[1], [1], [0]])

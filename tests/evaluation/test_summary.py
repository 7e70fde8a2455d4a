from __future__ import annotations

import json
from typing import Any

import pytest

from posttrain.evaluation.chances import pass_at_k
from posttrain.evaluation.majority import maj_at_k
from posttrain.evaluation.spread import interval
from posttrain.evaluation.summary import accuracy, mark, some_ks, summarize
from posttrain.evaluation.table import remarks


def rows(question: str, verdicts: str) -> list[dict[str, Any]]:
    """One letter a sample: r right, w wrong, t the verifier timed out, l wrong and cut off."""
    return [
        {
            "question": question,
            "sample": i,
            "correct": letter == "r",
            "status": "timeout" if letter == "t" else "ok",
            "detail": "",
            "tokens": 10 * (i + 1),
            "finish": "length" if letter == "l" else "stop",
            "format": letter != "w",
            "extracted": None if letter == "l" else letter,
            "parsed": None if letter == "l" else letter != "w",
        }
        for i, letter in enumerate(verdicts)
    ]


SAMPLES = [*rows("a", "rrwl"), *rows("b", "wwww"), *rows("c", "rwrr")]
CLUSTERS = {"a": [0, 0, 1, None], "b": [1, 1, 2, 3], "c": [0, 1, 0, 0]}


def test_the_numbers_are_those_of_the_metrics() -> None:
    found = summarize(SAMPLES, CLUSTERS, 0.02)
    scores = [[True, True, False, False], [False] * 4, [True, False, True, True]]
    assert found["accuracy"]["mean"] == pytest.approx((0.5 + 0 + 0.75) / 3)
    both, questions = interval(scores), interval(scores, "questions")
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == (both.low, both.high)
    assert found["accuracy"]["by_question"] == {"low": questions.low, "high": questions.high}
    assert list(found["pass_at_k"]) == ["1", "2", "3", "4"]
    for k in (1, 2, 3, 4):
        mean = sum(pass_at_k(4, c, k) for c in (2, 0, 3)) / 3
        assert found["pass_at_k"][str(k)]["value"] == pytest.approx(mean)
        assert found["maj_at_k"][str(k)]["value"] == pytest.approx(sum(maj_at_k(CLUSTERS[q], 0, k) for q in "abc") / 3)
    assert found["pass_at_k"]["1"]["low"] <= found["accuracy"]["mean"] <= found["pass_at_k"]["1"]["high"]
    assert found["distinct"] == pytest.approx((2 + 3 + 2) / 3)
    wanted = {"truncated": 1 / 12, "malformed": 6 / 12, "no_answer": 1 / 12, "unparseable": 6 / 12, "failed": 0.0}
    assert found["rates"] == wanted
    assert found["lengths"]["mean"] == 25.0
    assert found["per_question"]["a"] == {"correct": 2, "judged": 4, "maj": 1.0, "distinct": 2, "tokens": 25.0}
    assert found["marked"] is None
    json.dumps(found, allow_nan=False)


def test_the_same_samples_give_the_same_table() -> None:
    assert summarize(SAMPLES, CLUSTERS, 0.02) == summarize(SAMPLES, CLUSTERS, 0.02)


def test_a_sample_without_a_verdict_is_neither_right_nor_wrong() -> None:
    some = [*rows("a", "rtw"), *rows("b", "rrr"), *rows("c", "ttt")]
    found = summarize(some, {"a": [0, None, 1], "b": [0, 0, 0], "c": [1, 2, 3]}, 0.5)
    assert found["accuracy"]["mean"] == pytest.approx((1 / 2 + 1) / 2)  # c is left out
    assert list(found["pass_at_k"]) == ["1", "2"]  # as many as nine in ten have
    assert (found["unjudged"], found["unjudged_questions"], found["rates"]["failed"]) == (4, 1, 4 / 9)
    assert found["per_question"]["c"] == {"correct": 0, "judged": 0, "maj": None, "distinct": None, "tokens": 20.0}
    assert found["marked"] is None


def test_one_lost_sample_does_not_cut_the_curves() -> None:
    letters = ["rwwt", *["rwww", "rrww", "wwww"] * 3]
    some = [row for n, of in enumerate(letters) for row in rows(f"q{n}", of)]
    found = summarize(some, {f"q{n}": [0, 1, 2, 3] for n in range(10)}, 0.05)
    curve = found["pass_at_k"]
    assert list(curve) == ["1", "2", "3", "4"]
    assert "questions" not in curve["3"]
    right = [of.count("r") for of in letters]
    three = (pass_at_k(3, 1, 3) + sum(pass_at_k(4, c, 3) for c in right[1:])) / 10
    assert curve["3"]["value"] == pytest.approx(three)
    assert curve["4"]["value"] == pytest.approx(6 / 9)
    assert curve["4"]["questions"] == 9
    assert curve["4"]["low"] < 6 / 9 < curve["4"]["high"]
    results = {"models": {"m": {"failed": None, "benchmarks": {"b": found}}}}
    assert ("note: ", "m, b: pass@4 rests on 9 of 10 questions: the others have fewer verdicts") in remarks(results)


def test_where_many_have_lost_samples_the_curve_ends_and_says_so() -> None:
    some = [row for n in range(10) for row in rows(f"q{n}", "rwwt" if n < 2 else "rwww")]
    found = summarize(some, {}, 0.5)
    assert list(found["pass_at_k"]) == ["1", "2", "3"]
    results = {"models": {"m": {"failed": None, "benchmarks": {"b": found}}}}
    said = [text for _, text in remarks(results)]
    assert "m, b: pass@k ends at k = 3 of 4: for more, too few questions have enough verdicts" in said


def test_too_many_of_them_mark_the_result() -> None:
    text = mark([*rows("a", "r" * 97), *rows("b", "ttt")], 0.02)
    assert text is not None
    assert "3 of 100 samples have no verdict, more than max_failed = 0.02. First: b, sample 0: timeout" in text
    assert mark([*rows("a", "r" * 98), *rows("b", "tt")], 0.02) is None


def test_what_cannot_be_said_is_null() -> None:
    one = summarize(rows("a", "r"), {"a": [0]}, 0.0)
    assert one["accuracy"] == {
        "mean": 1.0,
        "low": None,
        "high": None,
        "over": "questions",
        "by_question": {"low": None, "high": None},
        "by_sample": {"low": None, "high": None},
    }
    assert one["pass_at_k"] == {"1": {"value": 1.0, "low": None, "high": None}}
    nothing = summarize(rows("a", "tt"), {"a": [None, None]}, 0.0)
    assert (nothing["accuracy"]["mean"], nothing["pass_at_k"], nothing["maj_at_k"]) == (None, {}, {})
    assert nothing["marked"] is not None
    json.dumps([one, nothing], allow_nan=False)
    with pytest.raises(ValueError, match="no rows"):
        summarize([], {}, 0.0)


def test_accuracy_of_nothing_is_none() -> None:
    assert accuracy([]) is None
    assert accuracy(rows("a", "tt")) is None
    assert accuracy(SAMPLES) == pytest.approx(1.25 / 3)


def test_the_points_of_a_curve() -> None:
    assert some_ks(1) == [1]
    assert some_ks(4) == [1, 2, 3, 4]
    assert some_ks(10) == [1, 2, 3, 4, 6, 8, 10]
    assert some_ks(64) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert some_ks(0) == []

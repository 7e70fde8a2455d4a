from __future__ import annotations

import pytest
from telemetry_samples import evaluation

from posttrain.telemetry.outcomes import accuracy, by_level, pairs, teaching, wilson


def test_wilson_by_hand():
    # 5 of 10, z^2 = 3.8415: centre 0.5, half width 1.96 / 1.38415 * sqrt(0.025 + 0.0096036) = 0.26341
    assert wilson(0.5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    # all of n: low = n / (n + z^2)
    assert wilson(1.0, 10) == pytest.approx((10 / 13.841459, 1.0), abs=1e-5)
    assert wilson(0.0, 10)[0] == 0.0
    assert wilson(0.0, 0) == (0.0, 1.0)


def test_several_samples_of_a_problem_do_not_narrow_the_interval():
    once = evaluation(True, False, True, False)
    many = accuracy(once * 4)
    assert many == accuracy(once)
    assert many is not None
    assert (many.share, many.problems) == (0.5, 4)


def test_no_rows_have_no_accuracy():
    assert accuracy([]) is None


def test_by_level():
    rows = evaluation(True, True, level=2) + evaluation(True, False, False, False, level=1)
    found = by_level(rows)
    assert [(level, value.share, value.problems) for level, value in found.items()] == [
        (1, 0.25, 4),
        (2, 1.0, 2),
    ]


def test_teaching_shows_each_kind_of_change_and_the_harder_problem_first():
    before = evaluation(False, False, True, level=1) + evaluation(False, True, level=3)
    after = evaluation(True, False, False, level=1) + evaluation(True, True, level=3)
    chosen = teaching(pairs(before, after), 3)
    assert [(p.change, p.any["problem_id"]) for p in chosen] == [
        ("learned", "level3-0"),
        ("wrong", "level1-1"),
        ("lost", "level1-2"),
    ]
    assert chosen[0].words == "wrong before, right now"
    assert len(teaching(pairs(before, after), 99)) == 5


def test_one_side_alone_has_no_change():
    assert [pair.words for pair in pairs([], evaluation(True, False))] == ["right", "wrong"]

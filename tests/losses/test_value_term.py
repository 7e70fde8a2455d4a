"""PPO's value loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
from loss_views import actions, slope, table_view, values, watched

from posttrain.config.algorithms import load_algorithm
from posttrain.config.errors import ConfigError
from posttrain.config.load import load_recipe
from posttrain.losses.api import View
from posttrain.losses.value import ClippedValue
from posttrain.stats.columns import OLD_VALUE, VALUE


def test_by_hand() -> None:
    view = table_view([1], {VALUE: [1.0], OLD_VALUE: [0.5], "returns": [0.2]})
    got = ClippedValue(0.2)(view)
    assert got.tolist() == pytest.approx([0.32])  # .5 max(.8², .5²)
    assert slope(got, view, VALUE) == pytest.approx([0.8])


def test_a_value_that_moved_too_far_towards_its_return_gains_nothing() -> None:
    view, tracked, _ = watched(table_view([2], {VALUE: [1.0, 0.6], OLD_VALUE: [0.5, 0.5], "returns": [2.0, 2.0]}))
    got = ClippedValue(0.2)(view)
    assert got.tolist() == pytest.approx([0.5 * 1.3**2, 0.5 * 1.4**2])
    assert slope(got, view, VALUE) == pytest.approx([0.0, -1.4])
    assert tracked["clipped"].tolist() == [True, False]


@pytest.mark.parametrize("clip", [None, 0.1, 0.5])
def test_against_a_loop(clip: float | None) -> None:
    term = ClippedValue(clip)
    view, tracked, _ = watched(View(actions([4, 7, 9]), values({VALUE, OLD_VALUE}, 20, spread=2.0)))
    assert view.actions.returns is not None
    value, gradient = [], []
    rows = zip(view[VALUE].tolist(), view[OLD_VALUE].tolist(), view.actions.returns.tolist(), strict=True)
    for v, old, r in rows:
        near = v if clip is None else old + min(max(v - old, -clip), clip)
        free, held = (v - r) ** 2, (near - r) ** 2
        value.append(0.5 * max(free, held))
        gradient.append(0.0 if held > free else v - r)
    got = term(view)
    assert got.tolist() == pytest.approx(value, abs=1e-12)
    assert slope(got, view, VALUE) == pytest.approx(gradient, abs=1e-12)
    if clip is not None:
        assert tracked["clipped"].tolist() == [g == 0 for g in gradient]
        assert 0 < sum(g == 0 for g in gradient) < 20


def test_without_a_clip_the_old_values_are_not_read() -> None:
    assert ClippedValue(None).needs == {VALUE}
    assert ClippedValue().needs == {VALUE, OLD_VALUE}


def test_rows_without_returns_say_what_is_missing() -> None:
    view = View(replace(actions([2]), returns=None), values({VALUE, OLD_VALUE}, 2))
    with pytest.raises(ValueError, match=r"reads returns.*use the advantage gae"):
        ClippedValue()(view)


def test_an_advantage_that_makes_no_returns_is_refused() -> None:
    overrides = ["critic={}", "objective.value={term: clipped_value}"]
    with pytest.raises(ConfigError, match=r"objective\.value.*makes none\. Set advantage: gae"):
        load_recipe("quickstart", overrides)
    load_recipe("quickstart", [*overrides, "advantage={use: gae}"])


@pytest.mark.parametrize(
    ("rows", "rest"), [("policy, expert", "policy"), ("expert", "policy"), ("hinted, aux", "hinted")]
)
def test_rows_without_returns_are_refused(rows: str, rest: str) -> None:
    overrides = {
        "mixes": {"expert": "expert_mix", "aux": "entropy_control"},
        "objective.expert": {"rows": ["expert"], "term": "nll"},
        "objective.aux": {"rows": ["aux"], "term": "ppo_clip"},
    }
    load_algorithm("guide_ppo", overrides)
    words = rf"objective\.value\.rows: .* have none.* Set objective\.value\.rows=\[{rest}\]"
    with pytest.raises(ConfigError, match=words):
        load_algorithm("guide_ppo", {**overrides, "objective.value.rows": rows.split(", ")})

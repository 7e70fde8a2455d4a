"""Likelihood of given tokens, and the gate for correct sequences."""

from __future__ import annotations

import math
from typing import Any

import pytest
from loss_views import slope, table_view

from posttrain.comm import SingleProcess
from posttrain.config.algorithms import load_algorithm
from posttrain.config.errors import ConfigError
from posttrain.losses.objective import Objective, Part
from posttrain.losses.supervised import NLL, Correct
from posttrain.stats.columns import LOGP

ONE = SingleProcess()


@pytest.mark.parametrize("phi", ["one", "p", "p(1-p)"])
def test_nll_against_a_loop(phi: Any) -> None:
    p = [0.9, 0.5, 0.01]
    view = table_view([3], {LOGP: [math.log(x) for x in p]})
    weight = [{"one": 1.0, "p": x, "p(1-p)": x * (1 - x)}[phi] for x in p]
    got = NLL(phi)(view)
    assert got.tolist() == pytest.approx([-w * math.log(x) for w, x in zip(weight, p, strict=True)], abs=1e-12)
    assert slope(got, view) == pytest.approx([-w for w in weight], abs=1e-12)  # phi has no gradient


def test_only_correct_sequences_are_learnt_and_the_mean_is_theirs() -> None:
    correct = [False, False, True, True, True]
    view = table_view([2, 1, 2], {LOGP: [-1.0] * 5, "correct": correct})
    assert Correct()(view).tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    for count, share in (("gated", 1 / 3), ("rows", 1 / 5)):
        objective = Objective({"nll": Part(NLL(), gates=(Correct(),), count=count)})  # type: ignore[arg-type]
        gradient = slope(objective(view, objective.prepare(view, ONE)), view)
        assert gradient == pytest.approx([0.0, 0.0, -share, -share, -share])


@pytest.mark.parametrize("scope", ["step", "micro"])
def test_nothing_correct_gives_a_loss_of_nothing(scope: Any) -> None:
    view = table_view([2], {LOGP: [-1.0, -2.0], "correct": [False, False]})
    objective = Objective({"nll": Part(NLL(), gates=(Correct(scope),), count="gated" if scope == "step" else "rows")})
    loss = objective(view, objective.prepare(view, ONE))
    assert float(loss.detach()) == 0.0
    assert slope(loss, view) == [0.0, 0.0]


# ---- what is refused ----
@pytest.mark.parametrize("gate", ["informative_tokens", "top_cov", "clip_cov", "truncated_is", "high_entropy"])
@pytest.mark.parametrize("rows", ["policy", "hinted"])
def test_no_other_gate_keeps_wrong_answers_out(gate: str, rows: str) -> None:
    part = {"term": "nll", "rows": [rows], "weight": 0.1}
    words = (
        rf"objective\.more\.gates: .* \({rows}\) also the wrong ones.* Set objective\.more\.gates=\[correct, {gate}\]"
    )
    with pytest.raises(ConfigError, match=words):
        load_algorithm("guide", {"objective.more": {**part, "gates": [gate]}})
    load_algorithm("guide", {"objective.more": {**part, "gates": ["correct", gate]}})


def test_sampled_rows_and_an_experts_are_two_parts() -> None:
    part = {"term": "nll", "rows": ["policy", "expert"]}
    with pytest.raises(ConfigError, match=r"Set objective\.more\.rows=\[expert\], and give the others a part"):
        load_algorithm("chord_mu", {"objective.more": part})
    with pytest.raises(ConfigError, match=r"gates\.0: .* Set objective\.more\.rows=\[policy\] and give the expert"):
        load_algorithm("chord_mu", {"objective.more": {**part, "gates": ["correct"]}})


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ("correct", "expert rows are not judged: none of them passes"),
        ("informative_tokens", "informative_tokens chooses by advantages, and expert rows have none"),
        ("top_cov", "top_cov chooses by advantages, and expert rows have none"),
        ("clip_cov", "clip_cov chooses by advantages, and expert rows have none"),
    ],
)
def test_gates_that_read_what_an_experts_rows_have_not(gate: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"objective\.expert\.gates\.0: .*{words}.* from objective\.expert\.gates"):
        load_algorithm("chord_mu", {"objective.expert.gates": [gate]})
    load_algorithm("chord_mu", {"objective.expert.gates": ["high_entropy"]})

"""What every registered loss term and gate must keep to."""

from __future__ import annotations

import pytest
import torch
from loss_views import actions, loss_and_gradients, rows_of, values

from posttrain.comm import SingleProcess
from posttrain.config.registries import GATES, TERMS
from posttrain.losses.api import Objective, Part, View

ONE = SingleProcess()
LENGTHS = [3, 1, 4, 2, 5]


def part_of(kind: str, name: str) -> Part:
    if kind == "term":
        return Part(TERMS.build(name, at="test"))
    return Part(TERMS.build("reinforce", at="test"), gates=(GATES.build(name, at="test"),))


EVERY_TERM = TERMS.names()
EVERY_PART = [("term", n) for n in EVERY_TERM] + [("gate", n) for n in GATES.names()]


def test_the_registries_are_not_empty() -> None:
    assert {"ppo_clip", "reinforce"} <= set(EVERY_TERM)


@pytest.mark.parametrize("name", EVERY_TERM)
def test_a_term_reads_what_it_declares_and_nothing_else(name: str) -> None:
    term = TERMS.build(name, at="test")
    view = View(actions(LENGTHS), values(term.needs, sum(LENGTHS)))  # any other read raises KeyError
    term.prepare(view, torch.full_like(view.advantage, 1 / sum(LENGTHS)))
    loss = term(view)
    assert loss.shape == view.advantage.shape
    assert loss.isfinite().all()
    live = [column for need, column in view.values.items() if need.source == "live"]
    assert live, "a term without a live statistic trains nothing"
    reached = torch.autograd.grad(loss.sum(), live, allow_unused=True)
    assert all(g is not None for g in reached), "declares a live statistic it never uses"


@pytest.mark.parametrize("name", EVERY_TERM)
def test_a_term_is_a_function_of_each_token_alone(name: str) -> None:
    term = TERMS.build(name, at="test")
    view = View(actions(LENGTHS), values(term.needs, sum(LENGTHS)))
    term.prepare(view, torch.full_like(view.advantage, 1 / sum(LENGTHS)))
    some = torch.tensor([1, 2, 7, 14])
    torch.testing.assert_close(term(view.take(some)), term(view)[some], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EVERY_TERM)
def test_a_terms_gradient_agrees_with_finite_differences(name: str) -> None:
    objective = Objective({"x": Part(TERMS.build(name, at="test"), reduce="seq_mean_token_mean")})
    view = View(actions(LENGTHS), values(objective.needs, sum(LENGTHS), spread=0.1))  # away from the clip
    weights = objective.prepare(view, ONE)
    live = [need for need in view.values if need.source == "live"]

    def loss(*columns: torch.Tensor) -> torch.Tensor:
        moved = {**view.values, **dict(zip(live, columns, strict=True))}
        return objective(View(view.actions, moved), weights)

    assert torch.autograd.gradcheck(loss, tuple(view.values[need] for need in live))


@pytest.mark.parametrize("name", GATES.names())
def test_a_gate_is_a_factor(name: str) -> None:
    gate = GATES.build(name, at="test")
    factor = gate(View(actions(LENGTHS), values(gate.needs, sum(LENGTHS)), comm=ONE))
    assert factor.shape == (sum(LENGTHS),)
    assert not factor.requires_grad
    assert (factor >= 0).all()


@pytest.mark.parametrize(("kind", "name"), EVERY_PART)
def test_splitting_a_batch_changes_nothing(kind: str, name: str) -> None:
    objective = Objective({"x": part_of(kind, name)})
    table = actions(LENGTHS)
    view = View(table, values(objective.needs, sum(LENGTHS)))
    weights = objective.prepare(view, ONE)
    pieces = torch.zeros((), dtype=torch.float64)
    for cut in ([4, 0], [2], [1, 3]):
        part, index = rows_of(table, cut)
        micro = View(part, {need: column[index] for need, column in view.values.items()})
        pieces = pieces + objective(micro, {k: w[index] for k, w in weights.items()})
    torch.testing.assert_close(pieces, objective(view, weights), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "name"), EVERY_PART)
def test_permuting_sequences_permutes_columns_and_nothing_else(kind: str, name: str) -> None:
    table = actions(LENGTHS)
    view = View(table, values(Objective({"x": part_of(kind, name)}).needs, sum(LENGTHS)))
    loss, gradients = loss_and_gradients(Objective({"x": part_of(kind, name)}), view, ONE)
    other, index = rows_of(table, [3, 0, 4, 2, 1])
    moved = {n: c.detach()[index].requires_grad_(n.source == "live") for n, c in view.values.items()}
    loss_2, gradients_2 = loss_and_gradients(Objective({"x": part_of(kind, name)}), View(other, moved), ONE)
    torch.testing.assert_close(loss_2, loss, rtol=0, atol=1e-12)
    for need, gradient in gradients.items():
        torch.testing.assert_close(gradients_2[need], gradient[index], rtol=0, atol=1e-12)

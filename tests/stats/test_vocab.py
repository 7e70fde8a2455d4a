from __future__ import annotations

import math

import pytest
import torch

from posttrain.stats.vocab import Entropy, Logprob, StatInput


def test_logprob_picks_the_target_of_each_row() -> None:
    logp = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], dtype=torch.float64).log()
    got = Logprob()(logp, StatInput(torch.tensor([1, 2])))
    assert got.tolist() == pytest.approx([math.log(0.25), math.log(0.7)], abs=1e-12)


def test_entropy_by_hand() -> None:
    rows = [[0.25, 0.25, 0.25, 0.25], [0.5, 0.25, 0.125, 0.125], [1.0, 0.0, 0.0, 0.0]]
    logp = torch.tensor(rows, dtype=torch.float64).log()
    got = Entropy()(logp, StatInput(torch.zeros(3, dtype=torch.int64)))
    assert got.tolist() == pytest.approx([2 * math.log(2), 1.75 * math.log(2), 0.0], abs=1e-12)


def test_entropy_has_a_finite_gradient_where_a_token_is_impossible() -> None:
    logits = torch.tensor([[0.3, -math.inf, 1.1]], dtype=torch.float64, requires_grad=True)
    Entropy()(logits.log_softmax(-1), StatInput(torch.tensor([0]))).sum().backward()
    assert logits.grad is not None
    two = torch.tensor([[0.3, 1.1]], dtype=torch.float64, requires_grad=True)
    Entropy()(two.log_softmax(-1), StatInput(torch.tensor([0]))).sum().backward()
    assert logits.grad[0, [0, 2]].tolist() == pytest.approx(two.grad[0].tolist(), abs=1e-12)
    assert logits.grad[0, 1] == 0


@pytest.mark.parametrize("stat", [Logprob(), Entropy()], ids=repr)
def test_gradients_agree_with_finite_differences(stat: Logprob | Entropy) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 5, 2, 2])
    assert torch.autograd.gradcheck(lambda x: stat(x.log_softmax(-1), StatInput(target)), (logits,))


def test_two_readers_of_one_statistic_share_it() -> None:
    assert {Logprob(), Logprob(), Entropy(), Entropy()} == {Logprob(), Entropy()}
    assert len({Logprob(), Logprob(), Entropy()}) == 2

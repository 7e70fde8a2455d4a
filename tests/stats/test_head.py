from __future__ import annotations

import pytest
import torch

from posttrain.stats.head import vocab_stats
from posttrain.stats.vocab import Entropy, Logprob

D, V = 5, 11
STATS = [Logprob(), Entropy()]


class Head(torch.nn.Linear):
    """Remembers how many rows it was given each time."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(3)
        super().__init__(D, V, dtype=dtype)
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        return super().forward(x)


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(rows)
    hidden = torch.randn(rows, D, dtype=torch.float64, requires_grad=True)
    heat = torch.rand(rows, dtype=torch.float64) + 0.5
    return hidden, torch.randint(V, (rows,)), heat


def whole(hidden: torch.Tensor, head: torch.nn.Linear, target: torch.Tensor, heat: torch.Tensor | None) -> torch.Tensor:
    """The same two statistics from all logits at once."""
    logits = hidden @ head.weight.T + head.bias
    logp = torch.log_softmax(logits if heat is None else logits / heat[:, None], dim=-1)
    entropy = torch.distributions.Categorical(logits=logp).entropy()
    return torch.stack([logp[torch.arange(len(target)), target], entropy])


@pytest.mark.parametrize("heated", [False, True])
@pytest.mark.parametrize(("rows", "chunks"), [(6, 1), (6, 3), (7, 3), (2, 5), (1, 1)])
def test_chunked_equals_unchunked(rows: int, chunks: int, heated: bool) -> None:
    hidden, target, heat = inputs(rows)
    head = Head()
    factor = torch.randn(2, rows, dtype=torch.float64)
    got = vocab_stats(hidden, head, target, STATS, num_chunks=chunks, temperature=heat if heated else None)
    gradients = torch.autograd.grad((got * factor).sum(), [hidden, head.weight, head.bias])
    want = whole(hidden, head, target, heat if heated else None)
    expected = torch.autograd.grad((want * factor).sum(), [hidden, head.weight, head.bias])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_no_more_than_a_chunk_goes_through_the_head_forward_or_backward() -> None:
    hidden, target, _ = inputs(7)
    head = Head()
    out = vocab_stats(hidden, head, target, STATS, num_chunks=3)
    assert head.sizes == [3, 2, 2]
    head.sizes.clear()
    out.sum().backward()
    assert sorted(head.sizes) == [2, 2, 3]  # made again, chunk by chunk


def test_without_gradient_nothing_is_computed_twice() -> None:
    hidden, target, _ = inputs(4)
    head = Head()
    with torch.no_grad():
        out = vocab_stats(hidden, head, target, STATS, num_chunks=2)
    assert not out.requires_grad
    assert head.sizes == [2, 2]


def test_a_rank_without_tokens_calls_the_head_as_often_as_the_others() -> None:
    hidden, target, heat = inputs(0)
    head = Head()
    out = vocab_stats(hidden, head, target, STATS, num_chunks=3, temperature=heat)
    assert out.shape == (2, 0)
    assert head.sizes == [0, 0, 0]
    out.sum().backward()
    assert head.weight.grad is not None
    assert not head.weight.grad.any()


def test_half_precision_logits_are_normalised_in_float32() -> None:
    head = Head(torch.bfloat16)
    hidden = torch.randn(3, D, dtype=torch.bfloat16)
    target = torch.tensor([0, 4, 10])
    out = vocab_stats(hidden, head, target, STATS, num_chunks=1)
    assert out.dtype == torch.float32
    logp = torch.nn.functional.linear(hidden, head.weight, head.bias).double().log_softmax(-1)
    want = logp[torch.arange(3), target]
    torch.testing.assert_close(out[0].double(), want, rtol=0, atol=1e-6)

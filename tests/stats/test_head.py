from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from dense_stats import STATS, dense
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain.stats.head import vocab_stats
from posttrain.stats.vocab import Entropy, ForwardKL, Logprob, PoweredLogprob, StatInput, VocabStat

D, D_REF, V = 5, 3, 11


class Head(torch.nn.Linear):
    """Remembers how many rows it was given each time, and whether gradients were recorded."""

    def __init__(self, width: int = D, vocabulary: int = V, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(3)
        super().__init__(width, vocabulary, dtype=dtype)
        self.sizes: list[int] = []
        self.recorded: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        self.recorded.append(torch.is_grad_enabled())
        return super().forward(x)


@dataclass
class Batch:
    """Everything `vocab_stats` takes, for some action tokens."""

    hidden: torch.Tensor
    head: Head
    target: torch.Tensor
    heat: torch.Tensor | None
    reward: torch.Tensor
    hidden_ref: torch.Tensor
    head_ref: Head

    def chunked(self, stats: Sequence[VocabStat], num_chunks: int) -> torch.Tensor:
        return vocab_stats(
            self.hidden,
            self.head,
            self.target,
            stats,
            num_chunks=num_chunks,
            temperature=self.heat,
            reward=self.reward,
            ref=(self.hidden_ref, self.head_ref),
        )

    def whole(self, stats: Sequence[VocabStat]) -> torch.Tensor:
        """The same from all logits at once."""
        heat = 1.0 if self.heat is None else self.heat[:, None]
        logits = (self.hidden @ self.head.weight.T + self.head.bias) / heat
        with torch.no_grad():
            ref = (self.hidden_ref @ self.head_ref.weight.T + self.head_ref.bias) / heat
        return torch.stack([dense(stat, logits, self.target, self.reward, ref) for stat in stats])

    def gradients(self, column: torch.Tensor) -> tuple[torch.Tensor, ...]:
        finite = column.masked_fill(column.isneginf(), 0.0)  # filtered: no gradient
        factor = torch.linspace(-1, 2, column.numel(), dtype=column.dtype).view_as(column)
        return torch.autograd.grad((finite * factor).sum(), [self.hidden, self.head.weight, self.head.bias])


def batch(rows: int, heated: bool = True, dtype: torch.dtype = torch.float64) -> Batch:
    rng = torch.Generator().manual_seed(rows)
    hidden = (2 * torch.randn(rows, D, generator=rng, dtype=torch.float64)).to(dtype).requires_grad_()
    return Batch(
        hidden,
        Head(dtype=dtype),
        torch.randint(V, (rows,), generator=rng),
        torch.rand(rows, generator=rng, dtype=torch.float64) + 0.5 if heated else None,
        torch.rand(rows, generator=rng, dtype=torch.float64),
        torch.randn(rows, D_REF, generator=rng, dtype=torch.float64).to(dtype).requires_grad_(),
        Head(D_REF, dtype=dtype),
    )


# ---- against the computation from all logits ----
@pytest.mark.parametrize("stat", STATS, ids=repr)
@pytest.mark.parametrize("heated", [False, True], ids=["T=1", "T"])
@pytest.mark.parametrize("rows", [1, 9])
def test_every_cut_into_chunks_has_the_values_and_gradients_of_the_whole(
    stat: VocabStat, rows: int, heated: bool
) -> None:
    b = batch(rows, heated)
    want = b.whole([stat])
    expected = b.gradients(want)
    for chunks in (1, 2, 7, rows, rows + 3):
        got = b.chunked([stat], chunks)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
        for mine, theirs in zip(b.gradients(got), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunks", [1, 4])
def test_all_statistics_at_once_are_those_of_each_alone(chunks: int) -> None:
    b = batch(9)
    got = b.chunked(STATS, chunks)
    assert got.shape == (len(STATS), 9)
    torch.testing.assert_close(got, b.whole(STATS), rtol=0, atol=1e-12)
    for mine, theirs in zip(b.gradients(got), b.gradients(b.whole(STATS)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_the_gradient_on_hidden_states_agrees_with_finite_differences() -> None:
    b = batch(3)
    smooth = [Logprob(), Entropy(), ForwardKL(), PoweredLogprob((0.3, 0.9))]

    def of(hidden: torch.Tensor) -> torch.Tensor:
        b.hidden = hidden
        return b.chunked(smooth, 2)

    assert torch.autograd.gradcheck(of, (b.hidden,))


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 10])
@pytest.mark.parametrize("chunks", [1, 3, 7])
def test_the_chunks_are_those_of_tensor_split(rows: int, chunks: int) -> None:
    b = batch(rows)
    b.chunked([Logprob()], chunks)
    assert b.head.sizes == [len(part) for part in b.target.tensor_split(chunks)]


# ---- what runs, and how often ----
def test_no_more_than_a_chunk_goes_through_the_head_forward_or_backward() -> None:
    b = batch(7)
    out = b.chunked([Logprob(), Entropy()], 3)
    assert b.head.sizes == [3, 2, 2]
    b.head.sizes.clear()
    out.sum().backward()
    assert sorted(b.head.sizes) == [2, 2, 3]  # made again, chunk by chunk


class Largest(TorchDispatchMode):
    """Remembers the most elements that a result of any operation had, in forward and backward."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor):
                self.most = max(self.most, x.numel())
        return out


@pytest.mark.parametrize("stat", STATS, ids=repr)
def test_no_tensor_is_larger_than_a_chunk_of_the_vocabulary(stat: VocabStat) -> None:
    b = batch(40)
    with Largest() as seen:
        b.chunked([stat], 2).sum().backward()
    assert seen.most == 20 * V  # hidden states and their gradient are 40 * D, which is less
    with Largest() as seen:
        b.chunked([stat], 1).sum().backward()
    assert seen.most == 40 * V


def test_without_gradient_nothing_is_computed_twice() -> None:
    b = batch(4)
    with torch.no_grad():
        out = b.chunked([Logprob(), Entropy()], 2)
    assert not out.requires_grad
    assert b.head.sizes == [2, 2]


def test_the_reference_runs_without_gradient_and_only_where_it_is_read() -> None:
    b = batch(4)
    b.chunked([Logprob(), Entropy()], 2).sum().backward()
    assert b.head_ref.sizes == []
    b.chunked([Logprob(), ForwardKL()], 2).sum().backward()
    assert set(b.head_ref.sizes) == {2}
    assert not any(b.head_ref.recorded)
    assert b.hidden_ref.grad is None
    assert b.head_ref.weight.grad is None


def test_a_reference_that_is_missing_is_named() -> None:
    b = batch(2)
    with pytest.raises(ValueError, match=r"ForwardKL.*reads the reference's distribution: give vocab_stats `ref`"):
        vocab_stats(b.hidden, b.head, b.target, [Logprob(), ForwardKL()], num_chunks=1)


def test_a_statistic_of_a_plugin_needs_no_more_than_a_call() -> None:
    @dataclass(frozen=True)
    class Second:
        def __call__(self, logp: torch.Tensor, x: StatInput) -> torch.Tensor:
            return logp.topk(2).values[:, 1]

    b = batch(5)
    got = vocab_stats(b.hidden, b.head, b.target, [Second()], num_chunks=2)[0]
    logp = (b.hidden @ b.head.weight.T + b.head.bias).log_softmax(-1)
    torch.testing.assert_close(got, logp.sort(descending=True).values[:, 1], rtol=0, atol=1e-12)


def test_a_rank_without_tokens_calls_the_head_as_often_as_the_others() -> None:
    b = batch(0)
    out = b.chunked(STATS, 3)
    assert out.shape == (len(STATS), 0)
    assert b.head.sizes == b.head_ref.sizes == [0, 0, 0]
    out.sum().backward()
    assert b.head.weight.grad is not None
    assert not b.head.weight.grad.any()


# ---- other precisions ----
@pytest.mark.parametrize("heated", [False, True], ids=["T=1", "T"])
@pytest.mark.parametrize("stat", STATS, ids=repr)
def test_half_precision_logits_are_used_in_float32(stat: VocabStat, heated: bool) -> None:
    b = batch(8, heated, torch.bfloat16)
    got = b.chunked([stat], 3)
    assert got.dtype == torch.float32
    # What the head said, rounded as it is, is the truth; from there on no more than float32 is lost.
    heat = 1.0 if b.heat is None else b.heat[:, None]
    seen = b.head(b.hidden).detach().double().requires_grad_()
    ref = b.head_ref(b.hidden_ref).detach().double() / heat
    want = dense(stat, seen / heat, b.target, b.reward, ref)
    torch.testing.assert_close(got[0].double(), want, rtol=1e-6, atol=2e-6)
    (slope,) = torch.autograd.grad(want.masked_fill(want.isneginf(), 0.0).sum(), seen)
    (mine,) = torch.autograd.grad(got.masked_fill(got.isneginf(), 0.0).sum(), b.hidden)
    theirs = slope @ b.head.weight.detach().double()
    torch.testing.assert_close(mine.double(), theirs, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("stat", STATS, ids=repr)
def test_float32_logits_of_a_large_vocabulary_lose_six_digits_at_most(stat: VocabStat) -> None:
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 50_000, generator=rng) + 20
    ref = 3 * torch.randn(4, 50_000, generator=rng)
    target, reward = logits.argmax(-1), torch.rand(4, generator=rng)
    same = lambda x: x  # noqa: E731  the logits are the hidden states
    single, double = (
        vocab_stats(x, same, target, [stat], num_chunks=2, reward=reward, ref=(r, same))[0]
        for x, r in ((logits, ref), (logits.double(), ref.double()))
    )
    # how wide the vectors of a CPU are decides in which order it adds
    torch.testing.assert_close(single.double(), double, rtol=5e-6, atol=5e-6)

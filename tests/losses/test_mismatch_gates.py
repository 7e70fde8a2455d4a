"""Gates against the gap between learner and engine: hand numbers, loops over sequences, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from loss_views import actions, rows_of, slope, table_view, values, watched

from posttrain.comm import SingleProcess
from posttrain.config.errors import ConfigError
from posttrain.config.load import load_recipe
from posttrain.losses.api import Gate, View
from posttrain.losses.mismatch import MaskedIS, OffPolicyMask, Reject, TruncatedIS
from posttrain.losses.objective import Objective, Part
from posttrain.losses.policy import Reinforce
from posttrain.stats.columns import LOGP, OLD_LOGP
from tests.fake_ranks import Rank, results_of

ONE = SingleProcess()
LENGTHS = [3, 1, 4, 2, 5]
ROWS = [range(0, 3), range(3, 4), range(4, 8), range(8, 10), range(10, 15)]


def gap_view(gaps: list[float], lengths: list[int] | None = None, advantage: float = 1.0) -> View:
    """Tokens whose log p_old - log p_engine is given; the live policy has half the gap."""
    columns = {OLD_LOGP: [g - 2 for g in gaps], LOGP: [g / 2 - 2 for g in gaps], "sampler_logp": [-2.0] * len(gaps)}
    return table_view(lengths or [len(gaps)], {**columns, "advantage": [advantage] * len(gaps)})


def random_view() -> View:
    view = View(actions(LENGTHS), values({LOGP, OLD_LOGP}, sum(LENGTHS), spread=2.0))
    noise = torch.rand(sum(LENGTHS), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    view.actions.sampler_logp.copy_(2 * noise - 2)  # around the same mean
    return view


def gaps_of(view: View, of: str) -> list[float]:
    column = view.old_logp if of == "old" else view.logp
    return [a - b for a, b in zip(column.tolist(), view.sampler_logp.tolist(), strict=True)]


def pooled(gaps: list[float], level: str) -> list[float]:
    """The log-weight of every token at a level."""
    out = list(gaps)
    for tokens in ROWS:
        total = sum(gaps[i] for i in tokens)
        for i in tokens:
            out[i] = {"token": gaps[i], "sequence": total, "geometric": total / len(tokens)}[level]
    return out


# ---- truncated ----
def test_truncation_by_hand() -> None:
    view, tracked, spread = watched(gap_view([math.log(1.5), math.log(3.0), math.log(0.1), 30.0]))
    assert TruncatedIS()(view).tolist() == pytest.approx([1.5, 2.0, 0.1, 2.0])
    assert tracked["truncated_is/kept"].tolist() == [True, False, True, False]
    assert tracked["truncated_is/saturated"].tolist() == [False, False, False, True]
    # before the cap: what is cut off is seen
    assert spread["truncated_is/weight"].tolist() == pytest.approx([1.5, 3.0, 0.1, math.exp(20)])


@pytest.mark.parametrize("of", ["old", "live"])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("cap", [0.9, 2.0])
def test_truncation_against_a_loop(level: Any, of: Any, cap: float) -> None:
    view = random_view()
    want = [min(math.exp(g), cap) for g in pooled(gaps_of(view, of), level)]
    assert TruncatedIS(cap, level, of)(view).tolist() == pytest.approx(want, abs=1e-12)
    assert cap in want
    assert min(want) < cap


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_normalised_weights_have_the_mean_one_over_all_ranks(level: Any) -> None:
    gate = TruncatedIS(level=level, normalize=True, scope="step")
    view = random_view()
    raw = [min(math.exp(g), 2.0) for g in pooled(gaps_of(view, "old"), level)]
    each = raw if level == "token" else [raw[tokens[0]] for tokens in ROWS]
    want = [w / (sum(each) / len(each)) for w in raw]
    assert gate(View(view.actions, view.values, comm=ONE)).tolist() == pytest.approx(want, abs=1e-12)

    def work(rank: Rank) -> tuple[torch.Tensor, torch.Tensor]:
        mine, index = rows_of(view.actions, [[0, 1], [4, 2, 3], []][rank.rank])
        return index, gate(View(mine, {OLD_LOGP: view.old_logp[index]}, comm=rank))

    got = torch.zeros(15, dtype=torch.float64)
    for index, part in results_of(3, work):
        got[index] = part
    assert got.tolist() == pytest.approx(want, abs=1e-12)


def test_normalising_at_micro_scope_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="step scope only"):
        TruncatedIS(normalize=True)(random_view())


# ---- masked ----
def test_masking_by_hand() -> None:
    gaps = [math.log(x) for x in (0.4, 0.6, 1.0, 4.9, 5.1)]
    view, tracked, spread = watched(gap_view(gaps))
    assert MaskedIS()(view).tolist() == pytest.approx([0.0, 0.6, 1.0, 4.9, 0.0])
    assert MaskedIS(keep_weight=False)(view).tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert MaskedIS(low=0.0, high=3.0)(view).tolist() == pytest.approx([0.4, 0.6, 1.0, 0.0, 0.0])
    assert tracked["masked_is/kept"].tolist() == [True, True, True, False, False]
    assert spread["masked_is/weight"].tolist() == pytest.approx([0.4, 0.6, 1.0, 4.9, 5.1])


@pytest.mark.parametrize("keep_weight", [True, False])
@pytest.mark.parametrize("of", ["old", "live"])
@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_masking_against_a_loop(level: Any, of: Any, keep_weight: bool) -> None:
    view = random_view()
    weights = [math.exp(g) for g in pooled(gaps_of(view, of), level)]
    want = [(w if keep_weight else 1.0) * (0.8 <= w <= 1.2) for w in weights]
    assert MaskedIS(0.8, 1.2, level, of, keep_weight)(view).tolist() == pytest.approx(want, abs=1e-12)
    assert 0 < sum(w == 0 for w in want) < len(want)


@pytest.mark.parametrize(
    ("gate", "expected"),
    [  # weights 2, 1, 10 and .25: only the first two pass the mask
        (MaskedIS(), [0.5, 0.25, 0.0, 0.0]),  # the masked tokens stay in the denominator
        (MaskedIS(scope="step"), [0.5, 0.25, 0.0, 0.0]),
        (MaskedIS(scope="step", keep_weight=False), [0.5, 0.5, 0.0, 0.0]),  # out of it, as in verl
    ],
)
def test_what_a_masked_token_counts_for(gate: Gate, expected: list[float]) -> None:
    view = gap_view([math.log(x) for x in (2.0, 1.0, 10.0, 0.25)], [4])
    view.actions.advantage.fill_(-1.0)
    count = "rows" if getattr(gate, "keep_weight", True) else "gated"
    objective = Objective({"x": Part(Reinforce(), gates=(gate,), count=count)})  # type: ignore[arg-type]
    assert slope(objective(view, objective.prepare(view, ONE)), view) == pytest.approx(expected)


# ---- rejection ----
@pytest.mark.parametrize("of", ["old", "live"])
@pytest.mark.parametrize("level", ["token", "sum", "mean", "max"])
@pytest.mark.parametrize(
    ("by", "low", "high"), [("k1", -0.8, 0.5), ("k2", None, 0.3), ("k3", None, 0.3), ("k3", 0.2, None)]
)
def test_rejection_against_a_loop(by: Any, low: float | None, high: float | None, level: Any, of: Any) -> None:
    view = random_view()
    gaps = gaps_of(view, of)
    k = [{"k1": d, "k2": d * d / 2, "k3": math.exp(d) - 1 - d}[by] for d in gaps]
    want = [0.0] * len(k)
    for tokens in ROWS:
        mine = [k[i] for i in tokens]
        for i in tokens:
            x = {"token": k[i], "sum": sum(mine), "mean": sum(mine) / len(mine), "max": max(mine)}[level]
            want[i] = float((low is None or x >= low) and (high is None or x <= high))
    view, tracked, spread = watched(view)
    assert Reject(by, level, low, high, of)(view).tolist() == want
    assert tracked["reject/kept"].double().tolist() == want
    assert 0 < sum(want) < len(want)
    assert spread["reject/k"].isfinite().all()


def test_the_geometric_mean_in_a_thousandth_is_k1_by_mean() -> None:
    view = gap_view([0.0018, 0.0, 0.0021, 0.0003], [2, 2])  # geometric means exp(.0009), exp(.0012)
    assert Reject("k1", "mean", -0.001, 0.001)(view).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_a_held_gap_is_counted() -> None:
    view, tracked, spread = watched(gap_view([1000.0, 0.0]))
    assert Reject(level="token")(view).tolist() == [0.0, 1.0]
    assert tracked["reject/saturated"].tolist() == [True, False]
    assert spread["reject/k"].isfinite().all()


# ---- off-policy mask ----
def test_the_off_policy_mask_by_hand() -> None:
    lengths, gaps = [2, 2, 2, 1], [-0.4, -0.8, -0.4, -0.5, -0.4, -0.8, 3.0]  # the learner behind by .6, .45, .6, -3
    view = gap_view(gaps, lengths)
    view.actions.advantage.copy_(torch.tensor([-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, -1.0]))
    view, tracked, spread = watched(view)
    want = [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert OffPolicyMask(of="old")(view).tolist() == want
    assert tracked["off_policy_mask/kept"].double().tolist() == want
    assert spread["off_policy_mask/behind"].tolist() == pytest.approx([0.6, 0.6, 0.45, 0.45, 0.6, 0.6, -3.0])
    assert OffPolicyMask()(view).tolist() == [1.0] * 7  # the live policy is behind by half as much
    assert OffPolicyMask(delta=0.25)(view).tolist() == want


# ---- what is read ----
@pytest.mark.parametrize("gate", [TruncatedIS, MaskedIS, Reject, OffPolicyMask])
def test_only_the_policy_that_is_compared_is_read(gate: Any) -> None:
    assert gate(of="old").needs == {OLD_LOGP}
    assert gate(of="live").needs == {LOGP}
    bypass = Objective({"x": Part(Reinforce(), gates=(gate(of="live"),))})
    assert bypass.needs == {LOGP}
    assert not bypass.reads_before_update  # no pass before the update


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("{use: truncated_is, normalize: true}", r"gates\.0\.normalize: .*Set scope: step, or normalize: false"),
        ("{use: truncated_is, of: live}", r"gates\.0\.of: of: live .* count twice\. Set of: old"),
        ("{use: masked_is, of: live}", r"gates\.0\.of: of: live .* count twice\. Set of: old"),
        ("{use: masked_is, low: 5, high: 2}", r"gates\.0\.low: low=5\.0 is not below high=2\.0"),
        ("{use: reject, high: null}", "reject without low and high drops nothing"),
        ("{use: reject, low: 1.0, high: 0.5}", r"low=1\.0 is not below high=0\.5"),
        ("{use: truncated_is, cap: 0}", "cap: should be greater than 0"),
    ],
)
def test_what_does_not_go_together_is_refused(gate: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", [f"objective.policy.gates=[{gate}]"])


@pytest.mark.parametrize("gate", ["truncated_is", "masked_is"])
@pytest.mark.parametrize("term", ["ppo_clip", "cispo"])
def test_a_ratio_against_the_engine_is_not_weighed_by_it_again(gate: str, term: str) -> None:
    against = f"objective.policy.term={{use: {term}, behaviour: sampler}}"
    with pytest.raises(ConfigError, match=r"twice\. Remove this gate, or set objective\.policy\.term\.behaviour=old"):
        load_recipe("quickstart", [against, f"objective.policy.gates=[{gate}]"])
    load_recipe("quickstart", [against, "objective.policy.gates=[{use: masked_is, keep_weight: false}]"])
    load_recipe("quickstart", [f"objective.policy.gates=[{gate}]"])
    load_recipe(
        "quickstart", ["objective.policy.term=reinforce", f"objective.policy.gates=[{{use: {gate}, of: live}}]"]
    )


@pytest.mark.parametrize("gate", ["truncated_is", "masked_is", "reject", "off_policy_mask"])
def test_rows_that_no_engine_sampled_are_refused(gate: str) -> None:
    part = f"objective.other={{term: nll, rows: [policy, expert], gates: [correct, {gate}]}}"
    with pytest.raises(ConfigError, match=rf"objective\.other\.rows: {gate} compares .* expert rows have none"):
        load_recipe("quickstart", [part, "mixes.e=expert_mix"])
    load_recipe("quickstart", [part.replace("policy, expert", "policy")])

"""Rows beside the groups: they are trained on, and enter no baseline."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.audit import audit
from tests.audit_cases import case
from tests.audit_checks import compare, one_thread

__all__ = ["one_thread"]

EXTRA = np.array([0, 0, 0, 0, 3, 3, 3, 3, 0, 3, 0])  # of three groups: one all right, one not judged, one mixed
REWARDS = np.array([1.0, 0, 0, 1, 1, np.nan, 1, 1, 0, 0, 1])


def mixed(seed: int) -> dict[str, np.ndarray]:
    return {**case(seed), "origin": EXTRA, "rewards": REWARDS}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["aepo", "aepo_official"])
def test_auxiliary_rows_against_the_formula(name: str, seed: int) -> None:
    got = compare(name, mixed(seed), {}, {})
    rows = (EXTRA == 3) & (REWARDS == 1)
    assert got["kept"][rows].any()
    assert not got["kept"][(EXTRA == 3) & ~rows].any()
    if name == "aepo":  # of the other's few rows all tokens may be clipped
        assert np.abs(got["grad_logits"][rows]).max() > 0


@pytest.mark.parametrize("seed", range(3))
def test_without_weight_it_is_grpo_bit_for_bit(seed: int) -> None:
    off = audit("aepo", mixed(seed), {"objective.aux.weight": 0.0, "mixes.aux": None})
    alone = mixed(seed)
    alone["rewards"] = np.where(EXTRA == 3, np.nan, REWARDS)
    grpo = audit("grpo", {k: v for k, v in alone.items() if k != "origin"})
    assert np.array_equal(off["grad_logits"], grpo["grad_logits"])
    assert off["loss"] == grpo["loss"]


def test_the_main_rows_do_not_know_of_them() -> None:
    some, other = mixed(0), mixed(0)
    other["rewards"] = np.where(EXTRA == 3, 0.0, REWARDS)
    main = EXTRA == 0
    first, second = audit("aepo", some), audit("aepo", other)
    assert np.array_equal(first["advantage"][main], second["advantage"][main])
    assert np.array_equal(first["grad_logits"][main], second["grad_logits"][main])


def test_rows_of_a_kind_that_nothing_makes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.aux\.rows: rows aux are named, and nothing makes them"):
        audit("grpo", case(0), {"objective.aux": {"rows": ["aux"], "term": "ppo_clip"}})


# ---- an expert's rows ----
WRITTEN = np.array([0, 0, 2, 0, 2, 0, 2, 0, 0, 2, 0])


def with_experts(seed: int, step: int = 0) -> dict[str, np.ndarray]:
    return {**case(seed), "origin": WRITTEN, "step": np.array(step)}


@pytest.mark.parametrize("step", [0, 50, 100, 150, 200, 999])
@pytest.mark.parametrize("name", ["chord_mu", "chord_phi"])
def test_expert_rows_against_the_formula(name: str, step: int) -> None:
    got = compare(name, with_experts(step % 3, step), {}, {})
    expected = {0: 0.9, 50: 0.77552, 100: 0.475, 150: 0.17448}.get(step, 0.05) if name == "chord_mu" else 0.1
    assert got["constants"]["expert/weight"] == pytest.approx(expected, abs=1e-5)
    assert got["constants"]["policy/weight"] == pytest.approx(1 - expected, abs=1e-5)


def test_a_warm_up_of_mu() -> None:
    settings = {"warmup": 100, "decay": 300, "peak": 0.5, "valley": 0.02}
    options = {"schedules.mu": {"use": "warmup_cosine", **settings}}
    for step in (0, 30, 100, 250, 400, 500):
        compare("chord_mu", with_experts(0, step), options, settings)


def test_mu_0_is_grpo_and_mu_1_is_supervised_learning() -> None:
    x = with_experts(1)
    none = audit("chord_mu", x, {"schedules.mu": 0.0})
    plain = {**x, "rewards": np.where(WRITTEN == 2, np.nan, x["rewards"])}
    grpo = audit("grpo", {k: v for k, v in plain.items() if k != "origin"}, {"objective.policy.reduce": "token_mean"})
    assert np.array_equal(none["grad_logits"], grpo["grad_logits"])
    assert none["loss"] == grpo["loss"]
    every = audit("chord_mu", x, {"schedules.mu": 1.0})
    assert not every["grad_logits"][WRITTEN != 2].any()
    tokens = int(x["mask"][WRITTEN == 2].sum())
    logp = every["logprob"][WRITTEN == 2]
    assert float(every["loss"]) == pytest.approx(-logp.sum() / tokens)


def test_mu_1_has_exactly_the_gradient_of_supervised_learning() -> None:
    """That of the cross-entropy: the probabilities minus the token, over the number of tokens."""
    x = with_experts(2)
    got = audit("chord_mu", x, {"schedules.mu": 1.0})
    on = (x["mask"] != 0) & (WRITTEN == 2)[:, None]
    p = np.exp(x["logits"] - np.logaddexp.reduce(x["logits"], axis=-1, keepdims=True))
    np.put_along_axis(p, x["tokens"][..., None], np.take_along_axis(p, x["tokens"][..., None], -1) - 1, -1)
    assert got["grad_logits"] == pytest.approx(np.where(on[..., None], p / on.sum(), 0.0), abs=1e-12)


def test_a_schedule_that_passes_0_is_grpo_there_with_expert_rows_in_the_table() -> None:
    x = with_experts(1, step=0)
    rising = {"schedules.mu": {"use": "linear", "start": 0.0, "end": 1.0, "steps": 10}}
    got = audit("chord_mu", x, rising)
    plain = {**x, "rewards": np.where(WRITTEN == 2, np.nan, x["rewards"])}
    grpo = audit("grpo", {k: v for k, v in plain.items() if k != "origin"}, {"objective.policy.reduce": "token_mean"})
    assert np.array_equal(got["grad_logits"], grpo["grad_logits"])
    assert got["loss"] == grpo["loss"]


def test_finite_differences_with_the_weights_of_tokens_held() -> None:
    """phi has no gradient: the loss with phi of before, as a function of the logits, has the audit's gradient."""
    x, h = with_experts(0), 1e-6
    got = audit("chord_phi", x, {"schedules.mu": 1.0})
    on = (x["mask"] != 0) & (WRITTEN == 2)[:, None]

    def logp(logits: np.ndarray) -> np.ndarray:
        full = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        return np.take_along_axis(full, x["tokens"][..., None], -1)[..., 0]

    p = np.exp(logp(x["logits"]))
    phi, count = p * (1 - p), on.sum()
    rng = np.random.default_rng(0)
    for b, t in rng.permutation(np.argwhere(on))[:12]:
        v = rng.integers(x["logits"].shape[-1])
        ends = []
        for side in (h, -h):
            logits = x["logits"].copy()
            logits[b, t, v] += side
            ends.append(-(phi * logp(logits))[on].sum() / count)
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(got["grad_logits"][b, t, v], abs=1e-8)


def test_the_weight_of_a_token_is_largest_at_one_third() -> None:
    """|dL/d logit| of the target is p (1 - p)^2: .125 at .5, .009 at .9, .0098 at .01, .148 at 1/3."""
    for p, expected in ((0.5, 0.125), (0.9, 0.009), (0.01, 0.0098), (1 / 3, 0.148148)):
        logits = np.log(np.array([[[p, 1 - p]]]))
        x = {
            "logits": logits,
            "tokens": np.array([[0]]),
            "mask": np.array([[1]]),
            "rewards": np.array([np.nan]),
            "group": np.array([0]),
            "origin": np.array([2]),
        }
        got = audit("chord_phi", x, {"schedules.mu": 1.0})
        assert -got["grad_logits"][0, 0, 0] == pytest.approx(expected, abs=1e-4)


def test_a_schedule_that_nobody_named_is_told() -> None:
    with pytest.raises(ValueError, match=r"objective\.expert\.weight"):
        audit("chord_mu", with_experts(0), {"objective.expert.weight": "nu"})

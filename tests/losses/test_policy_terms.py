from __future__ import annotations

import math

import pytest
import torch
from loss_views import hand_view

from posttrain.losses.policy import PPOClip, Reinforce, beyond_clip, clipped


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [  # low 0.2, high 0.3; slope is d loss / d log-probability
        (1.0, 2.0, -2.0, -2.0),
        (1.25, 2.0, -2.5, -2.5),
        (1.5, 2.0, -2.6, 0.0),  # above the clip, wanted more often: held at 1.3
        (0.5, 2.0, -1.0, -1.0),  # below, wanted more often: not held
        (1.0, -2.0, 2.0, 2.0),
        (0.9, -2.0, 1.8, 1.8),
        (0.5, -2.0, 1.6, 0.0),  # below, wanted less often: held at 0.8
        (1.5, -2.0, 3.0, 3.0),  # above, wanted less often: not held
        (1.5, 0.0, 0.0, 0.0),
        (0.5, 0.0, 0.0, 0.0),
    ],
)
def test_ppo_clip_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    term = PPOClip(low=0.2, high=0.3)
    view = hand_view(term, [math.log(ratio) - 0.7], [-0.7], [advantage])
    got = term(view)
    assert got.tolist() == pytest.approx([loss], abs=1e-12)
    (gradient,) = torch.autograd.grad(got.sum(), view.logp)
    assert gradient.tolist() == pytest.approx([slope], abs=1e-12)


def test_on_policy_the_gradient_is_that_of_reinforce() -> None:
    numbers = [-0.3, -2.0, -1.1], [-0.3, -2.0, -1.1], [1.0, -0.5, 0.0]
    slopes = []
    for term in (PPOClip(), Reinforce()):
        view = hand_view(term, *numbers)
        slopes.append(torch.autograd.grad(term(view).sum(), view.logp)[0].tolist())
    assert slopes[0] == pytest.approx([-1.0, 0.5, 0.0], abs=1e-12)
    assert slopes[1] == pytest.approx(slopes[0], abs=1e-12)


def test_reinforce_by_hand() -> None:
    term = Reinforce()
    assert term(hand_view(term, [-2.0, -0.5], [], [3.0, -1.0])).tolist() == [6.0, -0.5]


def test_what_is_reported_as_clipped_is_what_has_no_gradient() -> None:
    ratios, advantages = [1.5, 0.5, 1.5, 0.5, 1.0], [1.0, 1.0, -1.0, -1.0, 1.0]
    log_ratio = torch.tensor(ratios, dtype=torch.float64).log().requires_grad_()
    advantage = torch.tensor(advantages, dtype=torch.float64)
    (slope,) = torch.autograd.grad(clipped(log_ratio, advantage, 0.2, 0.2).sum(), log_ratio)
    reported = beyond_clip(log_ratio.detach(), advantage, 0.2, 0.2)
    assert reported.tolist() == [True, False, False, True, False]
    assert (slope == 0).tolist() == reported.tolist()


def test_the_term_tracks_the_share_it_clipped() -> None:
    seen: dict[str, torch.Tensor] = {}
    term = PPOClip()
    view = hand_view(term, [math.log(1.5), 0.0], [0.0, 0.0], [1.0, 1.0])
    term(type(view)(view.actions, view.values, track=seen.__setitem__))
    assert seen["clipped"].double().mean() == 0.5
    assert not seen["clipped"].requires_grad


def test_a_lower_clip_of_one_never_clips_from_below() -> None:
    log_ratio, advantage = torch.tensor([-15.0]), torch.tensor([-1.0])
    assert not beyond_clip(log_ratio, advantage, 1.0, 0.2).any()


@pytest.mark.parametrize("log_ratio", [-1000.0, 1000.0])
def test_an_absurd_ratio_stays_finite(log_ratio: float) -> None:
    live = torch.tensor([log_ratio, log_ratio], requires_grad=True)
    loss = clipped(live, torch.tensor([1.0, -1.0]), 0.2, 0.2)
    assert loss.isfinite().all()
    assert torch.autograd.grad(loss.sum(), live)[0].isfinite().all()

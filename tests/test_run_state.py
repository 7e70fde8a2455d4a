"""What a run remembers: who feeds the curriculum, and what a checkpoint holds of guidance and data."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.assemble import _stateful
from posttrain.collect.advantage import GroupAdvantage
from posttrain.collect.credit import Credit
from posttrain.collect.curriculum import Ucb
from posttrain.config.load import load_recipe
from posttrain.data.types import Group, Rollout
from posttrain.evaluation import runner
from posttrain.run import Run
from posttrain.telemetry.metrics import StepMetrics
from tests.row_samples import prompt, row


def bandit() -> Ucb:
    one = Ucb()
    one.start([prompt(f"{arm}{i}", source=arm) for arm in "ab" for i in range(4)], 0)
    return one


def group(name: str, *rewards: float) -> Group:
    rows = (row(reward=r, seed=i) for i, r in enumerate(rewards))
    return Group(prompt=prompt(name, source=name[0]), rollouts=tuple(rows))


def test_an_evaluation_teaches_the_bandit_nothing() -> None:
    """Neither by its rewards nor by asking for prompts."""
    one = bandit()
    one.observe([group("a0")])
    before = json.dumps(one.state_dict())
    asked: list[Any] = []

    def evaluation(sampler: Any) -> Any:
        asked.append(sampler)
        return SimpleNamespace(rows=[], accuracy=0.5, unjudged=0, first_unjudged="", metrics={})

    run = SimpleNamespace(
        curriculum=one, sampler="engine", folder=None, evaluations=[evaluation_of(evaluation)], fresh=False,
        recipe=SimpleNamespace(scoring=SimpleNamespace(max_failed=0.02)),
    )  # fmt: skip
    Run.evaluate(run, "step-00001")  # type: ignore[arg-type]
    assert asked == ["engine"]
    assert json.dumps(one.state_dict()) == before


def evaluation_of(call: Any) -> Any:
    class One:
        bench = ""

        def __call__(self, sampler: Any) -> Any:
            return call(sampler)

    return One()


def test_training_teaches_it_also_by_what_a_strategy_threw_away() -> None:
    """Groups that are all alike pay 0; a group that was sampled again with a hint counts once."""
    one, kept, thrown, hinted = bandit(), group("a0", 1.0, 0.0), group("b0", 1.0, 1.0), group("a1", 0.0, 0.0)
    again = Group(prompt=hinted.prompt, rollouts=group("a1", 1.0, 0.0).rollouts)

    def measure(rows: list[Rollout], wanted: frozenset[str]) -> list[Rollout]:
        return list(rows)

    run = SimpleNamespace(
        curriculum=one, learner=SimpleNamespace(measure=measure), assign=Credit({}, GroupAdvantage()),
        sampled=[kept, thrown, hinted, again],
    )  # fmt: skip
    Run.credit(run, [kept, again], 0, StepMetrics(1))  # type: ignore[arg-type]
    assert one.seen == {"a": 4, "b": 2}
    assert list(one.recent["b"]) == [0.0, 0.0]
    assert list(one.recent["a"]) == pytest.approx([2**-0.5] * 4, abs=1e-5)


@pytest.mark.parametrize("rewards", [[None] * 8, [1.0, *[None] * 7]], ids=str)
def test_what_nobody_judged_teaches_it_nothing(rewards: list[float | None]) -> None:
    """Thrown away or kept: without two verdicts there is no advantage."""
    one, two = bandit(), bandit()
    kept = group("a0", 1.0, 0.0)
    silent = Group(
        prompt=prompt("b0", source="b"), rollouts=tuple(row(reward=r, seed=i) for i, r in enumerate(rewards))
    )
    for some, groups in ((one, [kept]), (two, [kept, silent])):
        run = SimpleNamespace(
            curriculum=some, learner=SimpleNamespace(measure=lambda rows, wanted: list(rows)),
            assign=Credit({}, GroupAdvantage()), sampled=[kept, silent],
        )  # fmt: skip
        Run.credit(run, groups, 0, StepMetrics(1))  # type: ignore[arg-type]
    assert one.seen == two.seen == {"a": 2, "b": 0}
    assert not one.recent["b"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("debug/dump", {"curriculum"}),
        ("debug/chord_mu", {"curriculum", "mixes.expert"}),
        ("debug/guide", {"curriculum", "objective.policy.term"}),
        ("debug/aepo", {"curriculum", "mixes.aux"}),
    ],
)
def test_a_checkpoint_holds_them(name: str, parts: set[str]) -> None:
    guards = SimpleNamespace(state_dict=dict)
    assert _stateful(load_recipe(name).recipe, guards).keys() - {"guards"} == parts  # type: ignore[arg-type]


def test_mu_goes_on_after_a_resume_where_it_was() -> None:
    """It is a function of the step alone, which the checkpoint holds: who starts at 150 has what 150 steps lead to."""
    old, new = (load_recipe("debug/chord_mu").recipe.objective for _ in range(2))
    run = [(old["policy"].weight(step), old["expert"].weight(step)) for step in range(200)]
    resumed = [(new["policy"].weight(step), new["expert"].weight(step)) for step in range(150, 200)]
    assert resumed == run[150:]
    assert run[150][1] == pytest.approx(0.17448, abs=1e-5)
    assert all(a + b == pytest.approx(1.0) for a, b in run)


def test_the_runner_has_no_door_to_a_curriculum() -> None:
    """Held-out problems go through no hook: the evaluation does not know that there is one."""
    assert "curriculum" not in Path(runner.__file__).read_text(encoding="utf-8")

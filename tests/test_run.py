from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.data.types import Group
from posttrain.rollout.engine import Interrupted
from posttrain.run import Run, update_batches
from posttrain.signals import Stop
from posttrain.train import train
from tests.row_samples import prompt, row


def group(name: str, rollouts: int) -> Group:
    return Group(prompt=prompt(name), rollouts=tuple(row(text=f"{name}{i}") for i in range(rollouts)))


@pytest.mark.parametrize(
    ("sizes", "updates", "expected"),
    [
        ([2, 2, 2, 2], 1, [["a0", "a1", "b0", "b1", "c0", "c1", "d0", "d1"]]),
        ([2, 1, 2, 1], 2, [["a0", "a1", "b0"], ["c0", "c1", "d0"]]),
        ([1, 1, 1, 1, 1], 2, [["a0", "b0"], ["c0", "d0", "e0"]]),
        ([3, 0, 1, 0], 4, [["a0", "a1", "a2"], ["c0"]]),  # no more updates than groups, no empty one
        ([0, 0], 2, []),
        ([], 1, []),
    ],
)
def test_updates_take_equal_shares_of_whole_groups(sizes: list[int], updates: int, expected: list[list[str]]) -> None:
    groups = [group(name, n) for name, n in zip("abcde", sizes, strict=False)]
    assert [[r.text for r in batch] for batch in update_batches(groups, updates)] == expected


class Recorded:
    """A run that writes down what the loop asks of it, and is interrupted where it is told to be."""

    def __init__(self, at: str = "", restored: int = 0, steps: int = 3, best: int | None = None) -> None:
        self.calls: list[str] = []
        self.best = best
        self.at, self.resuming, self.done_evaluations = at, restored > 0, set[str]()
        self.recipe = SimpleNamespace(
            steps=steps,
            eval=SimpleNamespace(before=True, after=True, every=2),
            checkpoint=SimpleNamespace(every=2),
        )
        self.checkpoints = SimpleNamespace(restore=lambda: restored)
        self.console = SimpleNamespace(during=lambda text: nullcontext())

    def evaluate(self, name: str, metrics: Any = None) -> None:
        self.calls.append(f"evaluate {name}")
        if self.at != f"evaluate {name}":
            self.done_evaluations.add(name)

    def evaluate_late(self, name: str, step: int) -> None:
        self.calls.append(f"evaluate {name} late")

    def is_best(self, step: int) -> bool:
        return step == self.best

    def evaluated(self, name: str) -> bool:
        return name in self.done_evaluations

    def stop_if_asked(self) -> None:
        if self.at and (self.at in self.calls):
            raise Interrupted

    def collect(self, step: int, metrics: Any) -> str:
        if self.at == f"collect {step}":
            raise Interrupted
        self.calls.append(f"collect {step}")
        return "groups"

    def credit(self, groups: str, step: int, metrics: Any) -> str:
        return "credited"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def note(*words: Any) -> None:
            first = [str(w) for w in words if isinstance(w, int)][:1]
            self.calls.append(" ".join([name, *first]))

        return note


def test_the_phases_of_a_run_in_order() -> None:
    run = Recorded()
    train(run)  # type: ignore[arg-type]
    step = "collect {0}, learn {0}, publish {1}"
    assert ", ".join(run.calls) == ", ".join(
        [
            "wait_for_engine, publish 0, evaluate before",
            f"{step.format(0, 1)}, record 1",
            f"{step.format(1, 2)}, evaluate step-00002, record 2, save_checkpoint 2",
            f"{step.format(2, 3)}, evaluate after, record 3, save_checkpoint 3",
            "finish 3",
        ]
    )


def test_an_interrupted_collection_saves_the_step_before() -> None:
    run = Recorded(at="collect 2")
    with pytest.raises(Interrupted):
        train(run)  # type: ignore[arg-type]
    assert run.calls[-2:] == ["save_checkpoint 2", "interrupted 2"]


class Dealer:
    """Deals numbers as a curriculum and as a mix; what it remembers is the next one."""

    def __init__(self, interrupts: bool = False) -> None:
        self.position, self.interrupts = 0, interrupts

    def next(self, count: int) -> list[int]:
        self.position += count
        return list(range(count))

    def rows(self, *_: Any) -> list[Any]:
        self.position += 32
        if self.interrupts:
            raise Interrupted
        return []

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def test_an_interrupted_collection_puts_back_prompts_and_demonstrations() -> None:
    curriculum, experts, late = Dealer(), Dealer(), Dealer(interrupts=True)
    run = SimpleNamespace(
        curriculum=curriculum,
        mixes={"expert": experts, "stateless": SimpleNamespace(rows=lambda *_: []), "late": late},
        strategy=SimpleNamespace(collect=lambda draw, count, *_: draw(count)),
        console=SimpleNamespace(working=lambda text: None),
        recipe=SimpleNamespace(batch=SimpleNamespace(samples=2, prompts=4)),
        sampler=None,
        sampling=None,
    )
    with pytest.raises(Interrupted):
        Run.collect(run, 3, SimpleNamespace())  # type: ignore[arg-type]
    assert [thing.position for thing in (curriculum, experts, late)] == [0, 0, 0]


def test_an_interrupted_evaluation_loses_no_step() -> None:
    run = Recorded(at="evaluate step-00002")
    with pytest.raises(Interrupted):
        train(run)  # type: ignore[arg-type]
    assert run.calls[-4:] == ["evaluate step-00002", "record 2", "save_checkpoint 2", "interrupted 2"]


def test_a_run_resumed_after_its_last_step_still_evaluates() -> None:
    run = Recorded(restored=3)
    train(run)  # type: ignore[arg-type]
    assert run.calls == ["wait_for_engine", "publish 3", "evaluate after late", "finish 3"]


def test_the_best_step_is_saved_whenever_it_comes() -> None:
    run = Recorded(best=1)
    train(run)  # type: ignore[arg-type]
    assert [call for call in run.calls if call.startswith("save")] == [f"save_checkpoint {step}" for step in (1, 2, 3)]
    late = Recorded(restored=3, best=3)
    train(late)  # type: ignore[arg-type]
    assert late.calls[-3:] == ["evaluate after late", "save_checkpoint 3", "finish 3"]


def test_nobody_is_told_to_stop_inside_a_shield() -> None:
    stop = Stop()
    stop.signal = 2
    assert stop()
    with stop.shielded():
        assert not stop()
    assert stop()

"""What contradicts something else among the rewards of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from posttrain.config.names import nearest
from posttrain.config.problems import Problem
from posttrain.config.schedules import Constant

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe

# `reward/<name>` is the metric of a part; these are the metrics of the whole.
RATES = ("timeout_rate", "error_rate", "unparseable_rate", "skipped_rate")
RESERVED_REWARDS = ("mean", "accuracy", "failed", "max", "min", *RATES)
# What rewards are told of prompt and completion, in the place where the columns of the data are.
GIVEN = (
    "prompt", "prompts", "completion", "completions", "completion_ids", "tokens", "truncated", "training_step",
    "training_steps",
)  # fmt: skip


def reward_problems(recipe: Recipe) -> Iterator[Problem]:
    yield from _names(recipe)
    yield from _columns(recipe)
    yield from _gates(recipe)
    yield from _factors(recipe)
    yield from _guards(recipe)


def _names(recipe: Recipe) -> Iterator[Problem]:
    for name in set(recipe.reward) & set(RESERVED_REWARDS):
        yield Problem(
            (f"reward.{name}",),
            f"a reward cannot be called {name!r}: the metric reward/{name} is that of all rewards together. "
            "Choose another name.",
        )


def _columns(recipe: Recipe) -> Iterator[Problem]:
    for name in sorted(set(getattr(recipe.task, "columns", ())) & set(GIVEN)):
        yield Problem(
            ("task.columns",),
            f"rewards are told under {name!r} what is known of the completion and its prompt, so the data's own column "
            f"would be hidden. Leave it out of task.columns, or call it something else in the data, such as own_{name}.",
        )


def _gates(recipe: Recipe) -> Iterator[Problem]:
    for name, part in recipe.reward.items():
        key = f"reward.{name}.only_if"
        if part.only_if is None:
            continue
        if part.only_if not in recipe.reward:
            others = [other for other in recipe.reward if other != name]
            known = f"There are {', '.join(others)}." if others else "There is no other one."
            yield Problem(
                (key,), f"no reward is called {part.only_if!r}. {known} {nearest(part.only_if, others)}".rstrip()
            )
        elif ring := _ring(recipe, name):
            yield Problem(
                tuple(f"reward.{member}.only_if" for member in ring),
                f"{' only if '.join([*ring, name])}: the gates lead back to where they began. Take one of them out.",
            )


def _ring(recipe: Recipe, name: str) -> list[str]:
    """The rewards on the way by the gates from one back to itself; empty when there is no way, or it is told of another."""
    way = [name]
    while (after := recipe.reward[way[-1]].only_if) is not None and after in recipe.reward:
        if after == name:
            return way if name == min(way) else []
        if after in way:
            return []
        way.append(after)
    return []


def _guards(recipe: Recipe) -> Iterator[Problem]:
    """A guard adds nothing and judges nothing: it needs others, and what changes a value changes nothing of it."""
    guards = [name for name, part in recipe.reward.items() if hasattr(part.reward, "overrule")]
    if guards and len(guards) == len(recipe.reward):
        yield Problem(
            ("reward",),
            f"there are guards alone ({', '.join(guards)}), which overrule what other rewards have said: nothing would be "
            "judged. Add a reward, such as correct: {use: math}.",
        )
    for name in guards:
        part = recipe.reward[name]
        weighted = not (isinstance(part.weight, Constant) and part.weight.value == 1)
        for key, given in (
            ("weight", weighted),
            ("clip", part.clip is not None),
            ("only_if", part.only_if is not None),
        ):
            if given:
                yield Problem(
                    (f"reward.{name}.{key}",),
                    f"{name} is a guard: it adds nothing to the reward, so its {key} would do nothing. Take it out; what it "
                    "does when it holds are its own settings.",
                )


def _factors(recipe: Recipe) -> Iterator[Problem]:
    for name, part in recipe.reward.items():
        for step in sorted({0, recipe.steps - 1}):
            if not math.isfinite(factor := part.weight(step)):
                yield Problem(
                    (f"reward.{name}.weight",), f"the weight at step {step} is {factor}: give a finite number."
                )
                break
        if part.clip is not None and part.clip[0] >= part.clip[1]:
            low, high = part.clip
            message = f"[{low:g}, {high:g}] leaves one value at most: the first has to be below the second."
            yield Problem((f"reward.{name}.clip",), message)

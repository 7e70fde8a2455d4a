"""What plain functions are told of a problem by name, and rows of data as problems."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from posttrain.config.problems import Problem
from posttrain.data.types import Prompt

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe

# Of the completion, told in a run whatever the task is.
FACTS = ("completion_ids", "tokens", "truncated", "training_step", "training_steps")
_NEVER_EMPTY = ("answer", "id", "solution", "source")  # an empty text is in every completion
_ALIASES = frozenset({"gold", "ground_truth", "label", "reference", "target"})  # what others call the answer
_WHERE = {
    "answer": "It is the reference answer: the field `answer` of a row, the column that task.answer names in a run; an "
    "empty one counts as none.",
    "prompts": "It is what was asked; a function in TRL's form, with `completions`, gets it.",
    "solution": "It is the field `solution` of a row, and in a run the column that task.solution names.",
    "level": "It is the field `level` of a row, and in a run the column that task.level names; 0 counts as none there.",
    "source": "It is the field `source` of a row, and in a run the column that task.source names.",
    **dict.fromkeys(FACTS, "A run tells it of every completion; a row of a file has it where it is a field."),
}


def columns_of(prompt: Prompt) -> dict[str, Any]:
    """The columns that a plain function may ask for by name: those that the problem really has."""
    own = {"solution": prompt.solution, "source": prompt.source, "level": prompt.level}
    told = {**{name: value for name, value in own.items() if _there(value)}, **prompt.columns}
    told |= {"answer": prompt.answer, "id": prompt.id}
    return {name: value for name, value in told.items() if name not in _NEVER_EMPTY or _there(value)}


def _there(value: Any) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)


def prompt_of(row: Mapping[str, Any], name: str, source: str = "") -> Prompt:
    """A row of data as a prompt; what has no place of its own there is a column. TypeError says what does not fit."""
    rest = dict(row)
    own: dict[str, Any] = {"solution": "", "source": source, "level": 0}
    for key, empty in own.items():
        # else it is a column of the data that happens to be called so; a level 0 that is written down is one, too
        if isinstance(rest.get(key), type(empty)) and (rest[key] or key != "level"):
            own[key] = rest.pop(key)
    answer = _answer(rest.pop("answer", ""))
    asked = rest.pop("messages", None) or rest.pop("prompt", None) or rest.get("problem") or ()
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    if not isinstance(messages, list | tuple) or not all(
        isinstance(m, Mapping) and isinstance(m.get("content"), str) for m in messages
    ):
        raise TypeError("messages must be a list of {role, content}")
    return Prompt(
        id=name,
        messages=tuple(messages),
        answer=answer,
        **own,
        columns=rest,
    )


def _answer(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(
            f"answer must be text or a number, got {value}, which is none: fill it in, or leave the row out"
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(f"answer must be text, got {'null' if value is None else type(value).__name__}")
    return value


def lacking(names: Collection[str], columns: Iterable[str]) -> str:
    """Words for what a function needs and a problem with these columns does not have."""
    given = sorted(columns)
    asked = ", ".join(f"`{name}`" for name in names)
    advice = " ".join(f"{_hint(name, given)}{_WHERE.get(name) or _elsewhere(name)}" for name in names)
    return f"the reward needs {asked}, which this problem does not have. {advice} It has: {', '.join(given)}."


def unknown_columns(names: Iterable[str], given: Collection[str], at: str, recipe: Recipe) -> Iterator[Problem]:
    """A problem of a recipe for every name that neither a run nor the recipe's task gives, where the task says so."""
    gives = getattr(recipe.task, "gives", None)  # a task of somebody else's need not say what it gives
    if gives is None:
        return
    known = {*gives(), *given, *FACTS}
    for name in names:
        if name not in known:
            yield Problem(
                (at, "task"),
                f"the function needs `{name}`, and the task does not give it. {_hint(name, sorted(known))}"
                f"{_in_task(name, recipe.task)}Given are: {', '.join(sorted(known))}. Or give the parameter a default.",
            )


def _in_task(name: str, task: object) -> str:
    if name in ("solution", "level", "source") and hasattr(task, name):
        return f"Set task.{name} to the column that holds it. "
    return f"If the data has a column {name!r}, name it in task.columns. " if hasattr(task, "columns") else ""


def _elsewhere(name: str) -> str:
    return f"In a run, name the column in task.columns; in a file, give rows a field `{name}`. Or give it a default."


def _hint(name: str, given: Collection[str]) -> str:
    if name in _ALIASES:
        return "The reference answer is called `answer`. "
    close = [] if name in _WHERE else difflib.get_close_matches(name, given, n=1)
    return f"Did you mean `{close[0]}`? " if close else ""

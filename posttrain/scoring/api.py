"""What a reward is, and how whatever it returns becomes a verdict."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, ClassVar, Protocol, cast

from posttrain.config.errors import ConfigError
from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt, Score

DETAIL_LIMIT = 500  # characters kept of a detail: it travels with every sample and ends in the logs


class Reward(Protocol):
    """A verifier of one completion. Pure, synchronous, no torch; it runs in a process of its own with limits.

    A `Score` is taken as it is; a bool or a number is the value, and 1 or more counts as correct; None means
    that this reward has nothing to say about the sample. Wrong output of the model is 0.0; only what cannot
    be judged (a broken reference) is a status other than "ok".

    A reward may also have `prepare() -> None`, called once in each worker before limits are set: the place
    for slow imports.
    """

    def __call__(self, completion: str, prompt: Prompt) -> Score | float | None: ...

    def examples(self) -> Iterable[tuple[str, Prompt, float | None]]:
        """(completion, prompt, expected value). At least one right, one wrong, one hostile."""
        ...


@dataclass(frozen=True)
class FunctionReward:
    """A plain function as a component. `component_of` makes one subclass for each function."""

    function: ClassVar[Callable[..., Any]]

    def examples(self) -> Iterable[tuple[str, Prompt, float | None]]:
        return ()

    def __call__(self, completion: str, prompt: Prompt) -> Score | float | None:
        """`f(completion, answer, **columns)`, `f(completion, prompt)`, or any other choice by name."""
        columns = {"completion": completion, **columns_of(prompt), "prompt": prompt}
        return type(self).function(**_accepted(type(self).function, columns))

    def __reduce__(self) -> Any:  # the subclass has no importable name; the function has
        return _restored, (type(self).function, tuple(getattr(self, f.name) for f in fields(self)))


@dataclass(frozen=True)
class BatchReward(FunctionReward):
    """A function in TRL's shape, `f(completions, **columns) -> list[float | None]`, unchanged.

    It is called by keyword with lists of length 1. With `chat`, prompts and completions are lists of
    messages, as TRL passes them for conversational data sets; otherwise completions are strings.
    """

    chat: bool = False

    def __call__(self, completion: str, prompt: Prompt) -> float | None:
        answer: Any = [{"role": "assistant", "content": completion}] if self.chat else completion
        columns = {"prompts": [list(prompt.messages)], "completions": [answer], "completion_ids": [[]]}
        columns |= {name: [value] for name, value in columns_of(prompt).items()}
        values = type(self).function(**_accepted(type(self).function, columns))
        if len(values) != 1:
            raise ValueError(f"returned {len(values)} rewards for 1 completion")
        return values[0]


def component_of(function: Callable[..., Any]) -> type[FunctionReward]:
    """The component class of a plain function: TRL's form if it takes `completions`, ours if `completion`."""
    names = inspect.signature(function).parameters
    base: type[FunctionReward]
    if "completions" in names:
        base = BatchReward
    elif "completion" in names:
        base = FunctionReward
    else:
        raise ConfigError(
            f"{function.__module__}:{function.__qualname__}{inspect.signature(function)} is not a reward: "
            "its parameters name neither `completions` (a batch, as in TRL) nor `completion` (one sample). "
            "Rename the parameter that takes the text."
        )
    space = {
        "function": staticmethod(function),
        "__doc__": function.__doc__,
        "__module__": function.__module__,
    }
    return dataclass(frozen=True)(type(function.__name__, (base,), space))


def as_reward(obj: Any, chat: bool = False) -> Reward:
    """A component as it is, a plain function wrapped."""
    if inspect.isfunction(obj):
        cls = component_of(obj)
        return cls(chat) if issubclass(cls, BatchReward) else cls()
    if callable(obj) and not isinstance(obj, type):
        return cast(Reward, obj)
    raise ConfigError(f"{obj!r} is not a reward: a component with __call__(completion, prompt), or a function, is.")


def _restored(function: Callable[..., Any], settings: tuple[Any, ...]) -> FunctionReward:
    return component_of(function)(*settings)


REWARDS.adapter = component_of


def columns_of(prompt: Prompt) -> dict[str, Any]:
    """The columns of the data set that a plain function may ask for by name."""
    own = {
        "answer": prompt.answer,
        "solution": prompt.solution,
        "source": prompt.source,
        "level": prompt.level,
    }
    return {**prompt.columns, **own, "id": prompt.id}


def to_score(returned: Any) -> Score:
    """Any return value of a reward as a verdict."""
    if isinstance(returned, Score):
        return _checked(returned)
    if returned is None:
        return Score(value=None, status="skipped")
    # numpy's bool is not a Real; both bools count as numbers
    if isinstance(returned, Real) or type(returned).__name__ in ("bool", "bool_"):
        value = float(cast(Any, returned))
        return _checked(Score(value=value, correct=value >= 1.0))
    return _failed(f"returned {type(returned).__name__}, expected Score, number or None: {str(returned)[:100]}")


def judge(reward: Reward, completion: str, prompt: Prompt) -> Score:
    """The verdict of one reward; whatever goes wrong in it is a verdict too."""
    try:
        return to_score(reward(completion, prompt))
    except BaseException as error:
        # The one place where everything is caught: a plugin may raise anything (even SystemExit, and
        # math-verify's time-out derives from BaseException), and it must not take down the samples of its
        # neighbours.
        return _failed(f"{type(error).__name__}: {error}")


def judge_all(rewards: Mapping[str, tuple[Reward, float]], completion: str, prompt: Prompt) -> Score:
    """The weighted sum of several rewards; `correct` is the verdict of the first one that judged the sample.

    A reward that skips adds nothing (as in TRL); the sample is skipped when all of them do. A reward with
    weight 0 is logged only, so its failure is not the sample's, unless it is the verifier of record.
    """
    scores = {name: judge(reward, completion, prompt) for name, (reward, _) in rewards.items()}
    parts = _parts(scores)
    first = next(iter(scores))
    for name, score in scores.items():
        if score.status not in ("ok", "skipped") and (rewards[name][1] != 0.0 or name == first):
            detail = f"{name}: {score.detail}" if len(scores) > 1 else score.detail
            return replace(score, parts=parts, detail=detail[:DETAIL_LIMIT])
    judged = {name: score for name, score in scores.items() if score.value is not None}
    if not judged:
        return Score(value=None, status="skipped", parts=parts, detail=scores[first].detail)
    value = sum(rewards[name][1] * cast(float, score.value) for name, score in judged.items())
    record = next(iter(judged.values()))
    total = Score(value=value, correct=record.correct, parts=parts, detail=record.detail)
    return _checked(total)


def _parts(scores: Mapping[str, Score]) -> dict[str, float]:
    parts: dict[str, float] = {}
    for name, score in scores.items():
        if score.value is not None:
            parts[name] = score.value
        parts |= {f"{name}/{part}": value for part, value in score.parts.items()}
    return parts


def _checked(score: Score) -> Score:
    """A score whose value and status agree and whose numbers are plain finite floats."""
    detail = score.detail[:DETAIL_LIMIT]
    bad = {name: value for name, value in score.parts.items() if not math.isfinite(value)}
    if bad:
        return _failed(f"parts are not finite: {bad}; {detail}")
    parts = {name: float(value) for name, value in score.parts.items()}
    if score.status != "ok":
        return replace(score, value=None, correct=False, parts=parts, detail=detail)
    if score.value is None:
        return replace(score, correct=False, status="skipped", parts=parts, detail=detail)
    if not math.isfinite(score.value):
        return _failed(f"value is {score.value}; {detail}".removesuffix("; "))
    return replace(score, value=float(score.value), correct=bool(score.correct), parts=parts, detail=detail)


def _failed(detail: str) -> Score:
    return Score(value=None, status="error", detail=detail[:DETAIL_LIMIT])


def _accepted(function: Callable[..., Any], columns: dict[str, Any]) -> dict[str, Any]:
    """The columns that the function names, or all of them when it takes **columns."""
    names = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in names.values()):
        return columns
    return {name: value for name, value in columns.items() if name in names}

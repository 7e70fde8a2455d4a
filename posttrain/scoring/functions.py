"""Plain functions as rewards: TRL's batch form unchanged, and one sample at a time; both may be async."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sys
import threading
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, ClassVar

from posttrain.config.errors import ConfigError
from posttrain.data.types import Prompt, Score, Status

Example = tuple[str, Prompt, float | None]


@dataclass(frozen=True)
class Outcome:
    """What a function may return instead of a number: the verdict with its reasons.

    A `reward` of 1 or more counts as correct unless `correct` says otherwise. With a status other than "ok" nothing was
    judged: the sample is left out of its group's baseline.
    """

    reward: float | None
    status: Status = "ok"
    detail: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Numbers to be logged by name."""
    correct: bool | None = None


@dataclass(frozen=True)
class TrainerState:
    """The part of transformers' TrainerState that a reward can make use of."""

    global_step: int
    """Steps that are finished."""
    max_steps: int


@dataclass(frozen=True)
class FunctionReward:
    """A plain function as a component. `component_of` makes one subclass for each function.

    The function's keyword-only parameters that have defaults are its settings.
    """

    function: ClassVar[Callable[..., Any]]

    def examples(self) -> Iterable[Example]:
        """Those beside the function: `EXAMPLES = [(completion, {"answer": ..., column: ...}, expected)]`."""
        names = (type(self).__module__, _behind(type(self).function).__module__)
        found = [getattr(sys.modules.get(name), "EXAMPLES", ()) for name in names]
        for i, (completion, columns, expected) in enumerate(found[0] or found[1]):
            yield completion, prompt_of(dict(columns), f"example {i}"), expected

    def __call__(self, completion: str, prompt: Prompt) -> Any:
        """`f(completion, answer, **columns)`, `f(completion, prompt)`, or any other choice by name."""
        columns = {**columns_of(prompt), "completion": completion, "prompt": prompt}
        return settled(type(self).function(**self._arguments(columns)))

    def _arguments(self, columns: dict[str, Any]) -> dict[str, Any]:
        """The columns that the function names, or all of them when it takes **columns; settings go before columns."""
        names = inspect.signature(type(self).function).parameters
        for name, value in self._settings().items():
            if name not in columns or value != names[name].default:
                columns[name] = value
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in names.values()):
            return columns
        return {name: value for name, value in columns.items() if name in names}

    def _settings(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("setting")}

    def __reduce__(self) -> Any:  # the subclass has no importable name; the function has
        return _restored, (type(self).function, {f.name: getattr(self, f.name) for f in fields(self)})


@dataclass(frozen=True)
class BatchReward(FunctionReward):
    """A function in TRL's shape, `f(completions, **columns) -> list[float | None]`, unchanged.

    It is called by keyword with lists of length 1, and with everything that TRL passes: prompts, completions,
    completion_ids, trainer_state, log_extra, log_metric and the columns. With `chat`, prompts and completions are lists
    of messages, as TRL passes them for conversational data sets; otherwise both are strings. completion_ids are left
    out where nobody has them, as for a row of a file.
    """

    chat: bool = False

    def __call__(self, completion: str, prompt: Prompt) -> Any:
        answer: Any = [{"role": "assistant", "content": completion}] if self.chat else completion
        messages = list(prompt.messages)
        asked: Any = messages if self.chat else "\n\n".join(message["content"] for message in messages)
        logged: dict[str, float] = {}
        remarks: list[str] = []
        own = columns_of(prompt)
        columns = {name: [value] for name, value in own.items()}
        columns |= {"prompts": [asked], "completions": [answer]}
        columns["trainer_state"] = TrainerState(own.get("training_step", 0), own.get("training_steps", 1))  # type: ignore[assignment]
        columns["log_metric"] = lambda name, value: logged.update({name: float(value)})  # type: ignore[assignment]
        columns["log_extra"] = lambda name, values: remarks.append(f"{name}: {values[0]}")  # type: ignore[assignment]
        values = settled(type(self).function(**self._arguments(columns)))
        if len(values) != 1:
            raise ValueError(f"returned {len(values)} rewards for 1 completion")
        if values[0] is None or isinstance(values[0], Score | Outcome) or not (logged or remarks):
            return values[0]
        return Outcome(values[0], parts=logged, detail="; ".join(remarks))


def component_of(function: Callable[..., Any], home: str | None = None) -> type[FunctionReward]:
    """The component class of a plain function: TRL's form if it takes `completions`, ours if `completion`.

    A partial and an object that can be called are functions too. `home` names the module in which it was found.
    """
    behind = _behind(function)
    names = _parameters(function)
    base: type[FunctionReward]
    if {"completions", "completion_ids"} & set(names) and "completion" not in names:
        base = BatchReward
    elif "completion" in names:
        base = FunctionReward
    else:
        raise ConfigError(
            f"{_named(behind)}({', '.join(map(str, names.values()))}) is not a reward: "
            "its parameters name neither `completions` (a batch, as in TRL) nor `completion` (one sample). "
            "Rename the parameter that takes the text."
        )
    hints = _hints(behind)
    settings = [
        (p.name, hints.get(p.name, Any), field(default=p.default, kw_only=True, metadata={"setting": True}))
        for p in names.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY and isinstance(p.default, bool | int | float | str)
    ]
    space: dict[str, Any] = {"function": staticmethod(function), "__doc__": behind.__doc__}
    space["__module__"] = home or behind.__module__
    # What is async waits for something outside, and its connections cannot be forked.
    space["waits"] = inspect.iscoroutinefunction(behind)
    name = getattr(function, "__name__", behind.__qualname__.removesuffix(".__call__"))
    return make_dataclass(name, settings, bases=(base,), namespace=space, frozen=True)


def columns_of(prompt: Prompt) -> dict[str, Any]:
    """The columns of the data set that a plain function may ask for by name."""
    own = {"solution": prompt.solution, "source": prompt.source, "level": prompt.level}
    return {**own, **prompt.columns, "answer": prompt.answer, "id": prompt.id}


def prompt_of(row: Mapping[str, Any], name: str, source: str = "") -> Prompt:
    """A row of data as a prompt; what has no place of its own there is a column. TypeError says what does not fit."""
    rest = dict(row)
    answer = rest.pop("answer", "")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(answer, str):
        raise TypeError(f"answer must be text, got {type(answer).__name__}")
    own: dict[str, Any] = {"solution": "", "source": source, "level": 0}
    for key, empty in own.items():
        if isinstance(rest.get(key), type(empty)):  # else it is a column of the data that happens to be called so
            own[key] = rest.pop(key)
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


def settled(value: Any) -> Any:
    """The result of a function, waited for when the function is async.

    A process has one loop for all samples, as in TRL: a client that a module keeps belongs to the loop it was used in.
    """
    if not inspect.isawaitable(value):
        return value
    return _loop(os.getpid(), threading.get_ident()).run_until_complete(_awaited(value))


@functools.cache
def _loop(process: int, thread: int) -> asyncio.AbstractEventLoop:
    """That of a process and thread: a forked worker must not go on with its parent's."""
    return asyncio.new_event_loop()


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # imported for type checkers alone
        return {}


def _behind(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that a partial, or an object that can be called, runs."""
    if isinstance(function, functools.partial):
        return _behind(function.func)
    return function if inspect.isroutine(function) else type(function).__call__


def _named(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}" if inspect.isfunction(function) else repr(function)


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (ValueError, TypeError):  # one that is written in C, and does not say
        return {}


def _restored(function: Callable[..., Any], settings: Mapping[str, Any]) -> FunctionReward:
    return component_of(function)(**settings)

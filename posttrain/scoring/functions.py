"""Plain functions as rewards: TRL's batch form unchanged, and one sample at a time; both may be async."""

from __future__ import annotations

import copy
import functools
import inspect
import operator
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.config.problems import Problem
from posttrain.data.types import Prompt
from posttrain.scoring.batch import Log, TrainerState, only, other_form, with_log
from posttrain.scoring.columns import columns_of, lacking, unknown_columns
from posttrain.scoring.examples import Example, examples_of
from posttrain.scoring.loops import settled
from posttrain.scoring.outcome import Outcome, told
from posttrain.scoring.signatures import behind, parameters_of, settings_in

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe


@dataclass(frozen=True)
class FunctionReward:
    """A plain function as a component. `component_of` makes one subclass for each function.

    The function's keyword-only parameters that have defaults are its settings.
    """

    function: ClassVar[Callable[..., Any]]
    parameters: ClassVar[Mapping[str, inspect.Parameter]]
    place: ClassVar[str | None]
    """`module:name` under which it is found again in another process; None where there is no such name."""
    given: ClassVar[tuple[str, ...]] = ("completion", "prompt")

    def examples(self) -> Iterable[Example]:
        """Those beside the function: `EXAMPLES = [(completion, {"answer": ..., column: ...}, expected)]`."""
        names = (type(self).__module__, behind(type(self).function).__module__)
        yield from examples_of(sys.modules.get(name) for name in names)

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        yield from unknown_columns(self.required(), self.given, at, recipe)

    def __call__(self, completion: str, prompt: Prompt) -> Any:
        """`f(completion, answer, **columns)`, `f(completion, prompt)`, or any other choice by name."""
        columns = {**columns_of(prompt), "completion": completion, "prompt": prompt}
        if missing := self._missing(columns):
            return missing
        return settled(type(self).function(**self._arguments(columns)))

    def _arguments(self, columns: dict[str, Any]) -> dict[str, Any]:
        """The columns that the function names, or all of them when it takes **columns; settings go before columns."""
        names = type(self).parameters
        for name, value in self._settings().items():
            if name not in columns or value != names[name].default:
                columns[name] = value
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in names.values()):
            return columns
        return {name: value for name, value in columns.items() if name in names}

    def _missing(self, columns: Mapping[str, Any]) -> Outcome | None:
        """The verdict where a parameter without a default would get what nobody has."""
        names = [name for name in self.required() if name not in columns]
        return Outcome(None, "error", lacking(names, columns)) if names else None

    @classmethod
    def required(cls) -> list[str]:
        """The parameters without a default."""
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return [p.name for p in cls.parameters.values() if p.default is p.empty and p.kind not in variable]

    def _settings(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("setting")}

    def __reduce__(self) -> Any:  # the subclass has no importable name; the function has
        made = type(self)
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        return (_restored, (made.function, settings)) if made.place is None else (_found, (made.place, settings))


@dataclass(frozen=True)
class BatchReward(FunctionReward):
    """A function in TRL's shape, `f(completions, **columns) -> list[float | None]`, unchanged.

    It is called by keyword with lists of length 1, and with everything that TRL passes: prompts, completions,
    completion_ids, trainer_state, log_extra, log_metric and the columns. With `chat`, prompts and completions are lists
    of messages, as TRL passes them for conversational data sets; otherwise both are strings. TRL's functions always get
    prompts, so a row without one has an empty one; completion_ids are left out where nobody has them.
    """

    chat: bool = False
    """Whether prompts and completions are lists of messages, as in completion[0]["content"]."""
    given: ClassVar[tuple[str, ...]] = ("prompts", "completions", "trainer_state", "log_metric", "log_extra")

    def __call__(self, completion: str, prompt: Prompt) -> Any:
        log = Log()
        columns = self._columns(completion, prompt, log)
        if missing := self._missing(columns):
            return missing
        try:
            returned = settled(type(self).function(**self._arguments(columns)))
            return with_log(only(returned), log)
        except Exception as error:
            if advice := other_form(error, self.chat):
                return Outcome(None, "error", f"{told(error)}. {advice}")
            raise

    def _columns(self, completion: str, prompt: Prompt, log: Log) -> dict[str, Any]:
        own = columns_of(prompt)
        messages = list(prompt.messages)
        asked: Any = messages if self.chat else "\n\n".join(message["content"] for message in messages)
        answer: Any = [{"role": "assistant", "content": completion}] if self.chat else completion
        columns: dict[str, Any] = {name: [value] for name, value in own.items() if name != "prompts"}
        columns["prompts"], columns["completions"] = [asked], [answer]
        columns["trainer_state"] = TrainerState(own.get("training_step", 0), own.get("training_steps", 1))
        return {**columns, "log_metric": log.metric, "log_extra": log.extra}


def component_of(function: Callable[..., Any], place: str | None = None) -> type[FunctionReward]:
    """The component class of a plain function: TRL's form if it takes `completions`, ours if `completion`.

    A partial and an object that can be called are functions too. `place` is the `module:name` where it was found.
    """
    within = behind(function)
    place = place or _place_of(function)
    names = parameters_of(function, place)
    base = BatchReward if "completion" not in names else FunctionReward
    hints = _hints(within)
    found = settings_in(names, function, place)
    settings = [(p.name, _type(hints.get(p.name, Any), p.default), _setting(p)) for p in found]
    space: dict[str, Any] = {"function": staticmethod(function), "parameters": names, "place": place}
    space["__doc__"] = within.__doc__
    home, _, attribute = (place or "").partition(":")
    space["__module__"] = home or within.__module__
    # What is async waits for something outside, and its connections cannot be forked.
    space["waits"] = inspect.iscoroutinefunction(within)
    own_name = getattr(function, "__name__", within.__qualname__.removesuffix(".__call__"))
    name = own_name if own_name.isidentifier() else attribute.rpartition(".")[2] or "reward"
    return make_dataclass(name, settings, bases=(base,), namespace=space, frozen=True)


def _setting(parameter: inspect.Parameter) -> Any:
    default, mark = parameter.default, {"setting": True}
    if isinstance(default, list | dict):  # which must not be shared
        return field(default_factory=functools.partial(copy.deepcopy, default), kw_only=True, metadata=mark)
    return field(default=default, kw_only=True, metadata=mark)


def _type(hint: Any, default: Any) -> Any:
    """`x: int = None` says that None will do, too; a list in a recipe is the tuple that a default is."""
    if hint is Any:
        return tuple[Any, ...] if isinstance(default, tuple) else Any
    return hint | None if default is None else hint


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # imported for type checkers alone
        return {}


def _place_of(function: Callable[..., Any]) -> str | None:
    """Where it can be found by name, as a function at the top level of a module can."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str)):
        return None
    try:
        return f"{module}:{name}" if operator.attrgetter(name)(sys.modules[module]) is function else None
    except (AttributeError, KeyError):
        return None


def _found(place: str, settings: Mapping[str, Any]) -> FunctionReward:
    """In a worker: whatever the module calls so is the function, be it a closure, a lambda or a partial."""
    module, _, name = place.partition(":")
    return component_of(operator.attrgetter(name)(sys.modules[module]), place)(**settings)


def _restored(function: Callable[..., Any], settings: Mapping[str, Any]) -> FunctionReward:
    return component_of(function)(**settings)

"""What a plain function's parameters say: whether it is a reward, what it needs, what its settings are."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from posttrain.config.errors import ConfigError

# What the recipe writes beside the settings of a reward, and what a component has that is none.
_TAKEN = frozenset({"use", "reward", "weight", "clip", "only_if", "chat"})
_PARTS = frozenset(
    {
        "conflicts",
        "examples",
        "function",
        "given",
        "inner",
        "needs_seconds",
        "overrule",
        "parameters",
        "place",
        "prepare",
        "required",
        "waits",
    }
)
# With a default, these are still told of the sample, and no setting.
_TOLD = frozenset(
    {
        "answer",
        "completion",
        "completions",
        "completion_ids",
        "log_extra",
        "log_metric",
        "prompt",
        "prompts",
        "trainer_state",
    }
)
_PLAIN = (bool, int, float, str, type(None))


def behind(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that a partial, or an object that can be called, runs."""
    if isinstance(function, functools.partial):
        return behind(function.func)
    return function if inspect.isroutine(function) else type(function).__call__


def parameters_of(function: Callable[..., Any], place: str | None) -> Mapping[str, inspect.Parameter]:
    """Its parameters by name. ConfigError says why it is no reward."""
    try:
        names = inspect.signature(function).parameters
    except (ValueError, TypeError):  # one that is written in C, and does not say
        names = MappingProxyType({})
    shown = f"{_named(function, place)}({', '.join(map(str, names.values()))})"
    if not {"completion", "completions", "completion_ids"} & set(names):
        if names and all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in names.values()):
            raise ConfigError(
                f"{shown} does not say what it takes. If a decorator has hidden its parameters, write "
                "@functools.wraps(function) above the inner function of the decorator."
            )
        raise ConfigError(
            f"{shown} is not a reward: "
            "its parameters name neither `completions` (a batch, as in TRL) nor `completion` (one sample). "
            "Rename the parameter that takes the text."
        )
    if fixed := [p.name for p in names.values() if p.kind is p.POSITIONAL_ONLY]:
        raise ConfigError(
            f"{shown} takes {', '.join(fixed)} by position alone, and rewards are called by name. Remove the `/`."
        )
    return names


def settings_in(
    names: Mapping[str, inspect.Parameter], function: Callable[..., Any], place: str | None
) -> list[inspect.Parameter]:
    """The keyword-only parameters whose defaults a recipe can write."""
    found = [p for p in names.values() if p.kind is p.KEYWORD_ONLY and p.name not in _TOLD and _writable(p.default)]
    for p in found:
        if p.name in _TAKEN | _PARTS:
            what = "stands beside `use` in a recipe with a meaning of its own" if p.name in _TAKEN else "is taken"
            raise ConfigError(
                f"{_named(function, place)}: the setting `{p.name}` cannot be called so: the name {what}. Rename the "
                f"parameter, for example to `own_{p.name}`."
            )
    return found


def no_settings(names: Mapping[str, inspect.Parameter], settings: Mapping[str, Any]) -> dict[str, str]:
    """Parameters with a default that are no settings, and why."""
    return {p.name: _why(p) for p in names.values() if p.default is not p.empty and p.name not in settings}


def _why(parameter: inspect.Parameter) -> str:
    if parameter.name in _TOLD:
        return "it is told of the sample"
    if parameter.kind is not parameter.KEYWORD_ONLY:
        return "it does not stand behind the `*`, so it is the row's field of that name"
    return f"its default is a {type(parameter.default).__name__}, which a recipe cannot write"


def _writable(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_writable, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _writable(item) for key, item in value.items())
    return isinstance(value, _PLAIN) and value is not inspect.Parameter.empty


def _named(function: Callable[..., Any], place: str | None) -> str:
    if place is not None:
        module, _, name = place.partition(":")
        file = getattr(sys.modules.get(module), "__file__", None)
        return f"{file}:{name}" if file and module.startswith("posttrain_file_") else place
    return f"{function.__module__}:{function.__qualname__}" if inspect.isfunction(function) else repr(function)

"""Pydantic's errors, made helpful: unknown keys get the nearest name, messages say what would do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from posttrain.config.names import nearest

Loc = tuple[int | str, ...]

_BUILT_IN = frozenset(get_args(ErrorType))
_UNKNOWN_KEY = {"extra_forbidden", "unexpected_keyword_argument"}
_ADVICE = {
    "string_type": "Write it in quotes if it is meant as text.",
    "int_type": "Write a whole number.",
    "int_from_float": "Write a whole number.",
    "float_type": "Write a number.",
    "bool_type": "Write true or false.",
    "missing": "Add it.",
}


@dataclass(frozen=True)
class Problem:
    """Something wrong with a recipe as a whole: the keys involved, the first of which is to blame."""

    keys: tuple[str, ...]
    message: str


def failure(title: str, message: str, loc: Loc = (), value: Any = None) -> ValidationError:
    """One error at `loc`, in the shape that pydantic merges into the error of the enclosing model."""
    details = InitErrorDetails(type=PydanticCustomError("advice", _literal(message)), loc=loc, input=value)
    return ValidationError.from_exception_data(title, [details])


def failures(title: str, problems: Sequence[Problem]) -> ValidationError:
    """Several problems at once, each at its first key."""
    return ValidationError.from_exception_data(
        title,
        [
            InitErrorDetails(
                type=PydanticCustomError("rule", _literal(p.message), {"keys": p.keys}),
                loc=tuple(p.keys[0].split(".")),
                input=None,
            )
            for p in problems
        ],
    )


def with_names(
    error: ValidationError,
    known: Iterable[str],
    what: str,
    *,
    elsewhere: Mapping[str, str] | None = None,
    drop: str = "",
) -> ValidationError:
    """The same errors, where an unknown key of this level names the nearest known one.

    `elsewhere` says where a key belongs that is right in another block. `drop` is a first element of the
    location to leave out: a field that the YAML does not show as a level.
    """
    known, elsewhere, details = list(known), elsewhere or {}, []
    for e in error.errors(include_url=False):
        loc = e["loc"]
        kind: str | PydanticCustomError = e["type"]
        context = e.get("ctx", {})
        if len(loc) == 1 and kind in _UNKNOWN_KEY:
            key = str(loc[0])
            advice = f"It belongs at {elsewhere[key]!r}." if key in elsewhere else nearest(key, known)
            message = f"{what} has no such setting. {advice}"
            kind, context = PydanticCustomError("unknown_key", _literal(message)), {}
        elif kind not in _BUILT_IN:
            kind, context = PydanticCustomError(e["type"], _literal(e["msg"]), context or None), {}
        loc = loc[1:] if drop and loc[:1] == (drop,) else loc
        details.append(InitErrorDetails(type=kind, loc=loc, input=e["input"], ctx=context))
    return ValidationError.from_exception_data(error.title, details)


def describe(e: ErrorDetails) -> str:
    """One error as a sentence with the value it met and what to do about it."""
    kind, message = e["type"], e["msg"]
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "unknown_key":
        return f"{message} Got {shown(e['input'])}."
    if kind in {"advice", "rule"}:
        return message
    if kind == "too_short" and isinstance(e["input"], Mapping) and not e["input"]:
        return "is empty, and one part is needed at least. Name one; null takes away what the parent recipe sets."
    if kind == "missing" or kind == "missing_argument":
        return f"is missing. {_ADVICE['missing']}"
    message = message.replace("Input should be", "should be").replace("valid dictionary", "map of settings")
    message = message.replace("an object", "a map of settings").replace("valid array", "list in [ ]")
    message = re.sub(r" or (an )?instance of \w+", "", message)
    message = f"{message}; got {shown(e['input'])}."
    if e["input"] is None:
        return f"{message} null removes what the parent recipe sets, and it sets nothing here. Remove this line."
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", str(e.get("ctx", {}).get("expected", "")))
        close = nearest(str(e["input"]), choices)
        return f"{message} {close}" if close.startswith("Did") else message
    return f"{message} {_ADVICE[kind]}" if kind in _ADVICE else message


def shown(value: Any) -> str:
    """A value as its author wrote it, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"a map of {', '.join(map(str, value)) or 'nothing'}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _literal(message: str) -> Any:
    """Pydantic wants the template of a message; ours have nothing to fill in."""
    return message

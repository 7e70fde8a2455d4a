"""What a candidate raises, made anew in the driver: exceptions that tests can catch, and none that ends or skips them."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Mapping
from typing import Any

_DEEPEST = 32  # classes that derive from one another
_ENDS_ITERATION = (StopIteration, StopAsyncIteration)
_NOT_BELOW = ("builtins", "unittest", "asyncio")  # of their exceptions some are for those who run tests


class Exceptions:
    """Keeps the classes, so that the one that is raised is the one that the tests name."""

    def __init__(self, decoded: Callable[[Any], Any]) -> None:
        self._decoded = decoded
        self._kinds: dict[int, type[Exception]] = {}

    def number(self, value: Any) -> int | None:
        """Under which the candidate knows an exception class; None for anything else."""
        return next((number for number, kind in self._kinds.items() if kind is value), None)

    def kind(self, handle: Mapping[str, Any], depth: int = 0) -> type[Exception]:
        """The class of a handle, with the candidate's own classes above it."""
        if depth > _DEEPEST:
            raise ValueError(f"classes derive from each other more than {_DEEPEST} times")
        number = int(handle["handle"])
        if number not in self._kinds:
            above = [self.kind(parent, depth + 1) for parent in handle["parents"]]
            made = _of_the_library(str(handle["module"]), str(handle["type"]))
            self._kinds[number] = made or _derived(str(handle["type"]), above, handle["bases"])
        return self._kinds[number]

    def error(self, raised: Mapping[str, Any], iterating: bool) -> BaseException:
        """What a reply reports. Where nothing is iterated, the end of an iteration is an error like any other.

        Otherwise a call that raises StopIteration would end the loops of the tests.
        """
        kind: type[BaseException]
        if "class" in raised:
            kind = self.kind(raised["class"])
        elif raised["name"] in ("SystemExit", "KeyboardInterrupt"):
            kind = getattr(builtins, raised["name"])
        else:
            kind = _built_in(raised["bases"])[0]
        if issubclass(kind, _ENDS_ITERATION) and not iterating:
            error: BaseException = RuntimeError(f"the candidate raised {kind.__name__}")
        else:
            error = _made(kind, tuple(self._decoded(value) for value in raised["values"]))
            for name, value in raised.get("state", {}).items():
                if not name.startswith("_"):
                    setattr(error, name, self._decoded(value))
            if raised.get("shown") is not None:
                vars(error)["_shown"] = str(raised["shown"])
        vars(error)["_of_the_candidate"] = True
        return error


def of_the_candidate(error: BaseException | None) -> bool:
    """Whether it was raised there, and is no failed check of the tests."""
    return error is not None and "_of_the_candidate" in vars(error)


def _made(kind: type[BaseException], values: tuple[Any, ...]) -> BaseException:
    if issubclass(kind, BaseExceptionGroup):
        return kind(str(values[0]) if values else "", [Exception("not carried over")])
    if kind.__module__ == "builtins":  # by its own constructor, which sets attributes such as errno and code
        try:
            return kind(*values)
        except (TypeError, ValueError):
            pass
    error = kind.__new__(kind)
    error.args = values
    return error


def _built_in(names: list[str]) -> list[type[Exception]]:
    """Those of the names that are built-in Exceptions. So a candidate cannot raise what skips or ends the tests."""
    kinds = (getattr(builtins, name, None) for name in names)
    return [k for k in kinds if isinstance(k, type) and issubclass(k, Exception)] or [Exception]


def _derived(name: str, above: list[type[Exception]], bases: list[str]) -> type[Exception]:
    parents = list(above)
    built_in = _built_in(bases)
    for kind in built_in:
        if not any(issubclass(parent, kind) for parent in parents):
            parents.append(kind)
    inside = {"__module__": "solution", "__str__": _shown}
    try:
        return type(name, tuple(parents), inside)
    except TypeError:  # classes that Python cannot put together in this order
        return type(name, (built_in[0],), inside)


def _shown(error: BaseException) -> str:
    """As the candidate's own class writes it."""
    shown = vars(error).get("_shown")
    return shown if shown is not None else BaseException.__str__(error)


def _of_the_library(module: str, name: str) -> type[Exception] | None:
    """An exception of the standard library, such as json.JSONDecodeError, if the tests have its module at all."""
    root = module.partition(".")[0]
    if root in _NOT_BELOW or root not in sys.stdlib_module_names:
        return None
    kind = vars(sys.modules.get(module, builtins)).get(name)
    found = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _ENDS_ITERATION)
    return kind if found and kind.__module__ == module else None

"""The tests that lie in functions and classes, as unittest runs them: its own, and those that pytest would find."""

from __future__ import annotations

import asyncio
import inspect
import unittest
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from posttrain.scoring.sandbox.exceptions import of_the_candidate
from posttrain.scoring.sandbox.proxies import Proxy
from posttrain.scoring.sandbox.pytest_parts import PARAMETERS
from posttrain.scoring.sandbox.reports import said

MODULE = "tests"


class Unusable(Exception):
    """The tests cannot be run, whatever the candidate is."""


class Runs:
    """Which functions that are tests have been called, and what has left them."""

    def __init__(self) -> None:
        self.wrong: dict[str, str | None] = {}

    def running(self, name: str) -> _Running:
        """`with __running__("test_a"):` around the body of such a function."""
        return _Running(self, name)


class _Running:
    def __init__(self, runs: Runs, name: str) -> None:
        self._runs, self._name = runs, name

    def __enter__(self) -> None:
        self._runs.wrong.setdefault(self._name, None)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        skipped = isinstance(error, unittest.SkipTest) or (isinstance(error, SystemExit) and ends_well(error))
        if error is not None and not skipped:
            self._runs.wrong[self._name] = self._runs.wrong[self._name] or said(error)


def ends_well(error: BaseException) -> bool:
    """Whether it is the tests' own `sys.exit()`, without a code for a failure."""
    return isinstance(error, SystemExit) and not error.code and not of_the_candidate(error)


class _Case(unittest.TestCase):
    """One call of a function."""

    def __init__(self, name: str, call: Callable[[], None], skip: bool) -> None:
        self._name = name
        call.__unittest_skip__ = skip  # type: ignore[attr-defined]
        self.runTest = call
        super().__init__("runTest")

    def id(self) -> str:
        return self._name


def collected(space: Mapping[str, Any], runs: Runs, functions: Collection[str]) -> unittest.TestSuite:
    """All tests of the source that it has not run itself. `functions` are tests by other names than test..."""
    suite, loader = unittest.TestSuite(), unittest.TestLoader()
    found = {id(value): value for value in space.values() if not isinstance(value, Proxy)}.values()
    own = [thing for thing in found if getattr(thing, "__module__", "") == MODULE]
    classes = [thing for thing in own if isinstance(thing, type)]
    cases = [kind for kind in classes if issubclass(kind, unittest.TestCase)]
    for case in cases:
        suite.addTests(loader.loadTestsFromTestCase(case))
    for kind in classes:
        mixed_in = any(issubclass(case, kind) for case in cases)
        if "Test" in kind.__name__ and not mixed_in:
            suite.addTests(_of_class(kind))
    for name, value in list(space.items()):
        is_test = name.startswith("test") or name in functions
        if is_test and inspect.isroutine(value) and any(value is thing for thing in own) and name not in runs.wrong:
            suite.addTests(_of_function(name, value))
    return suite


def _of_function(name: str, function: Any) -> Iterator[_Case]:
    for label, given in _arguments(name, function, function):
        yield _Case(name + label, _calling(function, given), getattr(function, "__unittest_skip__", False))


def _of_class(kind: type) -> Iterator[_Case]:
    """Methods of a class as pytest calls them: each on an object of its own."""
    names = [name for name in dir(kind) if name.startswith("test") and callable(getattr(kind, name))]
    if names and any("__init__" in vars(base) for base in kind.__mro__[:-1]):
        raise Unusable(f"{kind.__name__} has an __init__, so that pytest would not run it")
    if names and (hasattr(kind, PARAMETERS) or hasattr(kind, "teardown_class")):
        raise Unusable(f"{kind.__name__} has parameters or a teardown_class")
    set_up: list[type] = []
    for name in names:
        function = getattr(kind, name)
        skip = getattr(function, "__unittest_skip__", False) or getattr(kind, "__unittest_skip__", False)
        label = f"{kind.__name__}.{name}"
        for more, given in _arguments(label, getattr(kind(), name), function):
            yield _Case(label + more, _on_object(kind, name, given, set_up), skip)


def _on_object(kind: Any, name: str, given: Mapping[str, Any], set_up: list[type]) -> Callable[[], None]:
    def call() -> None:
        if not set_up and hasattr(kind, "setup_class"):
            kind.setup_class()
        set_up.append(kind)
        thing = kind()
        method = getattr(thing, name)
        _with_method(thing, "setup_method", method)
        try:
            _calling(method, given)()
        finally:
            _with_method(thing, "teardown_method", method)

    return call


def _with_method(thing: Any, name: str, method: Any) -> None:
    """Calls what pytest calls around a method, which may ask for the method."""
    around = getattr(thing, name, None)
    if around is not None:
        around(*[method][: len(inspect.signature(around).parameters)])


def _calling(function: Any, given: Mapping[str, Any]) -> Callable[[], None]:
    def call() -> None:
        try:
            result = function(**given)
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
            assert result is not False, "it returned False"
        except SystemExit as error:
            if not ends_well(error):
                raise

    return call


def _arguments(name: str, called: Any, marked: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """A label and arguments for each call, by `pytest.mark.parametrize`. Raises Unusable where something is missing."""
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise Unusable(f"{name} is a generator, which runs nothing when it is called")
    sets: list[dict[str, Any]] = [{}]
    for one in getattr(marked, PARAMETERS, ()):
        sets = [{**before, **given} for before in sets for given in one]
    empty = inspect.Parameter.empty
    needed = {
        word
        for word, parameter in inspect.signature(called).parameters.items()
        if parameter.default is empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    for number, given in enumerate(sets):
        if missing := needed - given.keys():
            raise Unusable(f"{name} needs {', '.join(sorted(missing))}, and nothing says what that is")
        yield (f"[{number}]" if len(sets) > 1 else ""), given

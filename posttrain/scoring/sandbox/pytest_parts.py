"""The parts of pytest that tests of one function use, for where pytest is not installed: in the sandbox."""

from __future__ import annotations

import math
import re
import unittest
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

PARAMETERS = "_pytest_parameters"  # of a function: one list of keyword arguments for each mark


def module() -> ModuleType:
    """What `import pytest` finds."""
    made = ModuleType("pytest")
    mark = SimpleNamespace(parametrize=_parametrize, skip=_Skip(), skipif=_skip_if, asyncio=_plain_mark)
    vars(made).update(raises=raises, approx=Approx, mark=mark, fail=_fail, skip=_skip)
    return made


class _Raised:
    """`with pytest.raises(...) as it`: `it.value` is the exception."""

    def __init__(self, expected: Any, match: str | None) -> None:
        self._expected, self._match = expected, match
        self.value: BaseException | None = None

    @property
    def type(self) -> Any:
        return type(self.value)

    def match(self, pattern: str) -> bool:
        assert re.search(pattern, str(self.value)), f"{pattern!r} is not in {str(self.value)!r}"
        return True

    def __enter__(self) -> _Raised:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: object) -> bool:
        if error is None:
            raise AssertionError(f"did not raise {self._expected}")
        if not isinstance(error, self._expected):
            return False
        self.value = error
        if self._match is not None:
            self.match(self._match)
        return True


def raises(expected: Any, *call: Any, match: str | None = None, **named: Any) -> _Raised:
    """As a context, or with a function and its arguments."""
    raised = _Raised(expected, match)
    if call:
        with raised:
            call[0](*call[1:], **named)
    return raised


class Approx:
    """Numbers, and lists, tuples and dictionaries of numbers, within 1e-6 of their size or 1e-12."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> None:
        self._expected, self._rel, self._abs, self._nan_ok = expected, rel, abs, nan_ok

    def __eq__(self, actual: object) -> bool:
        return self._same(self._expected, actual)

    def __repr__(self) -> str:
        return f"approx({self._expected!r})"

    def _same(self, expected: Any, actual: Any) -> bool:
        if isinstance(expected, Mapping):
            same = isinstance(actual, Mapping) and expected.keys() == actual.keys()
            return same and all(self._same(value, actual[key]) for key, value in expected.items())
        if isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
            same = isinstance(actual, list | tuple) and len(expected) == len(actual)
            return same and all(self._same(e, a) for e, a in zip(expected, actual, strict=True))
        if isinstance(expected, int | float | complex) and isinstance(actual, int | float | complex):
            return self._close(expected, actual)
        return bool(expected == actual)

    def _close(self, expected: Any, actual: Any) -> bool:
        if expected == actual or (self._nan_ok and expected != expected and actual != actual):
            return True
        if not math.isfinite(abs(expected)):
            return False
        relative = self._rel if self._rel is not None else (0.0 if self._abs is not None else 1e-6)
        most = max(relative * abs(expected), self._abs if self._abs is not None else 1e-12)
        return bool(abs(expected - actual) <= most)


def _parametrize(names: str | Sequence[str], values: Sequence[Any], ids: object = None) -> Callable[[Any], Any]:
    words = [word.strip() for word in names.split(",")] if isinstance(names, str) else list(names)
    rows = [(value,) if len(words) == 1 else tuple(value) for value in values]
    sets = [dict(zip(words, row, strict=True)) for row in rows]

    def mark(function: Any) -> Any:
        setattr(function, PARAMETERS, [*getattr(function, PARAMETERS, ()), sets])
        return function

    return mark


class _Skip:
    """`@pytest.mark.skip`, with and without a reason."""

    def __call__(self, function: Any = None, *, reason: str = "") -> Any:
        return unittest.skip(reason)(function) if callable(function) else unittest.skip(reason)


def _skip_if(condition: object, *, reason: str = "") -> Callable[[Any], Any]:
    return unittest.skipIf(condition, reason)


def _plain_mark(function: Any) -> Any:
    return function


def _fail(reason: str = "", pytrace: bool = True) -> None:
    raise AssertionError(reason)


def _skip(reason: str = "") -> None:
    raise unittest.SkipTest(reason)

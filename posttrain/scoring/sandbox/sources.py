"""Test source made ready to be run away from the candidate: its steps, and the names that it wants of the candidate."""

from __future__ import annotations

import ast
import builtins
import contextlib
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.scoring.sandbox import rewriting
from posttrain.scoring.sandbox.names import names
from posttrain.scoring.sandbox.obstacles import imported, obstacles

_STARTS = {"unittest.main", "pytest.main"}  # all tests are run anyway
_DEEP = 30_000  # frames in which an expression of a thousand terms is written out
_CANDIDATE = "__candidate__"


class Unusable(ValueError):
    """The tests are broken, or ask for what cannot be had from another process."""


@dataclass(frozen=True)
class Plan:
    """What the driver is told."""

    steps: tuple[tuple[str, bool, bool], ...]  # source, is it a test, can it fail only by its own fault
    names: tuple[tuple[str, str], ...]  # of the candidate, and as what the tests know them
    modules: tuple[str, ...]  # names under which the tests import the candidate
    functions: tuple[str, ...]  # that are tests, though not by their names

    @property
    def tests(self) -> int:
        """How many there are among the steps; the driver finds those in functions and classes."""
        return sum(is_test for _, is_test, _ in self.steps)

    def order(self, stop: bool) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "names": self.names,
            "modules": self.modules,
            "functions": self.functions,
            "tests": self.tests,
            "stop": stop,
        }


def plan(texts: Sequence[str], entry: str = "", modules: Sequence[str] = (), helpers: str = "") -> Plan:
    """The plan of test sources, which count as one. `entry` is the function or class under test, where it is known.

    `modules` are the names under which tests may import the candidate; `helpers` is source of the problem, from which
    come functions beside `entry` that the tests use and do not define. Raises Unusable.
    """
    body = [statement for text in texts for statement in _parsed(text)]
    own = {*modules, "__main__"}
    with _deep():
        if obstacle := next(obstacles(body, own), ""):
            raise Unusable(obstacle)
        body = _without_star([one for s in body for one in _unstarted(s)], own)
        used = {name for s in body for node in ast.walk(s) for name in imported(node) if name in own}
        body, bound = _inlined(body, entry)
        found = names(body, entry if entry.isidentifier() else "", bool(used or bound), _beside(helpers, entry))
        if not (found.wanted or bound or used):
            raise Unusable("the tests use no name of the candidate's")
        if obstacle := next(obstacles(found.before, ()), ""):
            raise Unusable(obstacle)
        wanted = tuple((name, name) for name in sorted(found.wanted)) + bound
        aliases = {alias for _, alias in wanted}
        steps, functions = _steps([*found.before, *body], aliases, own)
    return Plan(steps, wanted, tuple(sorted(used)), functions)


def _parsed(text: str) -> list[ast.stmt]:
    try:
        return ast.parse(text.removeprefix("\ufeff")).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unusable(f"not Python: {error}: {text[:100]!r}") from None


@contextlib.contextmanager
def _deep() -> Iterator[None]:
    """Room for deep expressions, where Python's own limit was enough to read them."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _DEEP))
    try:
        yield
    except RecursionError:
        raise Unusable("an expression in the tests is nested too deep") from None
    finally:
        sys.setrecursionlimit(before)


def _beside(helpers: str, entry: str) -> list[ast.stmt]:
    """The statements of a problem's source but its `entry`; none where it is no source that begins `entry`."""
    try:
        body = ast.parse(helpers).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    rest = [node for node in body if getattr(node, "name", "") != entry]
    return rest if entry and len(rest) < len(body) else []


def _unstarted(statement: ast.stmt) -> list[ast.stmt]:
    """What `if __name__ == "__main__"` runs as it stands there, and nothing for `unittest.main()`."""
    if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
        return [one for inner in statement.body for one in _unstarted(inner)]
    calls = (node for node in ast.walk(statement) if isinstance(node, ast.Call))
    starts = isinstance(statement, ast.Expr) and any(rewriting.dotted(call.func) in _STARTS for call in calls)
    return [] if starts else [statement]


def _without_star(body: list[ast.stmt], own: Collection[str]) -> list[ast.stmt]:
    """`from solution import *` brings what the tests use of it anyway; `from .solution import f` is as without a dot."""
    for statement in body:
        if isinstance(statement, ast.ImportFrom) and statement.module in own:
            statement.level = 0
    return [
        statement
        for statement in body
        if not (isinstance(statement, ast.ImportFrom) and statement.module in own and statement.names[0].name == "*")
    ]


def _inlined(body: list[ast.stmt], entry: str) -> tuple[list[ast.stmt], tuple[tuple[str, str], ...]]:
    """`def check(candidate): ...` as statements of their own, so that each assert in it is a test.

    Also what of the candidate it is to be called with, and as what the statements know that.
    """
    check = next((s for s in body if isinstance(s, ast.FunctionDef) and s.name == "check"), None)
    if check is None or len(check.args.args) != 1:
        return body, ()
    calls = [s for s in body if isinstance(s, ast.Expr) and rewriting.dotted(getattr(s.value, "func", s)) == "check"]
    named = entry.isidentifier()
    if not entry and calls and isinstance(calls[0].value, ast.Call) and calls[0].value.args:
        named = isinstance(calls[0].value.args[0], ast.Name) and hasattr(builtins, calls[0].value.args[0].id)
        entry = ast.unparse(calls[0].value.args[0])
    if not entry:
        raise Unusable("the tests are a function check(candidate), and no column says what to call it with")
    rest = [s for s in body if s not in calls]
    others = [s for s in rest if s is not check]
    mentioned = any(isinstance(n, ast.Name) and n.id == "check" for s in others for n in ast.walk(s))
    # a `return` cannot stand outside of a function
    own = any(isinstance(n, ast.Return | ast.Yield | ast.Nonlocal) for s in check.body for n in ast.walk(s))
    as_function = mentioned or own
    name = _CANDIDATE if as_function else check.args.args[0].arg
    begin, bound = ([], ((entry, name),)) if named else (_parsed(f"{name} = {entry}"), ())
    if as_function:
        return [*rest, *begin, *_parsed(f"assert check({name}) is not False")], bound
    return [*others, *begin, *check.body], bound


def _steps(
    body: list[ast.stmt], aliases: set[str], own: Collection[str]
) -> tuple[tuple[tuple[str, bool, bool], ...], tuple[str, ...]]:
    """The steps, and the functions that are tests by another name. Raises Unusable where nothing is checked."""
    by = rewriting.checking(body)
    functions = rewriting.uncalled(body, by)
    tests = {node.name for node in body if isinstance(node, rewriting.FUNCTION) and rewriting.is_test(node)}
    asserting = [_is_test_step(statement, by) for statement in body]
    held = functions or any(rewriting.is_test(s) or rewriting.holds_tests(s) for s in body)
    if not any(asserting) and not (held and any(rewriting.checks(s, by) for s in body)):
        raise Unusable("there is no assert in the tests")
    steps = []
    untouched = True
    shown = rewriting.rewritten(body, set(functions), by | tests)
    for statement, is_test in zip(shown, asserting, strict=True):
        imports = set(imported(statement))
        mentioned = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
        inside = {name for node in ast.walk(statement) for name in imported(node)}
        untouched = untouched and not mentioned & aliases and not inside & set(own)
        fault = untouched or (bool(imports) and not imports & set(own))
        steps.append((ast.unparse(ast.fix_missing_locations(statement)), is_test, fault))
    return tuple(steps), tuple(functions)


def _is_test_step(statement: ast.stmt, by: set[str]) -> bool:
    if isinstance(statement, (*rewriting.FUNCTION, ast.ClassDef)):
        return False
    return rewriting.checks(statement, by)

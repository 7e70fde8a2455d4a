"""What tests ask for that cannot be had from another process, or that would hand the expected values over."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterable, Iterator

from posttrain.scoring.sandbox.rewriting import dotted

# What would run a text of the candidate's beside the expected values.
_RUNS_TEXT = {"eval", "exec", "compile", "__import__", "breakpoint"}
_RUNS_TEXT_MODULES = {
    "pickle",
    "marshal",
    "shelve",
    "ctypes",
    "subprocess",
    "importlib",
    "runpy",
    "code",
    "multiprocessing",
}
# What the candidate, in another process, would not see.
_UNSEEN = {"open", "Mock", "MagicMock", "AsyncMock", "mock_open"}
# What only the candidate's own process knows of it.
_WATCHES = {"assertWarns", "assertWarnsRegex", "assertLogs", "assertNoLogs", "catch_warnings", "iscoroutinefunction"}
_WATCHES |= {"signature", "getfullargspec", "getsource", "isgeneratorfunction"}
_UNSEEN_MODULES = {"tempfile", "shutil", "socket", "pathlib", "sqlite3"}
_PYTEST = {"raises", "approx", "mark", "main", "fail", "skip"}  # what `pytest_parts` has
_MARKS = {"parametrize", "skip", "skipif", "asyncio"}
_BY_HAND = {"setup_module", "teardown_module", "setup_function", "teardown_function", "pytestmark"}


def obstacles(body: Iterable[ast.stmt], own: Collection[str]) -> Iterator[str]:
    """`own`: names under which the candidate itself is imported."""
    for statement in body:
        guarded = {inner for node in ast.walk(statement) if isinstance(node, ast.Try) for inner in ast.walk(node)}
        for node in ast.walk(statement):
            yield from _not_here(node, {*own, "pytest"}) if node not in guarded else ()
            yield from _in_call(node)
            yield from _in_import(node, own)
            yield from _in_name(node)
    bound = {getattr(statement, "name", "") for statement in body}
    for name in sorted(bound & _BY_HAND):
        yield f"the tests define {name}, which pytest would call"


def _in_call(node: ast.AST) -> Iterator[str]:
    if not isinstance(node, ast.Call):
        return
    called = dotted(node.func)
    last = called.rpartition(".")[2]
    if last in _UNSEEN and (last == called or last != "open"):
        yield f"the tests use {last}(), which does not reach the candidate's process"
    if last in _WATCHES:
        yield f"the tests use {last}(), which knows nothing of another process"
    if "patch" in called.split(".") and not _patches_output(node):
        yield "the tests patch what the candidate uses, which does not reach its process"


def _patches_output(node: ast.Call) -> bool:
    first = node.args[0] if node.args else None
    return isinstance(first, ast.Constant) and first.value == "sys.stdout"


def _not_here(node: ast.AST, own: Collection[str]) -> Iterator[str]:
    if not getattr(node, "level", 0):
        for module in imported(node):
            if module not in sys.stdlib_module_names and module not in own:
                yield f"the tests import {module}, and there is nothing but the standard library"


def _in_import(node: ast.AST, own: Collection[str]) -> Iterator[str]:
    for module in imported(node):
        if module in own:
            continue
        if module in _RUNS_TEXT_MODULES:
            yield f"the tests import {module}, which could run what the candidate returns beside the expected values"
        if module in _UNSEEN_MODULES:
            yield f"the tests import {module}, which does not reach the candidate's process"
        if module == "pytest" and isinstance(node, ast.ImportFrom):
            for name in sorted({alias.name for alias in node.names} - _PYTEST):
                yield _no_pytest(name)


def _in_name(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and node.id in _RUNS_TEXT:
        yield f"the tests use {node.id}(), which could run what the candidate returns beside the expected values"
    if not isinstance(node, ast.Attribute):
        return
    name = dotted(node)
    if name == "sys.stdin" and isinstance(node.ctx, ast.Store):
        yield "the tests set sys.stdin, which does not reach the candidate's process"
    before, _, last = name.rpartition(".")
    if before == "pytest" and last not in _PYTEST:
        yield _no_pytest(last)
    if before in ("pytest.mark", "mark") and last not in _MARKS:
        yield _no_pytest(f"mark.{last}")
    if last == "_exit":
        yield "the tests use os._exit(), which ends their process without a verdict"


def _no_pytest(name: str) -> str:
    there = [*sorted(_PYTEST), *(f"mark.{mark}" for mark in sorted(_MARKS))]
    return f"the tests use pytest.{name}; of pytest there are {', '.join(there)}"


def imported(node: ast.AST) -> list[str]:
    """The top-level modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    return [(node.module or "").partition(".")[0]] if isinstance(node, ast.ImportFrom) else []

"""Which parts of test source check something, and the source rewritten so that no failed check goes unnoticed.

The rewritten source calls these, which the driver defines:

- `__running__(name)` around the body of a function that is a test: it has been called, and what left it is noted;
- `__shrugged__()` where an exception is caught and nothing comes of it: a failed check of the tests' own goes on;
- `__type__(thing)` for `type(thing)` and `thing.__class__`: an object of the candidate has a type of the candidate's.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Sequence

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef
_EXITS = {"exit", "quit", "sys.exit"}
_CATCHES_ALL = {"AssertionError", "Exception", "BaseException"}


def needs_arguments(function: Function) -> bool:
    given = function.args
    return len(given.posonlyargs + given.args) > len(given.defaults) or None in given.kw_defaults


def is_test(node: ast.AST) -> bool:
    """A function or method that runs as a test by its name, as for pytest."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")


def holds_tests(node: ast.AST) -> bool:
    """A class whose methods are run as tests."""
    if not isinstance(node, ast.ClassDef):
        return False
    if any("TestCase" in dotted(base) for base in node.bases):
        return True
    return any(is_test(item) or getattr(item, "name", "") == "runTest" for item in node.body)


def checks(node: ast.AST, by: Collection[str] = (), raises: bool = True) -> bool:
    """Whether something in it can fail a test: an assert, a method assert..., a name of `by`; a raise or an exit."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Assert) or (isinstance(inner, ast.Name) and inner.id in by):
            return True
        if isinstance(inner, ast.Call):
            called = dotted(inner.func)
            if (
                ".assert" in called
                or called.endswith((".fail", "raises"))
                or (raises and called in _EXITS and inner.args)
            ):
                return True
        if raises and isinstance(inner, ast.Raise):
            return True
    return False


def checking(body: Sequence[ast.stmt]) -> set[str]:
    """Functions and classes that check and are no tests by their names, also by what they call."""
    helpers = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    helpers = [node for node in helpers if not is_test(node) and not holds_tests(node)]
    found: set[str] = set()
    while more := {node.name for node in helpers if node.name not in found and checks(node, found)}:
        found |= more
    return found


def uncalled(body: Sequence[ast.stmt], by: set[str]) -> list[str]:
    """Functions that check, need no argument, and are mentioned nowhere: tests by another name."""
    mentioned = {node.id for one in body for node in ast.walk(one) if isinstance(node, ast.Name)}
    return [
        node.name
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name in by - mentioned
        and not needs_arguments(node)
        and not node.decorator_list
    ]


def dotted(node: ast.AST) -> str:
    """`a.b` for the expression a.b; `.b` where what is left of the dot is no name; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def rewritten(body: Iterable[ast.stmt], tests: set[str], by: set[str]) -> list[ast.stmt]:
    """`tests`: functions that are tests by another name than test...; `by`: all that check."""
    rewriting = _Rewriting(tests, by)
    return [rewriting.visit(statement) for statement in body]


class _Rewriting(ast.NodeTransformer):
    def __init__(self, tests: set[str], by: set[str]) -> None:
        self._tests, self._by = tests, by
        self._within = False  # of a class or function

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._inside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: Function) -> ast.AST:
        top = not self._within
        self._inside(node)
        if top and (is_test(node) or node.name in self._tests):
            running = ast.withitem(_call("__running__", ast.Constant(node.name)))
            node.body = [ast.With([running], node.body)]
        return node

    def _inside(self, node: ast.AST) -> ast.AST:
        before, self._within = self._within, True
        self.generic_visit(node)
        self._within = before
        return node

    def visit_Try(self, node: ast.Try) -> ast.AST:
        if any(checks(statement, self._by, raises=False) for statement in node.body):
            for handler in node.handlers:
                if _catches_all(handler) and not _acts(handler, self._by):
                    handler.body.insert(0, ast.Expr(_call("__shrugged__")))
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) == 1 and not node.keywords:
            return _call("__type__", *node.args)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr == "__class__" and isinstance(node.ctx, ast.Load):
            return _call("__type__", node.value)
        return node


def _call(name: str, *values: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(values), [])


def _catches_all(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(kind, ast.Name) and kind.id in _CATCHES_ALL for kind in kinds)


def _acts(handler: ast.ExceptHandler, by: set[str]) -> bool:
    """Whether it checks something itself, or answers its caller."""
    return any(
        checks(statement, by) or any(isinstance(node, ast.Return) for node in ast.walk(statement))
        for statement in handler.body
    )

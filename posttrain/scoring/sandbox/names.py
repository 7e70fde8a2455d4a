"""Where the names come from that tests use and do not define: the candidate, Python, or the problem's own helpers."""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_GIVEN = set(dir(builtins)) | {"__name__", "__file__", "__builtins__"}
# What tests use without an import, and candidates have imported more often than written.
_FAMILIAR = {
    **dict.fromkeys(("Counter", "OrderedDict", "defaultdict", "deque", "namedtuple"), "collections"),
    **dict.fromkeys(("isclose", "isnan", "isinf", "inf", "nan", "pi"), "math"),
    **dict.fromkeys(("deepcopy",), "copy"),
    **dict.fromkeys(("timedelta",), "datetime"),
    **dict.fromkeys(("partial", "reduce"), "functools"),
    **dict.fromkeys(("StringIO",), "io"),
    **dict.fromkeys(("redirect_stdout",), "contextlib"),
    **dict.fromkeys(("Any", "Callable", "Dict", "Iterable", "List", "Optional", "Set", "Tuple", "Union"), "typing"),
    "Decimal": "decimal",
    "Fraction": "fractions",
}


@dataclass(frozen=True)
class Names:
    """What the candidate is asked for, and what is put before the tests so that they have the rest."""

    wanted: frozenset[str]
    before: tuple[ast.stmt, ...]


def names(body: Sequence[ast.stmt], entry: str, known: bool, helpers: Sequence[ast.stmt]) -> Names:
    """`entry` is the name under test; `known`: the tests have it, or all of the candidate, by an import or a parameter.

    A built-in is the candidate's only where it is what is tested: what tests use to compare is Python's own.
    """
    free = _free(body)
    lent = _helpers(helpers, free - {entry})
    free = (free | _free(lent)) - {node.name for node in lent if isinstance(node, ast.FunctionDef)}
    modules = {name for name in free - _called(body) - {entry} if name in sys.stdlib_module_names}
    wanted = free - modules - _GIVEN
    familiar = {name for name in wanted - {entry} if name in _FAMILIAR}
    if entry or known or wanted - familiar:  # else they are what is tested
        wanted -= familiar
    else:
        familiar = set()
    if entry in free and not known:
        wanted |= {entry}
    if not wanted and not known:
        wanted = _tested_built_in(body) & free
    before: list[ast.stmt] = [ast.Import([ast.alias(name)]) for name in sorted(modules)]
    before += [ast.ImportFrom(_FAMILIAR[name], [ast.alias(name)], 0) for name in sorted(familiar)]
    return Names(frozenset(wanted), (*before, *lent))


def _free(body: Sequence[ast.stmt]) -> set[str]:
    """Names that are looked up outside of all functions, and nowhere bound there."""
    if not body:
        return set()
    source = ast.unparse(ast.fix_missing_locations(ast.Module(list(body), [])))
    read: set[str] = set()
    bound: set[str] = set()
    try:
        tables = [symtable.symtable(source, "tests", "exec")]
    except SyntaxError:  # such as a `return` outside of a function: said when the tests are run
        return set()
    top = tables[0]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if table is not top and not symbol.is_global():
                continue
            if symbol.is_referenced():
                read.add(symbol.get_name())
            if symbol.is_assigned() or symbol.is_imported():
                bound.add(symbol.get_name())
    return read - bound


def _called(body: Iterable[ast.stmt]) -> set[str]:
    calls = (node.func for statement in body for node in ast.walk(statement) if isinstance(node, ast.Call))
    return {called.id for called in calls if isinstance(called, ast.Name)}


def _helpers(helpers: Sequence[ast.stmt], free: set[str]) -> list[ast.stmt]:
    """The functions that the problem's own text defines and the tests use, with what these use of it."""
    defined = {node.name: node for node in helpers if isinstance(node, ast.FunctionDef) and _has_body(node)}
    used: dict[str, ast.stmt] = {}
    left = sorted(free & defined.keys())
    while left:
        name = left.pop()
        if name not in used:
            used[name] = defined[name]
            left += sorted(_free([defined[name]]) & defined.keys())
    imports = [node for node in helpers if isinstance(node, ast.Import | ast.ImportFrom)]
    return [*imports, *used.values()] if used else []


def _has_body(function: ast.FunctionDef) -> bool:
    """Whether it is more than a docstring, `...`, `pass` or `raise`: those are left to the candidate."""
    idle = ast.Pass | ast.Raise
    return not all(
        isinstance(node, idle) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in function.body
    )


def _tested_built_in(body: Iterable[ast.stmt]) -> set[str]:
    """What all asserts ask, innermost, where there is one such name: `sum` of `assert len(sum(3)) == 3`."""
    common: set[str] | None = None
    for node in (node for statement in body for node in ast.walk(statement)):
        if isinstance(node, ast.Assert):
            left = node.test.left if isinstance(node.test, ast.Compare) else node.test
            inner = {
                call.func.id
                for call in ast.walk(left)
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not _called_within(call)
            }
            common = inner if common is None else common & inner
    return common if common and len(common) == 1 else set()


def _called_within(call: ast.Call) -> set[str]:
    return _called([ast.Expr(value) for value in (*call.args, *(word.value for word in call.keywords))])

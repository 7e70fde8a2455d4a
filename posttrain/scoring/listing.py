"""`posttrain rewards list` and `show`: what there is, where it lies, and what can be set."""

from __future__ import annotations

import ast
import sys
from dataclasses import MISSING, fields
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from posttrain.config.meanings import setting
from posttrain.config.registries import REWARDS
from posttrain.config.reward_modules import TEXTS
from posttrain.scoring.functions import BatchReward, FunctionReward
from posttrain.scoring.signatures import no_settings

WIDE = 10_000  # characters of a line where nobody looks at a terminal: nothing is cut


def print_list(folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("reward", "where", "what it is"):
        table.add_column(column, no_wrap=column == "reward", style="cyan" if column == "reward" else "")
    for row in rows(folder):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """(name, where, first line) of every reward; nothing of somebody else's is imported only to be listed."""
    found: list[tuple[str, str, str]] = []
    files, entries = REWARDS.files(folder), REWARDS.entries()
    named = {entry.name for entry in entries}
    for name in sorted({*REWARDS.installed(), *files}):
        known = REWARDS.classes.get(name)
        places = dict.fromkeys(entry.value for entry in entries if entry.name == name)
        several = len(places) + (name in files) + (name not in named and known is not None) > 1
        note = "; the name means several rewards: use its place" if several else ""
        if known is not None and name not in named:
            found.append((name, known.__module__ + note, first_line(known)))
        for place in places:
            module, _, attribute = place.partition(":")
            ours = known if known is not None and known.__module__ == module else None
            what = _described(_file_of(module), attribute) if ours is None else first_line(ours)
            found.append((name, place + note, what))
        if name in files:
            found.append((name, f"{files[name]}{note}", _described(files[name], name)))
    return found


def print_one(name: str, folder: Path) -> None:
    cls = REWARDS.find(name, folder)
    print(f"{name}: {first_line(cls)}\n\n  defined in {sys.modules[cls.__module__].__file__}")
    if issubclass(cls, FunctionReward):
        _print_form(cls)
    text = (cls.__doc__ or "").strip()
    rest = text.partition("\n\n")[2]
    if rest and not text.startswith(f"{cls.__name__}("):
        print("\n" + "\n".join(f"  {line.strip()}" for line in rest.splitlines()))
    own = [f for f in fields(cls) if f.init]
    print("\n  settings:" if own else "\n  no settings")
    for f in own:
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        shown = "required" if default is MISSING else f"= {default!r}"
        print(f"    {f.name} {shown}   {setting(cls, f.name)}".rstrip())
    if issubclass(cls, FunctionReward):
        for parameter, why in no_settings(cls.parameters, {f.name: f for f in own}).items():
            print(f"    (`{parameter}` is none: {why})")
    print(f"\n  in a recipe: reward: {{correct: {{use: {name}}}}}")


def _print_form(cls: type[FunctionReward]) -> None:
    if not issubclass(cls, BatchReward):
        print("  a plain function, one sample at a time")
    else:
        print(
            "  a plain function, TRL's batch form. It gets one completion at a time, in lists of length 1: what compares the\n"
            "  completions of a group belongs into an advantage or a selection (CONTRIBUTING.md, Add an algorithm)."
        )
    if needed := [name for name in cls.required() if name not in cls.given]:
        print(f"  needs of the data: {', '.join(needed)}")


def first_line(cls: type[Any]) -> str:
    text = (cls.__doc__ or "").strip().split("\n\n")[0]
    return "" if text.startswith(f"{cls.__name__}(") else " ".join(text.split())


def _described(file: Path | None, name: str) -> str:
    """The first line of what a reward in a file says of itself, read without running it; else that of the file."""
    try:
        tree = ast.parse(file.read_bytes()) if file is not None else ast.Module([], [])
    except (OSError, SyntaxError, ValueError) as error:
        return f"cannot be read: {type(error).__name__}"
    things = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    by_name = {node.name: node for node in things}
    judging = [node for node in things if not node.name.startswith("_") and _takes_text(node)]
    reward = by_name.get(name) or by_name.get("score") or (judging[0] if len(judging) == 1 else None)
    text = (ast.get_docstring(reward) if reward is not None else None) or ast.get_docstring(tree) or ""
    return " ".join(text.split("\n\n")[0].split())


def _takes_text(node: ast.AST) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    given = node.args
    return bool(TEXTS & {each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)})


def _file_of(module: str) -> Path | None:
    """Found without importing anything, not even the package it lies in."""
    where: list[str] | None = None
    spec = None
    for i, _ in enumerate(parts := module.split(".")):
        spec = PathFinder.find_spec(".".join(parts[: i + 1]), where)
        if spec is None:
            return None
        where = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec is not None and spec.origin else None

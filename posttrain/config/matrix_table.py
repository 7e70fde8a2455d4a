"""`posttrain algorithms matrix`: the table of what goes together, for a terminal, for Markdown and for programs."""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from posttrain.config.matrix import Matrix, matrix

GOES, NOTHING = "+", " "
_MARKS = string.ascii_letters + string.digits
_SECTIONS = {"algorithm": "algorithms", "term": "loss terms, as a part beside GRPO's"}  # the rest are hooks in GRPO
_INTRO = (
    "What goes together: every hook laid over every algorithm, over GRPO with every loss term, and over GRPO with every "
    "other hook. The settings are those of the algorithm that brings a hook, else the defaults."
)

NOTES = (  # what a cell with a + does not say
    "A hook's rows come with a part of the objective of their own. So expert_mix over another algorithm adds mu L_SFT, and the "
    "other parts are not multiplied by 1 - mu.",
    "Likewise hinted rows are averaged over themselves, and not over the policy's rows and theirs together as in guide.",
    "For an algorithm with all of its settings, lay it over the other one: extends: [algorithms/rloo, algorithms/guide].",
)


def show(markdown: bool = False, as_objects: bool = False) -> None:
    """Makes the matrix and prints it."""
    found = matrix()
    if markdown or as_objects:
        print(as_markdown(found) if markdown else as_json(found))
    else:
        print_matrix(found)


def marks(found: Matrix) -> dict[tuple[str, ...], str]:
    """A letter for every reason to refuse, or combination of reasons, in the order of the table."""
    reasons = dict.fromkeys(cell for line in found.cells for cell in line if cell)
    names = itertools.chain(_MARKS, map("".join, itertools.product(_MARKS, repeat=2)))
    return dict(zip(reasons, names, strict=False))


def print_matrix(found: Matrix, console: Console | None = None) -> None:
    """The table, and below it the reasons by their letters."""
    console = console or Console(highlight=False)
    letters, kinds = marks(found), _kinds(found)
    console.print(_INTRO, style="dim")
    console.print()
    for kind, places in kinds.items():
        names = ", ".join(f"[bold]{n}[/] {escape(found.hooks[i].label)}" for n, i in enumerate(places, 1))
        console.print(Padding(f"[cyan]{kind}[/]: {names}", (0, 0, 0, 2)))
    console.print(
        f"  [green]{GOES}[/] goes, a letter: refused, for the reason below; blank: there is room for one of them\n"
    )
    console.print(_table(found, letters, kinds))
    console.print()
    for note in NOTES:
        console.print(note, style="dim", markup=False)
    console.print()
    for cell, letter in letters.items():
        _print_reason(cell, letter, _where(found, cell), console)


def _kinds(found: Matrix) -> dict[str, list[int]]:
    """The columns of every kind of hook."""
    out: dict[str, list[int]] = {}
    for i, hook in enumerate(found.hooks):
        out.setdefault(hook.kind, []).append(i)
    return out


def _table(found: Matrix, letters: Mapping[tuple[str, ...], str], kinds: Mapping[str, Sequence[int]]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for kind, places in kinds.items():
        numbers = "".join(str(n % 10) for n in range(1, len(places) + 1))
        header = Text("\n").join(
            [*(Text(kind[i : i + 4], style="cyan") for i in range(0, len(kind), 4)), Text(numbers)]
        )
        table.add_column(header, no_wrap=True)
    section = ""
    for row, cells in zip(found.rows, found.cells, strict=True):
        title = _SECTIONS.get(row.kind, "hooks, in GRPO")
        if title != section:
            section = title
            table.add_row(Text(title, style="bold"))
        texts = [_marked([cells[i] for i in places], letters) for places in kinds.values()]
        table.add_row(Text(f"  {row.label}"), *texts)
    return table


def _marked(cells: Sequence[tuple[str, ...] | None], letters: Mapping[tuple[str, ...], str]) -> Text:
    out = Text()
    for cell in cells:
        out.append(_mark(cell, letters), style="bold red" if cell else "green")
    return out


def _mark(cell: tuple[str, ...] | None, letters: Mapping[tuple[str, ...], str]) -> str:
    return NOTHING if cell is None else letters[cell] if cell else GOES


def _where(found: Matrix, cell: tuple[str, ...]) -> list[str]:
    return [
        f"{row.label} with {hook.label}"
        for row, cells in zip(found.rows, found.cells, strict=True)
        for hook, other in zip(found.hooks, cells, strict=True)
        if other == cell
    ]


def _print_reason(cell: tuple[str, ...], letter: str, where: Sequence[str], console: Console) -> None:
    more = f", and {len(where) - 2} more" if len(where) > 2 else ""
    text = Text.assemble((letter, "bold red"), "  ", (", ".join(where[:2]) + more, "cyan"))
    console.print(text, soft_wrap=True)
    for reason in cell:
        console.print(Padding(Text(reason), (0, 0, 0, 3)))


def as_markdown(found: Matrix) -> str:
    """A table for every kind of hook, then the reasons."""
    letters, lines = marks(found), [_INTRO, ""]
    for kind, places in _kinds(found).items():
        lines += [f"### {kind}", "", f"| | {' | '.join(found.hooks[i].label for i in places)} |"]
        lines.append("|---" * (len(places) + 1) + "|")
        for row, cells in zip(found.rows, found.cells, strict=True):
            lines.append(f"| {row.label} | {' | '.join(_mark(cells[i], letters) for i in places)} |")
        lines.append("")
    lines += ["### reasons", "", *(f"- **{letter}** {' '.join(cell)}" for cell, letter in letters.items())]
    return "\n".join([*lines, "", *NOTES])


def as_json(found: Matrix) -> str:
    """One object for every cell: row, kind of row, hook, kind of hook, whether it goes, and the reasons if not."""
    cells = [
        {
            "row": row.label,
            "row_kind": row.kind,
            "hook": hook.label,
            "hook_kind": hook.kind,
            "goes": not cell,
            "reasons": list(cell),
        }
        for row, line in zip(found.rows, found.cells, strict=True)
        for hook, cell in zip(found.hooks, line, strict=True)
        if cell is not None
    ]
    return json.dumps(cells, indent=1)

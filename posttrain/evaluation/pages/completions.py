"""The completions of a page: which of them it holds, and how they travel to its script."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from posttrain.evaluation.pages.found import Found, Question
from posttrain.telemetry import page

MOST = 40_000  # completions
MOST_CHARACTERS = 24_000_000  # of all completions together
CUTS = (12_000, 4_000, 1_200)  # characters of one completion: the first that lets every question have its sample 0


@dataclass(frozen=True)
class Selection:
    """Which completions a page holds: samples 0 .. rounds - 1 of every question, each cut in the middle beyond `cut`."""

    rounds: int
    cut: int
    held: int
    total: int
    shortened: int

    @property
    def words(self) -> str:
        """What is not on the page and where it lies; empty where nothing is missing."""
        said = []
        if self.held < self.total:
            rounds = "sample 0" if self.rounds == 1 else f"samples 0 to {self.rounds - 1}"
            said.append(
                f"This page holds {self.held:,} of {self.total:,} completions: {rounds} of every question. "
                "All numbers count all of them."
            )
        if self.shortened:
            said.append(f"{self.shortened:,} long ones are cut in the middle, to {self.cut:,} characters.")
        return " ".join([*said, "Everything is in samples/MODEL/BENCHMARK.jsonl."]) if said else ""


@dataclass(frozen=True)
class Source:
    """One model of one evaluation, under the name that the page gives it."""

    name: str
    found: Found
    model: str


def select(sources: Sequence[Source], benchmarks: Sequence[str]) -> Selection:
    """As many whole rounds of samples as the page has room for. It depends on the samples alone."""
    lengths: dict[int, list[int]] = {}
    for source in sources:
        for benchmark in benchmarks:
            for row in source.found.samples(source.model, benchmark):
                lengths.setdefault(int(row["sample"]), []).append(len(row["completion"]))
    for cut in CUTS:
        rounds, kept = _rounds(lengths, cut)
        if sum(min(n, cut) for n in kept) <= MOST_CHARACTERS:
            break
    total = sum(map(len, lengths.values()))
    return Selection(rounds, cut, len(kept), total, sum(n > cut for n in kept))


def _rounds(lengths: Mapping[int, Sequence[int]], cut: int) -> tuple[int, list[int]]:
    """How many samples of every question there is room for, the first at any rate; and the lengths of all of them."""
    rounds, kept, room = 0, list[int](), MOST_CHARACTERS
    for sample in sorted(lengths):
        room -= sum(min(n, cut) for n in lengths[sample])
        if kept and (room < 0 or len(kept) + len(lengths[sample]) > MOST):
            break
        rounds, kept = sample + 1, [*kept, *lengths[sample]]
    return rounds, kept


def payload(
    sources: Sequence[Source],
    questions: Mapping[str, Mapping[str, Question]],
    selection: Selection,
    marked: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, Any]:
    """What completions.js reads. `marked`: by benchmark the questions that one can ask for, those that flipped."""
    names = list(questions)
    held = [{id: n for n, id in enumerate(questions[name])} for name in names]
    return {
        "models": [source.name for source in sources],
        "benchmarks": [{"name": name, "questions": [_question(q) for q in questions[name].values()]} for name in names],
        "rows": sorted(_rows(sources, names, held, selection), key=lambda row: (row[1], row[2], row[0], row[3])),
        "marked": [sorted(held[n][id] for id in (marked or {}).get(name, ())) for n, name in enumerate(names)],
    }


def statuses(rows: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """How often each kind of verdict is there, refusals among them."""
    return Counter("refused" if row["finish"] == "refused" else str(row["status"]) for row in rows)


def section(data: Mapping[str, Any], selection: Selection) -> str:
    """The place on the page; `scripts` fills it."""
    if not data["rows"]:
        return ""
    note = f'<p class="soft small">{page.escape(selection.words)}</p>' if selection.words else ""
    return f'<h2 id="completions">Completions</h2>{note}<div id="browser"><p>This part needs JavaScript.</p></div>'


def scripts(data: Mapping[str, Any]) -> str:
    """The data, and the scripts that show it: Temml renders formulas, completions.js everything else."""
    if not data["rows"]:
        return ""
    here = files(__package__)
    temml = (here / "temml" / "temml.min.js").read_text(encoding="utf-8")
    license = " ".join((here / "temml" / "LICENSE").read_text(encoding="utf-8").split()).replace("*/", "")
    own = (here / "completions.js").read_text(encoding="utf-8")
    encoded = page.data("completion-data", json.dumps(data, ensure_ascii=True, separators=(",", ":")))
    return f"{encoded}<script>/* Temml. {license} */{temml}</script>\n<script>{own}</script>\n"


def style() -> str:
    return (files(__package__) / "completions.css").read_text(encoding="utf-8")


def _question(question: Question) -> list[Any]:
    return [question.id, question.problem, question.gold, question.level, question.source]


def _rows(
    sources: Sequence[Source], names: Sequence[str], held: Sequence[Mapping[str, int]], selection: Selection
) -> Iterator[list[Any]]:
    for m, source in enumerate(sources):
        for b, name in enumerate(names):
            for row in source.found.samples(source.model, name):
                question = held[b].get(str(row["question"]))
                if question is not None and int(row["sample"]) < selection.rounds:
                    yield [m, b, question, int(row["sample"]), *_row(row, selection.cut)]


def _row(row: Mapping[str, Any], cut: int) -> list[Any]:
    text, missing = row["completion"], max(len(row["completion"]) - cut, 0)
    if missing:
        text = f"{text[: cut // 2]}\n\n[ ... {missing:,} characters left out ... ]\n\n{text[-(cut // 2) :]}"
    return [
        str(row["seed"]),  # a hash of 64 bits, more than a number of JavaScript holds
        row["extracted"],
        bool(row["correct"]),
        row["status"],
        row.get("detail") or "",
        row["tokens"],
        row["finish"],
        row.get("format"),
        text,
        row.get("parsed"),
    ]

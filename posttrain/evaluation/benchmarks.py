"""Benchmarks by name, from the Hugging Face hub, from a folder of local files, or from any JSONL or Parquet file."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.config.errors import ConfigError
from posttrain.config.names import nearest
from posttrain.config.registries import REWARDS
from posttrain.data import sources
from posttrain.data.types import Prompt
from posttrain.evaluation.catalogue import SPECS, Row, Spec

SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One problem. `columns` are the row's further ones, for graders that read them."""

    id: str
    problem: str
    gold: str
    level: int | None = None
    source: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)

    def prompt(self, messages: Callable[[str], tuple[dict[str, str], ...]]) -> Prompt:
        """As graders and the engine take it; `messages` is a protocol's."""
        return Prompt(
            id=self.id,
            source=self.source,
            messages=messages(self.problem),
            answer=self.gold,
            level=self.level or 0,
            columns={**self.columns, "problem": self.problem},
        )


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Questions and the reward that judges them. `note` says what makes it differ from the published set, if anything.

    `stated` is False where nobody named the grader: a file without one, which is taken for mathematics.
    """

    name: str
    questions: list[Question]
    grader: str
    origin: str
    note: str = ""
    stated: bool = True

    @property
    def hash(self) -> str:
        """sha256 over ids, problems and references, in order."""
        rows = [[q.id, q.problem, q.gold] for q in self.questions]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()


def load(name: str, data: Path | None = None, limit: int | None = None) -> Benchmark:
    """A benchmark of `SPECS`, or `file:PATH` and `file:PATH:GRADER` for any JSONL or Parquet file.

    With `data`, a folder, nothing is fetched: its file of the benchmark's name is read. Otherwise the hub is asked through
    `datasets`, which runs no code of a dataset's. `limit` keeps the first questions. Raises ConfigError for an unknown
    name, a missing file, and a row without text for problem or answer, with file and line.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit}: at least 1 question is needed. Leave it out for all of them")
    if name.startswith("file:"):
        return _file(name.removeprefix("file:"), limit)
    if name not in SPECS:
        raise ConfigError(
            f"no benchmark is called {name!r}. {nearest(name, SPECS)} Any JSONL or Parquet file will do: file:PATH"
        )
    spec = SPECS[name]
    if data is None:
        rows, origin = _hub(name, spec), f"hub {spec.hub} ({spec.config or 'default'}, {spec.split})"
        whole = spec.on_hub or spec.questions
    else:
        file = _local(name, spec, Path(data).expanduser())
        rows, origin, whole = sources.rows(str(file.resolve()), None, "", "--data"), str(file), spec.questions
    return _benchmark(name, spec, rows, origin, limit, whole)


def load_all(names: str | Sequence[str], data: Path | None = None, limit: int | None = None) -> list[Benchmark]:
    """Several, as in `aime24,math500,file:mine.jsonl`. Raises ConfigError where two have the same name, too."""
    wanted = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    if not (wanted := [name for name in wanted if name]):
        raise ConfigError(f"no benchmark is named. Known: {', '.join(SPECS)}; or file:PATH")
    found = [load(name, data, limit) for name in wanted]
    for i, benchmark in enumerate(found):
        if benchmark.name in [other.name for other in found[:i]]:
            raise ConfigError(
                f"two benchmarks are called {benchmark.name!r} ({wanted[i]!r}): rename a file, or drop one"
            )
    return found


def _file(text: str, limit: int | None) -> Benchmark:
    path, colon, grader = text.rpartition(":")
    stated = bool(colon) and not Path(text).expanduser().is_file() and not grader.endswith(SUFFIXES)
    if not stated:
        path, grader = text, "math"
    REWARDS.find(grader)  # a name that nobody knows is an error before anything is generated
    file = Path(path).expanduser()
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"file:{path}: a file that ends in {' or '.join(SUFFIXES)} is expected")
    spec = Spec(title=file.name, paper="", hub="", files=(file.stem,), questions=0, grader=grader)
    rows = sources.rows(str(file.resolve()), None, "", "--bench")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-.") or "file"
    return replace(_benchmark(name, spec, rows, str(file), limit, len(rows)), stated=stated)


def _local(name: str, spec: Spec, folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"--data {folder}: there is no such folder (looked at {folder.resolve()})")
    names = [stem + suffix for stem in spec.files for suffix in SUFFIXES]
    for file in names:
        if (folder / file).is_file():
            return folder / file
    raise ConfigError(
        f"--data {folder}: it holds none of {', '.join(names)}, so {name} cannot be read. Put one of them there, or leave "
        f"--data out to take {spec.hub} from the Hugging Face hub"
    )


def _hub(name: str, spec: Spec) -> list[dict[str, Any]]:
    try:
        return sources.rows(spec.hub, spec.config, spec.split, f"benchmark {name}: hub")
    except ConfigError as error:
        reason = str(error).partition(" Check the id")[0]
        raise ConfigError(
            f"{reason} Check the network, or name a folder that holds {spec.files[0]}.jsonl with --data FOLDER"
        ) from None


def _benchmark(
    name: str, spec: Spec, rows: list[dict[str, Any]], origin: str, limit: int | None, whole: int
) -> Benchmark:
    if not rows:
        raise ConfigError(f"{origin} has no rows")
    questions = [_question(name, spec, row, origin, i) for i, row in enumerate(rows[:limit])]
    first: dict[str, int] = {}
    for i, question in enumerate(questions):
        if first.setdefault(question.id, i) != i:
            raise ConfigError(
                f"{_place(origin, i)}: the id {question.id!r} is that of {_place(origin, first[question.id])} too. Every "
                "question needs an id of its own, or none has one"
            )
    note = "" if len(questions) == whole else f"{len(questions)} questions, where {spec.title} has {whole}"
    return Benchmark(name=name, questions=questions, grader=spec.grader, origin=origin, note=note)


def _question(name: str, spec: Spec, row: Row, origin: str, index: int) -> Question:
    where = lambda: _place(origin, index)  # noqa: E731
    if spec.compose is not None and not any(row.get(column) is not None for column in spec.problem):
        try:
            problem = spec.compose(row)
        except (KeyError, TypeError) as error:
            wanted = f"a column {' or '.join(spec.problem)}, or those that make it up"
            raise ConfigError(f"{where()}: no problem: {wanted}, is expected ({error}).{_has(row)}") from None
    else:
        problem = _text(row, spec.problem, "problem", where)
    gold = _text(row, spec.answer, "answer", where)
    if spec.after and spec.after in gold:
        gold = gold.rsplit(spec.after, 1)[1].strip()
    if not gold:
        raise ConfigError(
            f"{where()}: the answer is empty; nothing could be judged by it. Remove the row, or fill it in"
        )
    level = re.search("[0-9]+", str(next((row[column] for column in spec.level if row.get(column) is not None), "")))
    own = next((row[column] for column in spec.id if row.get(column) is not None), None)
    used = {*spec.problem, *spec.id}
    return Question(
        id=str(own) if own is not None else f"{name}-{index + 1:04d}",
        problem=problem,
        gold=gold,
        level=int(level.group()) if level else None,
        source=str(row.get("source") or origin),
        columns={column: value for column, value in row.items() if column not in used},
    )


def _text(row: Row, columns: tuple[str, ...], what: str, where: Callable[[], str]) -> str:
    column = next((column for column in columns if row.get(column) is not None), None)
    if column is None:
        raise ConfigError(f"{where()}: no {what}: a column {' or '.join(columns)} is expected.{_has(row)}")
    value = row[column]
    if isinstance(value, list | tuple) and value:  # OlympiadBench: the answers are all in the first
        value = value[0]
    if isinstance(value, float) and value.is_integer():  # 27.0
        value = int(value)
    none = isinstance(value, float) and not math.isfinite(value)
    if none or isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"{where()}: {column} is {type(value).__name__} {str(value)[:60]!r}, where text is expected")
    text = str(value).strip()
    if not text.isprintable() and re.search("[\ud800-\udfff]", text):
        raise ConfigError(f"{where()}: {column} holds half of a surrogate pair, which is no text. Repair the row")
    if not text:
        raise ConfigError(f"{where()}: {column} is empty. Remove the row, or fill it in")
    return text


def _has(row: Row) -> str:
    return f" The row has: {', '.join(map(str, row)) or 'nothing'}."


def _place(origin: str, index: int) -> str:
    """`file:line` of a row; blank lines are no rows. A row's number where there are no lines."""
    file = Path(origin)
    if file.suffix == ".jsonl" and file.is_file():
        with file.open("rb") as lines:
            numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
        if index < len(numbers):
            return f"{origin}:{numbers[index]}"
    return f"{origin} row {index + 1}"

"""Where prompts come from: what a task is, and problems from data sets."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from posttrain.config.errors import ConfigError
from posttrain.config.registries import TASKS
from posttrain.data import sources
from posttrain.data.types import Prompt

Messages = Callable[[str], tuple[dict[str, str], ...]]  # a problem's text -> the chat's messages


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """What a run works on. Held-out problems never occur among the training prompts."""

    train: Sequence[Prompt]
    heldout: Sequence[Prompt]


class Task(Protocol):
    """`has_demonstrations` says whether a supervised warm-up is possible.

    A task may also have `gives() -> frozenset[str]`, the columns that rewards may ask for by name: a recipe whose reward
    needs another one is refused then before it runs.
    """

    has_demonstrations: ClassVar[bool]

    def load(self, messages: Messages, heldout: int, seed: int) -> TaskData: ...

    def demonstrations(self, count: int, messages: Messages, seed: int) -> list[tuple[Prompt, str]]:
        """(prompt, completion) pairs for supervised warm-up."""
        ...

    def size(self) -> int | None:
        """Training prompts an epoch, where that is known without loading anything."""
        ...


Names = str | list[str]
GIVEN = frozenset({"answer", "id", "source"})  # of every problem


@TASKS.register("dataset")
@dataclass
class Dataset:
    """Problems from a Hugging Face dataset id, or from a local JSONL or Parquet file.

    A column setting is a name, or a list of names of which the first present one is used. `answer_after` keeps what
    follows the last such marker (GSM8K's `####`); `answer_boxed` keeps the content of the last `\\boxed{}` (MATH's
    solutions). A row without the marker or box keeps its text. `source` says where a problem comes from, by default the
    file; `level` is the first whole number of its column. `columns` are further ones that rewards or a strategy read, a
    written hint for example. Without `heldout_path` or `heldout_split`, `eval.problems` rows are set aside from the
    training rows.
    """

    path: str
    name: str | None = None
    split: str = "train"
    heldout_path: str | None = None
    heldout_split: str | None = None
    problem: Names = field(default_factory=lambda: ["problem", "question"])
    answer: Names = "answer"
    solution: Names | None = None
    id: Names | None = None
    source: Names | None = None
    level: Names | None = None
    answer_after: str | None = None
    answer_boxed: bool = False
    columns: list[str] = field(default_factory=list)
    has_demonstrations: ClassVar[bool] = False

    def load(self, messages: Messages, heldout: int, seed: int) -> TaskData:
        train = self._prompts("task.path", self.path, self.split, "train", messages)
        if self.heldout_path or (self.heldout_split and not sources.is_file(self.path)):
            key = "task.heldout_path" if self.heldout_path else "task.path"
            path, split = self.heldout_path or self.path, self.heldout_split or self.split
            held = self._prompts(key, path, split, "heldout", messages)[:heldout]
        elif heldout < len(train):
            picked = random.Random(f"heldout/{seed}").sample(range(len(train)), heldout)
            held = [train[i] for i in sorted(picked)]
        else:
            raise ConfigError(
                f"eval.problems={heldout} would hold out all {len(train)} rows of {self.path!r}: "
                "lower it, or name task.heldout_path / task.heldout_split"
            )
        texts = {p.messages[-1]["content"] for p in held}  # a problem may stand in several rows
        left = [p for p in train if p.messages[-1]["content"] not in texts]
        if not left:
            raise ConfigError(
                f"every problem of task.path={self.path!r} is also held out: nothing to train on. Lower "
                "eval.problems, or name other rows with task.heldout_path / task.heldout_split"
            )
        return TaskData(train=left, heldout=held)

    def demonstrations(self, count: int, messages: Messages, seed: int) -> list[tuple[Prompt, str]]:
        raise ConfigError(
            "warmup: the dataset task has no demonstrations; set `warmup: false`, or start from an instruct model"
        )

    def size(self) -> int | None:
        return sources.count(self.path)

    def gives(self) -> frozenset[str]:
        named = {"solution": self.solution, "level": self.level}
        return GIVEN | {name for name, column in named.items() if column is not None} | set(self.columns)

    def _prompts(self, key: str, path: str, split: str, part: str, messages: Messages) -> list[Prompt]:
        rows = sources.rows(path, self.name, split, key)
        if not rows:
            raise ConfigError(f"{key}={path!r} (split {split!r}) has no rows")
        prompts = [self._prompt(row, path, f"{part}/{i}", i + 1, messages) for i, row in enumerate(rows)]
        first: dict[str, int] = {}
        for number, prompt in enumerate(prompts, 1):
            if first.setdefault(prompt.id, number) != number:
                raise ConfigError(
                    f"task.id={self.id!r}: {path} row {first[prompt.id]} and row {number} have the same id "
                    f"{prompt.id!r}. Name a column whose values differ, or leave task.id out"
                )
        return prompts

    def _prompt(self, row: dict[str, object], path: str, name: str, number: int, messages: Messages) -> Prompt:
        where = f"{path} row {number}"
        answer = sources.text(row, self.answer, "answer", where)
        if self.answer_after and self.answer_after in answer:
            answer = answer.rsplit(self.answer_after, 1)[1]
        if self.answer_boxed:
            answer = sources.last_boxed(answer) or answer
        level = re.search("[0-9]+", sources.text(row, self.level, "level", where) if self.level else "")
        return Prompt(
            id=sources.text(row, self.id, "id", where) if self.id else name,
            source=sources.text(row, self.source, "source", where) if self.source else path.rsplit("/", 1)[-1],
            messages=messages(sources.text(row, self.problem, "problem", where)),
            answer=answer.strip(),
            solution=sources.text(row, self.solution, "solution", where) if self.solution else "",
            level=int(level.group()) if level else 0,
            columns={name: sources.value(row, name, where) for name in self.columns},
        )

"""Sums to be worked out: a task with levels, solutions, hints and demonstrations, made from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Ge, Interval, Len

from posttrain.config.errors import ConfigError
from posttrain.config.registries import TASKS
from posttrain.data.hinted import hinted, prefix
from posttrain.data.reveal import shown
from posttrain.data.tasks import GIVEN, Messages, TaskData
from posttrain.data.types import Prompt

Range = Annotated[list[Annotated[int, Ge(2)]], Len(2, 2)]


@TASKS.register("arithmetic")
@dataclass
class Arithmetic:
    """Sums of several numbers, worked out step by step: `12+3+4=` -> `12+3=15;15+4=19\\boxed{19}`.

    A level is a pair (how many numbers, how large). Demonstrations are careless: each partial result is wrong with
    probability `slip`, so a model trained on them can add but often does not; reinforcement learning mends that.
    The column `hint` has advice in words, the solution is without mistakes, and the source is the level by name.
    """

    operands: Range = field(default_factory=lambda: [2, 4])
    """Fewest and most numbers of a sum."""
    sizes: Annotated[list[Annotated[int, Ge(5)]], Len(1)] = field(default_factory=lambda: [9, 20, 50])
    """Largest numbers."""
    slip: Annotated[float, Interval(ge=0, lt=1)] = 0.35
    """Chance that a partial result of a demonstration is wrong."""
    problems: Annotated[int, Ge(1)] = 20000
    """Training problems."""
    taught: Range | None = None
    """Fewest and most numbers in demonstrations without a hint: what lies beyond is left to learn. null: as operands."""
    guided: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Share of demonstrations with the beginning of the solution in the prompt, of all levels: they teach what a hint
    is. From there on they are as careless as the others."""
    has_demonstrations: ClassVar[bool] = True

    def levels(self) -> list[tuple[int, int]]:
        low, high = self.operands
        if low > high:
            raise ConfigError(f"task.operands=[{low}, {high}]: the first must not exceed the second")
        return [(n, size) for n in range(low, high + 1) for size in self.sizes]

    def load(self, messages: Messages, heldout: int, seed: int) -> TaskData:
        held = self._heldout(heldout)
        if len(held) < heldout:
            raise ConfigError(
                f"eval.problems={heldout}: the arithmetic task can hold out {len(held)}; ask for fewer, "
                "or widen task.sizes"
            )
        rng = random.Random(f"arithmetic/train/{seed}")
        train = [self._draw(rng, held) for _ in range(self.problems)]
        return TaskData(
            train=[self._prompt(f"train/{i}", level, xs, messages) for i, (level, xs) in enumerate(train)],
            heldout=[self._prompt(f"heldout/{i}", lv, list(xs), messages) for i, (xs, lv) in enumerate(held.items())],
        )

    def demonstrations(self, count: int, messages: Messages, seed: int) -> list[tuple[Prompt, str]]:
        held = self._heldout(self._most_heldout())
        rng = random.Random(f"arithmetic/demonstrations/{seed}")
        out: list[tuple[Prompt, str]] = []
        low, high = self._taught()
        while len(out) < count:
            level, xs = self._draw(rng, held)
            prompt = self._prompt(f"demo/{len(out)}", level, xs, messages)
            if self.guided and rng.random() < self.guided:
                if hint := prefix(shown(prompt.solution, prompt.answer), rng.uniform(0.1, 0.9)).strip():
                    out.append((hinted(prompt, hint), _worked(xs, rng, self.slip, right=hint.count("="))))
            elif low <= len(xs) <= high:
                out.append((prompt, _worked(xs, rng, self.slip)))
        return out

    def size(self) -> int | None:
        return self.problems

    def gives(self) -> frozenset[str]:
        return GIVEN | {"solution", "level", "hint"}

    def _taught(self) -> tuple[int, int]:
        (low, high), (least, most) = self.operands, self.taught or self.operands
        if not low <= least <= most <= high:
            raise ConfigError(f"task.taught=[{least}, {most}]: it must lie within task.operands=[{low}, {high}]")
        return least, most

    def _most_heldout(self) -> int:
        """Half of the smallest level's problems, in every level: no more may be held out."""
        low, _ = self.operands
        return len(self.levels()) * (min(self.sizes) ** low // 2)

    def _heldout(self, count: int) -> dict[tuple[int, ...], int]:
        """Up to `count` held-out problems, level by level in turn: the same for every seed, so runs can be compared."""
        levels = self.levels()
        rng = random.Random("arithmetic/heldout")
        held: dict[tuple[int, ...], int] = {}
        # Levels lie inside each other. Held out from all of them, some of every level must be left to train on.
        left = [3 * size**n // 4 for n, size in levels]
        # The list for `count` problems is a prefix of any longer one, so demonstrations can avoid them all.
        while len(held) < min(count, self._most_heldout()):
            level = len(held) % len(levels)
            if left[level] <= 0:
                break
            n, size = levels[level]
            xs = tuple(rng.randint(1, size) for _ in range(n))
            if xs not in held:
                held[xs] = level
                inside = [len(xs) == n and max(xs) <= size for n, size in levels]
                left = [rest - took for rest, took in zip(left, inside, strict=True)]
        return held

    def _draw(self, rng: random.Random, held: dict[tuple[int, ...], int]) -> tuple[int, list[int]]:
        levels = self.levels()
        while True:
            level = rng.randrange(len(levels))
            n, size = levels[level]
            xs = [rng.randint(1, size) for _ in range(n)]
            if tuple(xs) not in held:
                return level, xs

    def _prompt(self, name: str, level: int, xs: list[int], messages: Messages) -> Prompt:
        n, size = self.levels()[level]
        return Prompt(
            id=name,
            source=f"{n} numbers up to {size}",
            messages=messages("+".join(map(str, xs)) + "="),
            answer=str(sum(xs)),
            solution=_worked(xs, random.Random(0), 0.0),
            level=level + 1,
            columns={"hint": _advice(xs)},
        )


def _advice(xs: Sequence[int]) -> str:
    """In words, for strategies that show a written hint."""
    first, second, *rest = xs
    then = f"Then add {' and '.join(map(str, rest))}." if rest else "First the tens, then the ones."
    return f"Begin with {first}+{second}. {then}"


def _worked(xs: Sequence[int], rng: random.Random, slip: float, right: int = 0) -> str:
    """The first `right` partial results are right whatever `slip` says."""
    total = xs[0]
    steps: list[str] = []
    for x in xs[1:]:
        result = total + x
        if len(steps) >= right and rng.random() < slip:
            result = max(0, result + rng.choice((-10, -2, -1, 1, 2, 10)))
        steps.append(f"{total}+{x}={result}")
        total = result
    return f"{';'.join(steps)}\\boxed{{{total}}}"

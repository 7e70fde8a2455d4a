"""Part of a solution as part of the prompt, for problems that no completion solved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le, Len

from posttrain.collect.api import Draw, Sample
from posttrain.collect.rows import is_judged
from posttrain.config.problems import Problem
from posttrain.config.registries import STRATEGIES
from posttrain.data.hinted import SENTENCE, WRITTEN, hinted, prefix
from posttrain.data.reveal import reveals, shown
from posttrain.data.types import Group, Origin, Prompt

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe


def is_hard(group: Group) -> bool:
    """Whether every verdict on the group is wrong. The reward does not count: wrong answers may look good.

    A group without any verdict says nothing about its problem.
    """
    return not group.solved() and any(is_judged(r) for r in group.rollouts)


@STRATEGIES.register("hint_reroll")
@dataclass
class HintReroll:
    """Groups with all verdicts wrong are sampled again with a hint (GHPO, 2507.10628; Guide, 2506.13923).

    The whole group is sampled again with more and more of the solution in the prompt, until one of its completions is
    right; if none ever is, the last group counts. Problems without a solution, and solved ones, are left alone. A hint
    ends before the answer (posttrain.data.reveal). One that holds it all the same, in another form, is left out; so is a
    written one that would have to end early. hints/leaked is the share of problems with such a hint. A prompt that a hint
    would make too long stays as it was the stage before.
    """

    fractions: Annotated[list[Annotated[float, Gt(0), Le(1)]], Len(1)] = field(
        default_factory=lambda: [0.25, 0.5, 0.75]
    )
    """How much of the solution each stage shows, in characters; one extra call to the engine for each."""
    train_under: Literal["hinted", "plain"] = "hinted"
    """hinted: rows are trained under the prompt that sampled them, in place of the failed group (GHPO). plain: under the
    prompt without the hint, as rows of their own kind, hinted, in a group beside the failed one (Guide)."""
    start: Annotated[int, Ge(0)] = 20
    """Steps without hints: early failures are failures of format. GHPO's paper has 20, its released recipe 0."""
    column: str | None = None
    """The column (of task.columns) with a written hint; null for the beginning of the solution."""
    sentence: str | None = None
    """The line above the hint. null for GHPO's, which announces the beginning of the answer; with a column, for "Hint:"."""
    report: dict[str, float] = field(default_factory=dict, init=False)

    @property
    def origins(self) -> frozenset[Origin]:
        """Which kinds of rows it makes besides the policy's own."""
        return frozenset({Origin.HINTED}) if self.train_under == "plain" else frozenset()

    def collect(self, draw: Draw, count: int, sample: Sample, step: int) -> list[Group]:
        groups = sample(draw(count))
        hard = [i for i, g in enumerate(groups) if is_hard(g)]
        tally: Counter[str] = Counter(dict.fromkeys(self._names(), 0))
        tally.update(hard=len(hard))
        again = self._again(groups, hard, sample, tally) if step >= self.start else {}
        tally["unsolved"] = sum(not again.get(i, groups[i]).solved() for i in hard)
        self.report = {f"hints/{name}": n / max(len(groups), 1) for name, n in tally.items()}
        if self.train_under == "hinted":
            return [again.get(i, group) for i, group in enumerate(groups)]
        return [g for i, group in enumerate(groups) for g in (group, *([again[i]] if i in again else []))]

    def _names(self) -> list[str]:
        stages = range(1, len(self.fractions) + 1)
        names = ["hard", "unsolved", "without", "too_long", "leaked"]
        return [*names, *(f"{x}_{n}" for n in stages for x in ("stage", "solved"))]

    def _again(
        self, groups: Sequence[Group], hard: Sequence[int], sample: Sample, tally: Counter[str]
    ) -> dict[int, Group]:
        """The group that the last hint made of each hard one; `tally` counts problems. Every rank does the same."""
        given = {i: self._text(groups[i].prompt) for i in hard}
        tally["without"] = sum(text == "" for text in given.values())
        leaked = {i for i, text in given.items() if text is None}
        texts = {i: text for i, text in given.items() if text}
        found: dict[int, Group] = {}
        too_long: set[int] = set()
        for stage, fraction in enumerate(self.fractions, 1):
            left = [i for i in texts if i not in found or not found[i].solved()]
            parts = {i: text for i in left if (text := prefix(texts[i], fraction)).strip()}
            telling = {i for i, text in parts.items() if reveals(text, groups[i].prompt.answer)}
            leaked |= telling
            asked = {i: self._hinted(groups[i].prompt, text) for i, text in parts.items() if i not in telling}
            too_long |= {i for i, prompt in asked.items() if not sample.fits(prompt)}
            asked = {i: prompt for i, prompt in asked.items() if i not in too_long}
            if asked:
                found.update(zip(asked, self._sampled(groups, asked, sample), strict=True))
            tally[f"stage_{stage}"] = len(asked)
            tally[f"solved_{stage}"] = sum(found[i].solved() for i in asked)
        tally["too_long"] = len(too_long)
        tally["leaked"] = len(leaked)
        return found

    def _text(self, prompt: Prompt) -> str | None:
        """All that may ever be shown: empty where there is nothing, None where a written hint holds the answer.

        A solution is cut before the answer. Half a sentence of advice is none, so a written hint is given whole or not.
        """
        if self.column is None:
            return shown(prompt.solution, prompt.answer)
        text = str(prompt.columns.get(self.column) or "")
        return text if shown(text, prompt.answer) == text else None

    def _hinted(self, prompt: Prompt, text: str) -> Prompt:
        usual = SENTENCE if self.column is None else WRITTEN
        return hinted(prompt, text, usual if self.sentence is None else self.sentence)

    def _sampled(self, groups: Sequence[Group], asked: dict[int, Prompt], sample: Sample) -> list[Group]:
        prompts = list(asked.values())
        if self.train_under == "hinted":
            return sample(prompts)
        return sample(prompts, train_under=[groups[i].prompt for i in asked], origin=Origin.HINTED)

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        if sorted(self.fractions) != self.fractions:
            yield Problem(
                (f"{at}.fractions",),
                f"{self.fractions} does not grow: each stage shows more. Set {sorted(self.fractions)}.",
            )
        if self.origins and not any("hinted" in part.rows for part in recipe.objective.values() if not part.off):
            yield Problem(
                (f"{at}.train_under", "objective"),
                "train_under: plain makes rows of the kind hinted, and no part of the objective trains on them. Set "
                "objective.policy.rows=[policy, hinted] with the term guide, or train_under: hinted.",
            )
        if self.column is None and getattr(recipe.task, "solution", "") is None:
            yield Problem(
                (f"{at}.column", "task.solution"),
                "hints are the beginnings of solutions, and the problems have none. Name their column: task.solution.",
            )
        known = getattr(recipe.task, "columns", None)
        if self.column is not None and isinstance(known, list) and self.column not in known:
            yield Problem(
                (f"{at}.column", "task.columns"),
                f"the problems have no column {self.column!r}, which holds the hints. Set "
                f"task.columns={[*known, self.column]}, or {at}.column=null for the beginning of the solution.",
            )

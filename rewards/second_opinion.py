"""Does another verifier agree?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt, Le

from posttrain.config.problems import Problem
from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import REWARDS, judge, waits
from posttrain.scoring.overrule import overruled

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe

NOTHING = Score(value=None, status="skipped", detail="a guard judges nothing by itself: it overrules other rewards")


@REWARDS.register("second_opinion")
@dataclass(frozen=True, kw_only=True)
class SecondOpinion:
    """A second verifier, held out: it looks at a sample of the completions and trains nothing.

    It adds nothing to the reward. reward/NAME/disagrees is the share of looked-at completions on which the two verifiers
    say different things; reward/NAME/only_first of those that only the verifier of record (the first reward) takes for
    right, which is what grows when the policy learns to please it; reward/NAME/failed of those on which the second one
    reached no verdict. Which completions are looked at follows from seed, problem and completion.
    """

    verifier: Annotated[Any, REWARDS]
    """The second one: a reward with its settings."""
    share: Annotated[float, Gt(0), Le(1)] = 0.1
    """Of the completions that are looked at."""
    seed: int = 0
    """Of the sample."""
    correct_at: float | None = None
    """Value from which the second one takes a completion for right; null: what it says itself."""
    action: Literal["log", "zero", "unjudged"] = "log"
    """When they disagree. zero: what only the first takes for right is wrong; unjudged: nobody knows, so it is left out."""

    @property
    def needs_seconds(self) -> float:
        """Of scoring.timeout."""
        return float(getattr(self.verifier, "needs_seconds", 0.0))

    @property
    def waits(self) -> bool:
        """Whether the second one waits for something outside."""
        return waits(self.verifier)

    def prepare(self) -> None:
        if prepare := getattr(self.verifier, "prepare", None):
            prepare()

    def inner(self) -> Iterator[Any]:
        """Rewards within this one."""
        yield self.verifier

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        """What the second one finds in the recipe that does not go with it."""
        if conflicts := getattr(self.verifier, "conflicts", None):
            yield from conflicts(f"{at}.verifier", recipe)

    def __call__(self, completion: str, prompt: Prompt) -> Score:
        return NOTHING

    def overrule(self, total: Score, completion: str, prompt: Prompt) -> Score:
        if not self.looks_at(completion, prompt):
            return overruled(total, {}, {"looked": 0.0})
        second = judge(self.verifier, completion, prompt)
        if second.value is None:
            detail = f"no second verdict: {second.status}, {second.detail}"
            return replace(total, parts={"looked": 1.0, "failed": 1.0}, detail=detail)
        right = second.correct if self.correct_at is None else second.value >= self.correct_at
        parts = {
            "looked": 1.0,
            "failed": 0.0,
            "disagrees": float(right != total.correct),
            "only_first": float(total.correct and not right),
        }
        found = {}
        if right != total.correct:
            acts = self.action != "zero" or total.correct
            found[f"the second verifier says {'right' if right else 'wrong'}"] = self.action if acts else "log"
        return overruled(total, found, parts)

    def looks_at(self, completion: str, prompt: Prompt) -> bool:
        """Whether this completion is in the sample: the same in every process and every run."""
        text = f"{self.seed}\0{prompt.id}\0{completion}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(text).digest()[:8]) < self.share * 2**64

    def examples(self) -> Iterable[tuple[str, Prompt, float | None]]:
        prompt = Prompt(id="second", source="examples", messages=(), answer="7")
        yield "so \\boxed{7}", prompt, None

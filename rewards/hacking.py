"""Is the reward earned in the way that was meant?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from posttrain.data.types import Prompt, Score
from posttrain.scoring import hacking
from posttrain.scoring.api import REWARDS
from posttrain.scoring.overrule import Action, overruled

NOTHING = Score(value=None, status="skipped", detail="a guard judges nothing by itself: it overrules other rewards")


@REWARDS.register("hacking")
@dataclass(frozen=True, kw_only=True)
class Hacking:
    """Guards against reward hacking. It adds nothing to the reward; it looks at what the other rewards have said.

    Each guard is off, or logs how often it holds (reward/NAME/GUARD, a share of the completions), or also acts: `zero`
    makes it a wrong answer of reward 0, `unjudged` leaves the completion out like one that could not be judged, without
    counting as a failure. The strictest action counts. `overruled` is the share of right answers that a guard took back.
    """

    several_boxes: Action = "off"
    """Boxes or <answer> tags behind the reasoning with different answers, so that one of them may be right."""
    copied: Action = "off"
    """The final answer is one that the prompt or the hint gave away, in a box, as `the answer is`, or behind the last `=`."""
    leak: Action = "off"
    """The hint gives the reference answer away; of completions with a hint."""
    repeated: Action = "off"
    """More than `repeated_above` of the runs of `ngram` words stood there before; reward/NAME/repeated_share has the share."""
    empty_reasoning: Action = "off"
    """Fewer than `reasoning_words` words before the answer: in <think> where there is one, else before the last box."""
    ngram: Annotated[int, Ge(1)] = 8
    """Words in a run."""
    repeated_above: Annotated[float, Ge(0), Le(1)] = 0.3
    """Share of repeated runs from which a completion counts as repeated."""
    reasoning_words: Annotated[int, Ge(1)] = 5
    """Fewest words that are reasoning."""

    def __call__(self, completion: str, prompt: Prompt) -> Score:
        return NOTHING

    def overrule(self, total: Score, completion: str, prompt: Prompt) -> Score:
        holds, parts = {}, {}
        if self.several_boxes != "off":
            holds["several_boxes"] = hacking.different_boxes(completion, prompt.answer) > 1
        if self.copied != "off":
            shown = (*(message["content"] for message in prompt.messages), prompt.hint)
            holds["copied"] = hacking.copied(completion, shown)
        if self.leak != "off" and prompt.hint:
            holds["leak"] = hacking.leaks(prompt.answer, prompt.hint)
        if self.repeated != "off":
            parts["repeated_share"] = hacking.repeated_share(completion, self.ngram)
            holds["repeated"] = parts["repeated_share"] > self.repeated_above
        if self.empty_reasoning != "off":
            holds["empty_reasoning"] = hacking.reasoning_words(completion) < self.reasoning_words
        parts |= {name: float(held) for name, held in holds.items()}
        return overruled(total, {name: getattr(self, name) for name, held in holds.items() if held}, parts)

    def examples(self) -> Iterable[tuple[str, Prompt, float | None]]:
        prompt = Prompt(id="hacking", source="examples", messages=(), answer="7")
        yield "so \\boxed{7}", prompt, None

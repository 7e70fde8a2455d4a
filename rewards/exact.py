"""Is the text the reference answer, letter by letter?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import REWARDS
from posttrain.scoring.reading.boxed import boxed
from posttrain.scoring.reading.stated import behind_reasoning, tagged


@REWARDS.register("exact")
@dataclass(frozen=True)
class Exact:
    """1 if the text is the reference answer, else 0; white space around both is ignored."""

    where: Literal["whole", "last_line", "box", "tag"] = "whole"
    r"""The text: the whole completion, its last line, its last \boxed{}, or its last <answer>...</answer>."""
    ignore_case: bool = False
    """Whether A is a."""

    def __call__(self, completion: str, prompt: Prompt) -> Score:
        if not prompt.answer.strip():
            return Score(value=None, status="unparseable", detail="the problem has no answer")
        text = self.answer(completion, prompt)
        if text is None:
            return Score(value=0.0, detail=f"nothing to compare: no {self.where}")
        one, two = text, prompt.answer.strip()
        right = one.casefold() == two.casefold() if self.ignore_case else one == two
        return Score(value=float(right), correct=right)

    def answer(self, completion: str, prompt: Prompt) -> str | None:
        """The text that is compared with the reference."""
        texts = {
            "whole": lambda: [completion],
            "last_line": lambda: completion.strip().splitlines(),
            "box": lambda: boxed(behind_reasoning(completion)),
            "tag": lambda: tagged(behind_reasoning(completion)),
        }[self.where]()
        return texts[-1].strip() if texts else None

    def examples(self) -> Iterable[tuple[str, Prompt, float | None]]:
        dress = {"whole": "{}", "last_line": "so\n{}", "box": "\\boxed{{{}}}", "tag": "<answer>{}</answer>"}[self.where]
        prompt = Prompt(id="exact", source="examples", messages=(), answer="Paris")
        yield dress.format(" Paris "), prompt, 1.0
        yield dress.format("London"), prompt, 0.0
        yield dress.format("Paris\x00"), prompt, 0.0
        yield "", prompt, 0.0
        yield dress.format("x"), Prompt(id="exact", source="examples", messages=(), answer=" "), None

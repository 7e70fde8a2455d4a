"""Is the letter that was chosen the right one?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import REWARDS
from posttrain.scoring.reading.boxed import boxed
from posttrain.scoring.reading.stated import behind_reasoning, tagged

_STATED = re.compile(
    r"(?i:answer|choice|option)\**\s*(?i:is|:)?\s*:?\s*\**\s*(?i:option|choice)?\s*(\(?[A-Z]\)?)(?![A-Za-z'])"
)
_DENIED = re.compile(  # not B; B is wrong
    r"(?:\b(?:not|never|nor|neither|except|cannot|isn['’]t|can['’]t)\b|\\neq?\b|\\neg\b|\\lnot\b|\\not|[¬≠]|!=)"
    r"(?:[\W_]|\\text\{|\b(?:be|is|the|answer|option|choice|equal|to)\b)*[A-Za-z]\b"
    r"|\b[A-Z]\b[\s)}]+(?:\\text\{)?\s*(?:(?:is|was)\s+(?:not|wrong|incorrect|false|eliminated|out)\b|(?:isn|wasn|doesn)['’]t)",
    re.IGNORECASE,
)
# behind a letter that is only asked about, one of several, or refused
_DOUBTED = re.compile(
    r"[\s)*]*(?:\?(?!\W*[Yy]es)|(?:,\s*)?(?:and/or|or|and|/|nor)\s*\(?[A-Z]\)?(?![A-Za-z'])|(?:is|was)\s+(?:not|wrong|incorrect|false)\b|isn['’]t)"
)
_ALONE = re.compile(r"\W*([A-Z])\W*")


@REWARDS.register("choice")
@dataclass(frozen=True)
class Choice:
    r"""1 if the completion chooses the letter of the reference answer, else 0.

    The choice is the last \boxed{}, else the last <answer>, else the last `answer is B`, else a last line of one letter.
    A box that holds two letters, or `not B`, chooses nothing; nor does a question or `the answer is A or B`.
    """

    letters: str = "ABCDEFGHIJ"
    """Letters that can be chosen."""

    def __call__(self, completion: str, prompt: Prompt) -> Score:
        wanted = self._letter(prompt.answer)
        if wanted is None:
            return Score(value=None, status="unparseable", detail=f"reference answer {ascii(prompt.answer)[:200]}")
        found = self._chosen(completion)
        if found is None:
            return Score(value=0.0, parts={"format": 0.0}, detail="no letter is chosen")
        return Score(value=float(found == wanted), correct=found == wanted, parts={"format": 1.0})

    def answer(self, completion: str, prompt: Prompt) -> str | None:
        """The letter that was chosen."""
        return self._chosen(completion)

    def examples(self) -> Iterable[tuple[str, Prompt, float | None]]:
        first, second = self.letters[0], self.letters[1]
        prompt = Prompt(id="choice", source="examples", messages=(), answer=f"({second})")
        yield f"so \\boxed{{{second}}}", prompt, 1.0
        yield f"The answer is ({second}) because", prompt, 1.0
        yield f"\\boxed{{\\text{{({second}) }} 17}}", prompt, 1.0
        yield f"<answer>{first}</answer>", prompt, 0.0
        yield f"\\boxed{{{first} \\text{{ or }} {second}}}", prompt, 0.0
        yield f"\\boxed{{not {second}}}", prompt, 0.0
        yield f"The answer is {second} or {first}", prompt, 0.0
        yield f"Is the answer {second}? No.", prompt, 0.0
        yield f"A {second}ad idea", prompt, 0.0
        yield "\\boxed{" * 10_000, prompt, 0.0

    def _letter(self, text: str) -> str | None:
        """The one letter in a short text, apart from LaTeX commands and words."""
        if _DENIED.search(text):
            return None
        bare = re.sub(r"\\[a-zA-Z]+", " ", text)
        found = set(re.findall(rf"(?<![A-Za-z])[{re.escape(self.letters)}](?![A-Za-z])", bare))
        if not found:  # \boxed{b}
            alone = re.fullmatch(r"\W*([a-z])\W*", bare)
            found = {alone.group(1).upper()} & set(self.letters) if alone else set()
        return found.pop() if len(found) == 1 else None

    def _chosen(self, completion: str) -> str | None:
        completion = behind_reasoning(completion)
        for texts in (boxed(completion), tagged(completion)):
            if texts:
                return self._letter(texts[-1])
        if stated := list(_STATED.finditer(completion)):
            sure = [found[1] for found in stated if not _DOUBTED.match(completion, found.end())]
            return self._letter(sure[-1]) if sure else None
        lines = completion.strip().splitlines()
        return self._letter(lines[-1]) if lines and _ALONE.fullmatch(lines[-1]) else None

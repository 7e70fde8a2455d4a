"""Who is a knight and who is a knave?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import REWARDS
from posttrain.scoring.reading.boxed import boxed
from posttrain.scoring.reading.stated import TAIL, behind_reasoning, tagged

# Names are short, and blanks are never given back: the time grows with the text and not with its square.
_ROLE = re.compile(
    r"\b([A-Z][\w'-]{0,40})(?:\*\*|\})?(?:\s*+(?:is|:|=)|\s++-)\s*+(?:\\text\{\s*+)?(?:an?\s++|the\s++)?"
    r"\**+(not\s++(?:an?\s++)?)?(knight|knave)\b",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(r"(?:answer|conclusion|solution|therefore|summary)\b", re.IGNORECASE)


@REWARDS.register("knights_knaves")
@dataclass(frozen=True)
class KnightsKnaves:
    r"""1 if everybody is called what the reference says, else 0.

    Read in the last <answer>, else the last \boxed{}, else behind the last word such as `answer` or `conclusion`, else in the
    last lines, one for each person. Who is called both there is called neither.
    """

    def __call__(self, completion: str, prompt: Prompt) -> Score:
        wanted = _roles(prompt.answer)
        if not wanted or None in wanted.values():
            return Score(value=None, status="unparseable", detail=f"reference answer {ascii(prompt.answer)[:200]}")
        found = _roles(_final(completion, len(wanted)))
        hits = sum(found.get(name) == role for name, role in wanted.items())
        right = hits == len(wanted) and found.keys() == wanted.keys()
        parts = {"format": float(found.keys() == wanted.keys()), "people": hits / len(wanted)}
        return Score(value=float(right), correct=right, parts=parts)

    def answer(self, completion: str, prompt: Prompt) -> str | None:
        """Who is called what, in the order of the names; somebody called both is listed with both."""
        found = _roles(_final(completion, len(_roles(prompt.answer)) or 1))
        roles = [
            (name, role) for name, one in sorted(found.items()) for role in ([one] if one else ["knave", "knight"])
        ]
        return ", ".join(f"{name.capitalize()} is a {role}" for name, role in roles) or None

    def examples(self) -> Iterable[tuple[str, Prompt, float | None]]:
        answer = "(1) Zoey is a knave\n(2) Oliver is a knight"
        prompt = Prompt(id="kk", source="examples", messages=(), answer=answer)
        yield f"<think>Zoey is a knight?</think><answer>{answer}</answer>", prompt, 1.0
        yield "So Oliver is a knight and Zoey is a knave.", prompt, 1.0
        yield f"<answer>{answer.replace('knight', 'knave')}</answer>", prompt, 0.0
        yield "<answer>Zoey is a knave</answer>", prompt, 0.0
        yield f"<answer>{answer}\nZoey is a knight</answer>", prompt, 0.0
        yield "<answer>Zoey is not a knave, Oliver is a knight</answer>", prompt, 0.0
        yield "Zoey is a " * 50_000, prompt, 0.0
        yield "x", Prompt(id="kk", source="examples", messages=(), answer="?"), None


def _roles(text: str) -> dict[str, str | None]:
    """What each person is called; None for both."""
    found: dict[str, str | None] = {}
    for name, negated, role in _ROLE.findall(text):
        said = role.lower() if not negated else {"knight": "knave", "knave": "knight"}[role.lower()]
        key = name.lower()
        found[key] = said if found.get(key, said) == said else None
    return found


def _final(completion: str, people: int) -> str:
    completion = behind_reasoning(completion)
    for texts in (tagged(completion), boxed(completion)):
        if texts:
            return texts[-1][-TAIL:]
    tail = completion[-TAIL:]
    if marks := list(_CONCLUSION.finditer(tail)):
        return tail[marks[-1].end() :]
    kept: list[str] = []
    named: set[str] = set()
    for line in reversed(tail.splitlines()):
        if len(named) >= people:
            break
        if found := _roles(line).keys():
            named |= found
            kept.append(line)
    return "\n".join(kept)

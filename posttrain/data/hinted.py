"""Prompts with a hint in them: the beginning of a solution, or one that somebody wrote."""

from __future__ import annotations

from dataclasses import replace

from posttrain.data.types import Prompt

SENTENCE = (
    "The following text is the beginning part of the answer, which you can refer to for solving the problem:"  # GHPO's
)
WRITTEN = "Hint:"  # above one that is no beginning of anything


def prefix(text: str, fraction: float) -> str:
    """The first round(fraction * length) characters; a half is rounded to the even number."""
    return text[: round(fraction * len(text))]


def hinted(prompt: Prompt, text: str, sentence: str = SENTENCE) -> Prompt:
    """The prompt with a hint below its last user message, announced by a sentence."""
    last = max(i for i, message in enumerate(prompt.messages) if message["role"] == "user")
    message = prompt.messages[last]
    told = {**message, "content": f"{message['content']}\n{sentence}\n{text}"}
    return replace(prompt, messages=(*prompt.messages[:last], told, *prompt.messages[last + 1 :]), hint=text)

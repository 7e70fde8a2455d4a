"""Does the completion have the asked-for shape?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from posttrain.config.errors import ConfigError
from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import REWARDS


@REWARDS.register("format")
@dataclass(frozen=True)
class Format:
    """1 if the completion matches, else 0. Never counts as a correct answer.

    Give either `pattern`, a regular expression (`.` matches line breaks too), or `tags`, which must each
    open and close exactly once, in this order and outside one another.
    """

    pattern: str = ""
    """A regular expression."""
    tags: tuple[str, ...] = ()
    """Names of tags, for example [think, answer]."""
    whole: bool = True
    """The pattern must match the whole completion, or only tags and blanks may stand outside of the tags."""

    def __post_init__(self) -> None:
        if bool(self.pattern) == bool(self.tags):
            raise ConfigError("reward format takes either `pattern` or `tags`: give exactly one of them")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"reward format: pattern {self.pattern!r} is not a regular expression: {error}"
            ) from error

    def __call__(self, completion: str, prompt: Prompt) -> Score:
        return Score(value=float(self._tagged(completion) if self.tags else self._matches(completion)))

    def examples(self) -> Iterable[tuple[str, Prompt, float | None]]:
        prompt = Prompt(id="format", source="examples", messages=(), answer="")
        if self.tags:
            yield "\n".join(f"<{tag}>x</{tag}>" for tag in self.tags), prompt, 1.0
            yield f"<{self.tags[0]}>" * 10_000, prompt, 0.0
            yield "x", prompt, 0.0

    def _matches(self, completion: str) -> bool:
        compiled = re.compile(self.pattern, re.DOTALL)
        return (compiled.fullmatch(completion) if self.whole else compiled.search(completion)) is not None

    def _tagged(self, completion: str) -> bool:
        at = 0
        for tag in self.tags:
            begin, end = f"<{tag}>", f"</{tag}>"
            if completion.count(begin) != 1 or completion.count(end) != 1:
                return False
            start, stop = completion.find(begin), completion.find(end)
            if start < at or stop < start or (self.whole and completion[at:start].strip()):
                return False
            at = stop + len(end)
        return not (self.whole and completion[at:].strip())

"""A reward on its own examples and on input that has broken others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from posttrain.config.errors import ConfigError
from posttrain.data.facts import with_facts
from posttrain.data.types import Prompt, Score
from posttrain.scoring.outcome import told
from posttrain.scoring.scorer import Scorer

HOSTILE = {
    "an empty completion": "",
    "10^5 open braces": "\\boxed{" * 15_000 + "{" * 100_000,
    "10^5 nested braces": "\\boxed{" + "{" * 100_000 + "}" * 100_000 + "}",
    "a tower of powers": "<answer>9**9**9**9</answer> \\boxed{9**9**9**9}",
    "control characters and lone surrogates": "\\boxed{7\x00\ud800\udfff}",
    "a million digits": "\\boxed{" + "9" * 1_000_000 + "}",
    "code": "<answer>__import__('os')._exit(3)</answer> \\boxed{__import__('os')._exit(3)}",
}
# Where a reward has no examples, so that its hostile input is about something.
SOME = Prompt(id="hostile", source="test", messages=({"role": "user", "content": "What is 3 + 4?"},), answer="7")


@dataclass(frozen=True)
class Result:
    what: str
    found: str
    holds: bool
    example: bool


def trial(reward: Any, scorer: Scorer) -> Iterator[Result]:
    """Examples must get their values, and hostile input a verdict in time: not a time-out, an error or a reward.

    One of all these must get a value, but for guards, which give none.
    """
    examples = _examples(reward)
    about = examples[0][1] if examples else SOME
    items = [(completion, prompt) for completion, prompt, _ in examples]
    # what a run tells of every completion, with four characters to a token
    hostile = [(text, with_facts(about, range(len(text) // 4), False, None)) for text in HOSTILE.values()]
    scores = scorer.score([*items, *hostile])
    for (completion, _, expected), score in zip(examples, scores, strict=False):
        shown = ascii(completion[:50])
        holds = _same(score.value, expected)
        yield Result(f"example {shown}", _shown(score) + ("" if holds else f", expected {expected}"), holds, True)
    for name, score in zip(HOSTILE, scores[len(examples) :], strict=True):
        yield Result(name, _shown(score), score.status not in ("timeout", "error") and not score.correct, False)
    if all(score.status == "skipped" for score in scores) and not hasattr(reward, "overrule"):
        found = (
            "never: all were skipped. Does it return one? If it means to skip these, give it an example that it judges"
        )
        yield Result("a value", found, False, False)


def _examples(reward: Any) -> list[tuple[str, Prompt, float | None]]:
    try:
        found = list(reward.examples()) if hasattr(reward, "examples") else []
    except ConfigError:
        raise
    except Exception as error:  # somebody else's code
        raise ConfigError(f"examples() of {type(reward).__name__} does not run: {told(error)}. Mend it.") from error
    for i, entry in enumerate(found):
        if not (isinstance(entry, tuple) and len(entry) == 3 and isinstance(entry[1], Prompt)):
            raise ConfigError(
                f"examples() of {type(reward).__name__}: entry {i} is {str(entry)[:80]!r}; (completion, Prompt, expected "
                "value or None) is expected."
            )
    return found


def _same(value: float | None, expected: float | None) -> bool:
    """Equal but for the last digits: 0.1 + 0.2 is 0.3."""
    if value is None or expected is None:
        return value is expected
    return math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-9)


def _shown(score: Score) -> str:
    return f"{score.value}" if score.status == "ok" else f"{score.status} ({score.detail})"

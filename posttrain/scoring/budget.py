"""How many verdicts may fail before a run stops: a broken verifier must not look like a bad model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from posttrain.data.types import Prompt, Score

FAILURES = ("timeout", "error", "unparseable")  # "skipped" is a reward's decision, not a failure


class ScoringFailed(RuntimeError):
    """Too many completions of a step could not be judged; the run stops."""


def rates(scores: Sequence[Score]) -> dict[str, float]:
    """Share of all failures and of each kind, for the metrics of every step."""
    kinds = Counter[str](score.status for score in scores)
    total = max(len(scores), 1)
    failed = sum(kinds[kind] for kind in FAILURES)
    return {"failed": failed / total} | {kind: kinds[kind] / total for kind in (*FAILURES, "skipped")}


def check(
    scores: Sequence[Score],
    keys: Sequence[Hashable],
    max_failed: float,
    items: Sequence[tuple[str, Prompt]] | None = None,
) -> None:
    """Raises `ScoringFailed` when the share of failed verdicts is above the budget.

    `items` are the judged (completion, prompt) pairs in the same order; with them the message shows the
    first.
    """
    failed = [i for i, score in enumerate(scores) if score.status in FAILURES]
    if not failed or len(failed) <= max_failed * len(scores):
        return
    first = failed[0]
    kinds = Counter(scores[i].status for i in failed)
    how = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    lines = [
        f"{len(failed)} of {len(scores)} completions ({len(failed) / len(scores):.1%}) could not be judged, "
        f"above scoring.max_failed = {max_failed:g} ({how})",
        f"first: sample {keys[first]!r}, {scores[first].status}: {scores[first].detail or 'no detail'}",
    ]
    if items is not None:
        completion, prompt = items[first]
        lines.append(f"problem {prompt.id!r} from {prompt.source!r}, answer {_excerpt(prompt.answer)}")
        lines.append(f"completion ends: {_excerpt(completion)}")
    raise ScoringFailed("\n  ".join([*lines, _advice(kinds.most_common(1)[0][0])]))


def _excerpt(text: str, limit: int = 200) -> str:
    # the end of a completion holds the answer; ascii() keeps control characters and lone surrogates printable
    return ascii(text if len(text) <= limit else "..." + text[-limit:])


def _advice(kind: str) -> str:
    return {
        "timeout": "raise scoring.timeout or scoring.workers, or make the reward refuse such input quickly",
        "error": "correct the reward; the detail above is what it raised",
        "unparseable": "correct or drop the problems whose reference answer the reward cannot read",
    }[kind]

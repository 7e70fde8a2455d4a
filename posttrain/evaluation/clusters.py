"""Which samples of a question gave the same answer: equal strings first, then equal mathematics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.data.types import Prompt, Score
from posttrain.evaluation.answers import Grader, restate
from posttrain.scoring.reading.answers import number, plain, tight

RIGHT = 0
Pair = tuple[str, str]
Equivalent = Callable[[list[Pair]], list[bool]]


def cluster(rows: Sequence[Mapping[str, Any]], equivalent: Equivalent) -> list[int | None]:
    """One id for each sample of a question, in their order: `metrics.maj_at_k` takes them with `RIGHT` as the right answer.

    Read of each row: `correct`, `extracted` (text or None), and `status` where there is one. Id 0 is every sample that was
    judged right, whatever its answer looks like: the verifier of record has compared it with the reference. None is a
    sample without an answer. The rest are 1, 2, .. by size, the first seen first among equals; answers that differ only
    in blanks and dollar signs are the same string. An answer for which there is no verdict counts as right where another
    sample with the same string was.

    `equivalent` is asked about pairs of different strings, many at once, and never about right answers: a wrong one has
    been found unequal to the reference. Every cluster is a star: its members are equal to its most frequent string. So
    an equality that does not hold transitively (1.00, 1.04, 1.08 with a tolerance) cannot chain answers together that
    are not equal themselves, and the outcome does not depend on the order of the pairs. Strings n and clusters c cost c
    calls and at most n x c pairs.
    """
    forms = [_form(row) for row in rows]
    right = {form for form, row in zip(forms, rows, strict=True) if row["correct"] and form is not None}
    ids: list[int | None] = [
        RIGHT if row["correct"] or (form in right and row.get("status", "ok") != "ok") else None
        for form, row in zip(forms, rows, strict=True)
    ]
    shown: dict[str, str] = {}  # of each wrong string, as it was first written
    counts: dict[str, int] = {}
    for form, row, one in zip(forms, rows, ids, strict=True):
        if form is not None and one is None:
            shown.setdefault(form, row["extracted"].strip())
            counts[form] = counts.get(form, 0) + 1
    wrong = {form: star for star in _stars(shown, counts, equivalent) for form in star}
    sizes = {star[0]: sum(counts[form] for form in star) for star in wrong.values()}
    numbered = {lead: i for i, lead in enumerate(sorted(sizes, key=lambda lead: -sizes[lead]), RIGHT + 1)}
    return [
        one if one is not None or form is None else numbered[wrong[form][0]]
        for form, one in zip(forms, ids, strict=True)
    ]


def equivalence(grader: Grader, score: Callable[[list[tuple[str, Prompt]]], list[Score]]) -> Equivalent:
    """Whether two answers are the same thing to a grader: each is restated as a completion and judged by the other.

    `score` is `Scorer.score`, so that a pair that takes for ever costs its time limit and is unequal. One direction is
    enough: a grader may read as an answer what it cannot read as a reference. Whole numbers and fractions are compared
    without it where mathematics decides.
    """
    settings = {"use": grader} if isinstance(grader, str) else grader
    exact = settings["use"] == "math" and not settings.get("tolerance")

    def equivalent(pairs: list[Pair]) -> list[bool]:
        verdicts = [_numbers(*pair) if exact else None for pair in pairs]
        asked = [i for i, verdict in enumerate(verdicts) if verdict is None]
        items = [
            (i, item) for i in asked for one, two in (pairs[i], pairs[i][::-1]) for item in [_item(grader, one, two)]
        ]
        known = [(i, item) for i, item in items if item is not None]
        judged = score([item for _, item in known]) if known else []
        equal = {i for (i, _), verdict in zip(known, judged, strict=True) if verdict.correct}
        return [i in equal if verdict is None else verdict for i, verdict in enumerate(verdicts)]

    return equivalent


def _form(row: Mapping[str, Any]) -> str | None:
    answer = row["extracted"]
    return (tight(answer) or answer.strip() or None) if answer is not None else None


def _stars(shown: Mapping[str, str], counts: Mapping[str, int], equivalent: Equivalent) -> list[list[str]]:
    """Groups of strings, each with the one first that the others are equal to: the most frequent that was left."""
    left = sorted(shown, key=lambda form: -counts[form])  # stable: the first seen first among equals
    stars = []
    while left:
        lead, rest = left[0], left[1:]
        verdicts = equivalent([(shown[lead], shown[form]) for form in rest]) if rest else []
        stars.append([lead, *(form for form, same in zip(rest, verdicts, strict=True) if same)])
        left = [form for form, same in zip(rest, verdicts, strict=True) if not same]
    return stars


def _numbers(one: str, two: str) -> bool | None:
    """Of two numbers that are written exactly whether they are equal; None for anything else, decimals too."""
    a, b = number(plain(one)), number(plain(two))
    return a[0] == b[0] if a is not None and b is not None and a[1] and b[1] else None


def _item(grader: Grader, reference: str, answer: str) -> tuple[str, Prompt] | None:
    completion = restate(grader, answer)
    return None if completion is None else (completion, Prompt(id="", source="", messages=(), answer=reference))

"""Two models on the same questions: how far apart they are, how sure that is, and which questions flipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.config.errors import ConfigError
from posttrain.evaluation.benchmarks import Question
from posttrain.evaluation.chances import question_means
from posttrain.evaluation.pages.completions import Source
from posttrain.evaluation.pages.found import read
from posttrain.evaluation.spread import Difference, Over, paired_difference
from posttrain.evaluation.store import differing
from posttrain.evaluation.summary import verdicts
from posttrain.evaluation.table import doubts

SETTINGS = ("protocol", "seed", "context", "dtype", "tensor_parallel", "batch_invariant", "timeout", "environment")


@dataclass(frozen=True)
class Flip:
    """A question whose samples are mostly right on one side, and not on the other."""

    question: str
    a: tuple[int, int]  # right, judged
    b: tuple[int, int]

    @property
    def gained(self) -> bool:
        return self.b[0] * self.a[1] > self.a[0] * self.b[1]


@dataclass(frozen=True)
class Paired:
    """One benchmark. `difference` is B minus A; None where a single question with a single sample says nothing."""

    benchmark: str
    questions: dict[str, Question]  # those on both sides
    a: float
    b: float
    difference: Difference | None
    flips: list[Flip]
    left_out: list[str]  # in words


@dataclass(frozen=True)
class Comparison:
    a: Source
    b: Source
    benchmarks: list[Paired]
    remarks: list[str]  # what else differs, or was left out


def compare(a: str, b: str) -> Comparison:
    """`a` and `b`: folders of evaluations, or FOLDER:MODEL where one holds several models.

    Raises ConfigError where there is nothing in common, and where a question of one id is another one on the other side.
    """
    left, right = _source(a), _source(b)
    if (left.found.folder.resolve(), left.model) == (right.found.folder.resolve(), right.model):
        raise ConfigError(f"{a} and {b} are the same model of the same evaluation: name two")
    names = [_name(left, right), _name(right, left)]
    left, right = Source(names[0], left.found, left.model), Source(names[1], right.found, right.model)
    both = [x for x in left.found.benchmarks if left.found.result(left.model, x) and right.found.result(right.model, x)]
    if not both:
        raise ConfigError(
            f"{a} and {b} have no benchmark in common: {_benchmarks(left)} on one side, {_benchmarks(right)} on the other. "
            "Evaluate both on the same: --bench"
        )
    remarks = [
        f"{name} was evaluated on one side only: left out"
        for name in dict.fromkeys([*_of(left), *_of(right)])
        if name not in both
    ]
    remarks += [f"other settings: {text}" for text in differing(_settings(left, both), _settings(right, both))]
    remarks += [text for side in (left, right) for text in _doubts(side, both)]
    return Comparison(left, right, [_paired(left, right, name) for name in both], remarks)


def _source(side: str) -> Source:
    folder, model = Path(side), ""
    if not folder.is_dir() and ":" in side:
        before, _, model = side.rpartition(":")
        folder = Path(before)
    found = read(folder)
    ready = [key for key, entry in found.models.items() if entry.get("benchmarks")]
    if model and model not in ready:
        raise ConfigError(f"{side}: {folder} has no results of a model {model!r}, but of {', '.join(ready) or 'none'}")
    if not model and len(ready) != 1:
        told = ", ".join(f"{folder}:{key}" for key in ready)
        raise ConfigError(f"{folder} has results of {len(ready)} models. Name one" + (f": {told}" if told else ""))
    key = model or ready[0]
    return Source(key, found, key)


def _name(own: Source, other: Source) -> str:
    """The model's key; with its folder where both have the same."""
    return own.model if own.model != other.model else f"{own.model} in {own.found.folder}"


def _of(source: Source) -> list[str]:
    return [name for name in source.found.benchmarks if source.found.result(source.model, name)]


def _benchmarks(source: Source) -> str:
    return ", ".join(_of(source)) or "none"


def _settings(source: Source, benchmarks: Sequence[str]) -> Mapping[str, object]:
    """All that decides a score, but for the models and the questions: those are compared one by one."""
    asked = source.found.asked
    graders = {one["name"]: one.get("grader") or {} for one in asked.get("benchmarks", ())}
    return {
        **{key: asked.get(key) for key in SETTINGS},
        "grader": {name: {key: graders.get(name, {}).get(key) for key in ("use", "code")} for name in benchmarks},
    }


def _doubts(source: Source, benchmarks: Sequence[str]) -> list[str]:
    """Why the numbers of one side must be taken with care."""
    failed = source.found.models[source.model].get("failed")
    out = [f"{source.name} failed, and what is there of it may be a part: {failed}"] if failed else []
    for name in benchmarks:
        result = source.found.result(source.model, name) or {}
        out += [f"{source.name}, {name}: {text}" for _, text in doubts(result)]
    return out


def _paired(left: Source, right: Source, name: str) -> Paired:
    questions, others = left.found.questions(name), right.found.questions(name)
    shared = {id: question for id, question in questions.items() if id in others}
    if changed := [id for id, q in shared.items() if (q.problem, q.gold) != (others[id].problem, others[id].gold)]:
        raise ConfigError(
            f"{name}: {len(changed)} of its questions have the same id on both sides and another problem or reference answer, "
            f"the first {changed[0]!r}. These are different question sets; evaluate both models on the same one"
        )
    if not shared:
        raise ConfigError(f"{name}: the two evaluations have no question in common, so there is nothing to pair")
    a, b = (verdicts(source.found.samples(source.model, name)) for source in (left, right))
    judged = [id for id in shared if a.get(id) and b.get(id)]
    if not judged:
        raise ConfigError(f"{name}: no question has a verdict on both sides, so there is nothing to pair")
    missing = [
        (len(questions) - len(shared), f"of {left.name} not among the other's"),
        (len(others) - len(shared), f"of {right.name} not among the other's"),
        (len(shared) - len(judged), "without a verdict on one side"),
    ]
    scores = [a[id] for id in judged], [b[id] for id in judged]
    means = [float(question_means(side).mean()) for side in scores]
    over = _over(len(judged), max(len(of) for side in scores for of in side))
    difference = paired_difference(scores[1], scores[0], over) if over else None
    flips = [Flip(id, (sum(a[id]), len(a[id])), (sum(b[id]), len(b[id]))) for id in judged]
    return Paired(
        benchmark=name,
        questions={id: shared[id] for id in judged},
        a=means[0],
        b=means[1],
        difference=difference,
        flips=[flip for flip in flips if _mostly(flip.a) != _mostly(flip.b)],
        left_out=[f"{count} question{'s' * (count > 1)} {words}: left out" for count, words in missing if count],
    )


def _over(questions: int, samples: int) -> Over | None:
    if questions > 1:
        return "both" if samples > 1 else "questions"
    return "samples" if samples > 1 else None


def _mostly(share: tuple[int, int]) -> bool:
    return 2 * share[0] > share[1]

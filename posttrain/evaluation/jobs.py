"""What an evaluation has to do: one job for each sample of each question, with a seed of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from posttrain.rollout.sampler import sample_seed


@dataclass(frozen=True, slots=True)
class Job:
    """One completion to sample: of which benchmark and question, its number there, and the sampler's seed."""

    bench: str
    question: str
    sample: int
    seed: int


def job(seed: int, bench: str, question: str, sample: int) -> Job:
    """The seed depends on nothing else: not on the model, on other questions, or on how many samples there are."""
    return Job(bench, question, sample, sample_seed(seed, f"bench/{bench}", question, sample))


def jobs(seed: int, bench: str, questions: Iterable[str], samples: int) -> list[Job]:
    """All samples of all questions, those of a question one after the other so that they share its prefill."""
    return [job(seed, bench, question, sample) for question in questions for sample in range(samples)]


def dealt(left: Sequence[Job], engines: int) -> list[int]:
    """The engine of each job: questions are dealt out in turn, and all samples of one go to the same engine."""
    turns: dict[tuple[str, str], int] = {}
    return [turns.setdefault((one.bench, one.question), len(turns)) % engines for one in left]

"""Samples a model on benchmarks: jobs to engines, completions to verifiers, every verdict to the store at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.data.types import Prompt, Score
from posttrain.evaluation.answers import Grader, extract
from posttrain.evaluation.jobs import Job, dealt, jobs
from posttrain.evaluation.judges import Judges
from posttrain.evaluation.rows import Row, digest, sample_row
from posttrain.evaluation.store import Store
from posttrain.rollout.engine import Completion, EngineError, Interrupted, Request, Sampling
from posttrain.rollout.fleet import Fleet

Report = Callable[[int, int], None]  # samples done in this sitting, and how many there are to do
NAP = 0.005  # seconds between looks at the verifiers when nothing else is left to do


@dataclass(frozen=True)
class Bench:
    """A benchmark as one model gets it: its problems as prompts and as token ids, by question."""

    name: str
    grader: Grader
    samples: int
    prompts: Mapping[str, Prompt]
    ids: Mapping[str, Sequence[int]]

    def jobs(self, seed: int) -> list[Job]:
        return jobs(seed, self.name, self.prompts, self.samples)


@dataclass(frozen=True)
class Sitting:
    """What all benchmarks of one model have in common."""

    model: str
    benches: Mapping[str, Bench]
    store: Store
    judges: Judges
    decode: Callable[[Any], str]  # token ids -> text
    sampling: Sampling
    context: int
    seed: int

    def left(self) -> list[Job]:
        """The jobs that have no row yet."""
        out = []
        for bench in self.benches.values():
            finished = self.store.finished(self.model, bench.name)
            out += [one for one in bench.jobs(self.seed) if (one.question, one.sample) not in finished]
        return out

    def refuse(self, left: Iterable[Job]) -> list[Job]:
        """Writes the rows of prompts that leave no room for an answer; returns the other jobs."""
        kept = []
        for one in left:
            size = len(self.benches[one.bench].ids[one.question])
            if size < self.context:
                kept.append(one)
                continue
            detail = f"the prompt has {size} tokens, and the context of {self.context} leaves no room for an answer"
            refused = Score(value=None, status="skipped", detail=detail)
            row = sample_row(sample=one.sample, seed=one.seed, text="", tokens=0, finish="refused", score=refused)
            self._write(one, {**row, "extracted": None})
        return kept

    def requests(self, left: Sequence[Job], engines: int) -> list[list[Request]]:
        """For each engine; the key of a request is the job's place in `left`."""
        shares: list[list[Request]] = [[] for _ in range(engines)]
        for key, (one, engine) in enumerate(zip(left, dealt(left, engines), strict=True)):
            ids = self.benches[one.bench].ids[one.question]
            shares[engine].append(Request(key=key, prompt_ids=ids, seed=one.seed))
        return shares

    def run(self, fleet: Fleet, left: Sequence[Job], report: Report) -> None:
        """Every job to its row. An error of an engine is raised when all that was finished before it is written."""
        waiting: dict[int, tuple[Completion, str]] = {}

        def collect() -> None:
            for key, score in self.judges.ready():
                self._judged(left[key], *waiting.pop(key), score)

        counted = 0
        failure: Exception | None = None
        try:
            for completion in fleet.stream(self.requests(left, len(fleet.engines)), self.sampling):
                if completion is not None:
                    counted += 1
                    waiting[completion.key] = completion, self.decode(completion.token_ids)
                    self._submit(left[completion.key], completion.key, waiting[completion.key][1])
                collect()
                report(counted - len(waiting), len(left))
        except (EngineError, Interrupted) as error:
            failure = error
        while waiting:
            collect()
            report(counted - len(waiting), len(left))
            time.sleep(NAP)
        if failure is not None:
            raise failure

    def _submit(self, one: Job, key: int, text: str) -> None:
        bench = self.benches[one.bench]
        self.judges.submit(key, text, bench.prompts[one.question], bench.grader)

    def _judged(self, one: Job, completion: Completion, text: str, score: Score) -> None:
        bench = self.benches[one.bench]
        row = sample_row(
            sample=one.sample,
            seed=one.seed,
            text=text,
            tokens=len(completion.token_ids),
            finish=completion.finish,
            score=score,
        )
        # What the verifier could not bear is not read here either, where nothing stops it.
        lost = score.status in ("timeout", "error")
        answer = None if lost else extract(bench.grader, text, bench.prompts[one.question])
        self._write(one, {**row, "extracted": answer, "digest": digest(completion.token_ids)})

    def _write(self, one: Job, row: Row) -> None:
        self.store.append(self.model, one.bench, {"question": one.question, **row})

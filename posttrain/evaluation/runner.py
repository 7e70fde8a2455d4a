"""Evaluation during training, with the engine and the verifiers of the run: held-out problems, and benchmarks beside."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.config.errors import ConfigError
from posttrain.data.types import Group, Prompt
from posttrain.evaluation import benchmarks
from posttrain.evaluation.chances import pass_at_k
from posttrain.evaluation.metrics import rates
from posttrain.evaluation.rows import Row, sample_row
from posttrain.evaluation.summary import accuracy, verdicts
from posttrain.rollout.engine import Sampling
from posttrain.rollout.sampler import Sampler

Messages = Callable[[str], tuple[dict[str, str], ...]]


@dataclass(frozen=True)
class Evaluation:
    """What came out: one row per completion, and the mean over problems of the share of right completions (avg@n)."""

    rows: list[Row]
    accuracy: float
    problems: int
    unjudged: int
    first_unjudged: str = ""

    def measures(self) -> dict[str, float]:
        """By the name that metrics.jsonl has behind `eval/`: accuracy, pass_at_k, truncated, unjudged."""
        found = {"accuracy": self.accuracy, "unjudged": float(self.unjudged)}
        if self.rows:
            found["truncated"] = rates(self.rows).truncated
        judged = [of for of in verdicts(self.rows, "problem_id").values() if of]
        k = min((len(of) for of in judged), default=0)
        if k > 1:
            found["pass_at_k"] = sum(pass_at_k(len(of), sum(of), k) for of in judged) / len(judged)
        return found


@dataclass
class HeldOut:
    """The same problems and the same seeds every time, so that two evaluations of one run are paired.

    `bench` is the name of the benchmark that the problems are from, empty for the held-out ones of the task. It enters
    the tag of the seeds, which is none that training uses.
    """

    problems: Sequence[Prompt]
    samples: int
    sampling: Sampling
    bench: str = ""

    def __call__(self, sampler: Sampler) -> Evaluation:
        tag = f"eval/{self.bench}" if self.bench else "eval"
        groups = sampler.sample(self.problems, self.samples, self.sampling, tag)
        rows = [row for group in groups for row in _rows(group)]
        unjudged = [row for row in rows if row["status"] != "ok"]
        first = "{problem_id}: {status}, {detail}".format(**unjudged[0]) if unjudged else ""
        return Evaluation(rows, mean_accuracy(rows) or 0.0, len(groups), len(unjudged), first)


def load_benchmarks(names: Sequence[str], messages: Messages, judged_by: Collection[str]) -> dict[str, list[Prompt]]:
    """The problems of benchmarks by name, as the recipe's chat puts them.

    `judged_by` are the names of the recipe's rewards. Raises ConfigError, with the recipe's key, also for a benchmark whose
    own grader is none of them: what others say of its answers is no score.
    """
    if not names:
        return {}
    try:
        found = benchmarks.load_all(names)
    except ConfigError as error:
        raise ConfigError(f"eval.bench: {error}") from None
    for bench in found:
        if bench.stated and bench.grader not in judged_by:
            raise ConfigError(
                f"eval.bench: {bench.name} is judged by {bench.grader}, and the recipe's rewards are "
                f"{', '.join(sorted(judged_by))}. Add {bench.grader} to `reward`, evaluate checkpoints with `posttrain "
                "eval`, or name a file of its problems as file:PATH, which the recipe's rewards judge as they are"
            )
    return {bench.name: [question.prompt(messages) for question in bench.questions] for bench in found}


def mean_accuracy(rows: Sequence[Row]) -> float | None:
    """avg@n: the share of right completions of each problem, averaged over problems; None where nothing was judged."""
    return accuracy(rows, "problem_id")


def write(path: Path, rows: Sequence[Row]) -> None:
    """One Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([_encodable(row) for row in rows]), path, compression="zstd")


def read(path: Path) -> list[Row]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist() if path.is_file() else []


def _rows(group: Group) -> list[Row]:
    prompt = group.prompt
    about = {
        "problem_id": prompt.id,
        "source": prompt.source,
        "level": prompt.level,
        "prompt": prompt.messages[-1]["content"],
        "answer": prompt.answer,
    }
    return [
        about
        | sample_row(
            sample=index,
            seed=r.seed,
            text=r.text,
            tokens=len(r.response_ids),
            finish=r.finish,
            score=r.score,
        )
        for index, r in enumerate(group.rollouts)
    ]


def _encodable(row: Row) -> Row:
    """A sampled token can be half a surrogate pair, which UTF-8 refuses."""
    return {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in row.items()}


def named(found: Mapping[str, Evaluation]) -> dict[str, float]:
    """The measures of several evaluations, those of a benchmark behind its name: `eval/accuracy`, `eval/amc23/accuracy`."""
    return {
        f"eval/{bench}/{key}" if bench else f"eval/{key}": value
        for bench, one in found.items()
        for key, value in one.measures().items()
    }

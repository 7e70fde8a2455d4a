"""Accuracy on held-out problems, with the engine and the verifier that training uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.data.types import Group, Prompt
from posttrain.rollout.engine import Sampling
from posttrain.rollout.sampler import Sampler

Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What came out: one row per completion, and the mean over problems of the share of right completions (avg@n)."""

    rows: list[Row]
    accuracy: float
    problems: int
    unjudged: int
    first_unjudged: str = ""


@dataclass
class HeldOut:
    """The same problems and the same seeds every time, so that two evaluations of one run are paired."""

    problems: Sequence[Prompt]
    samples: int
    sampling: Sampling

    def __call__(self, sampler: Sampler) -> Evaluation:
        groups = sampler.sample(self.problems, self.samples, self.sampling, "eval")
        rows = [row for group in groups for row in _rows(group)]
        unjudged = [row for row in rows if row["status"] != "ok"]
        first = "{problem_id}: {status}, {detail}".format(**unjudged[0]) if unjudged else ""
        return Evaluation(rows, mean_accuracy(rows) or 0.0, len(groups), len(unjudged), first)


def mean_accuracy(rows: Sequence[Row]) -> float | None:
    """avg@n: the share of right completions of each problem, averaged over problems; None without rows."""
    by_problem: dict[str, list[bool]] = {}
    for row in rows:
        by_problem.setdefault(row["problem_id"], []).append(bool(row["correct"]))
    shares = [sum(right) / len(right) for right in by_problem.values()]
    return sum(shares) / len(shares) if shares else None


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
    out = []
    for index, r in enumerate(group.rollouts):
        score = r.score
        out.append(
            {
                "problem_id": prompt.id,
                "source": prompt.source,
                "level": prompt.level,
                "sample": index,
                "prompt": prompt.messages[-1]["content"],
                "completion": r.text,
                "answer": prompt.answer,
                "correct": score is not None and score.correct,
                "reward": None if score is None or score.value is None else float(score.value),
                "status": "skipped" if score is None else score.status,
                "detail": "" if score is None else score.detail,
                "tokens": len(r.response_ids),
                "finish": r.finish,
                "seed": r.seed,
            }
        )
    return out


def _encodable(row: Row) -> Row:
    """A sampled token can be half a surrogate pair, which UTF-8 refuses."""
    return {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in row.items()}

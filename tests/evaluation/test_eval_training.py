"""Evaluation during training: benchmarks beside the held-out problems, the best checkpoint, and no trace in the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.evaluation.best import best_of
from posttrain.evaluation.runner import read
from posttrain.rollout.sampler import sample_seed
from tests.conftest import SMALL

pytestmark = pytest.mark.slow
KEPT = ("reward/", "rollout/", "policy/", "loss/", "learn/", "groups/")


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def trained(run: Path) -> list[dict[str, Any]]:
    """What the training did, without what was measured beside it and how long it took."""
    return [
        {k: v for k, v in line.items() if k.startswith(KEPT) and "per_second" not in k and "seconds" not in k}
        for line in metrics(run)
    ]


def test_evaluations_pick_the_best_checkpoint_and_leave_the_training_alone(posttrain: Any, tmp_path: Path) -> None:
    rows = [{"id": f"s{i}", "problem": f"{i}+2=", "answer": str(i + 2)} for i in range(6)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["train", "quickstart", *SMALL, "steps=4", "checkpoint.every=3", "checkpoint.keep=1"]
    watched = ["eval.every=1", "eval.samples=2", f"eval.bench=[file:{tmp_path}/sums.jsonl]", "eval.best=sums/pass_at_k"]
    done = posttrain(*asked, *watched, "output=watched", timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    plain = posttrain(*asked, "eval.before=false", "eval.after=false", "eval.every=0", "output=plain", timeout=500)
    assert plain.returncode == 0, plain.stdout[-2000:] + plain.stderr[-3000:]
    run = tmp_path / "watched"
    assert trained(run) == trained(tmp_path / "plain")

    lines = metrics(run)
    assert all({"eval/accuracy", "eval/sums/accuracy", "eval/sums/pass_at_k"} <= line.keys() for line in lines)
    best = json.loads((run / "best.json").read_text())
    found = best_of(lines, "sums/pass_at_k", range(1, 5))
    assert found is not None
    assert (best["step"], best["value"], best["metric"]) == (found.step, found.value, "sums/pass_at_k")
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == sorted({f"step-{found.step:05d}", "step-00004"})
    assert (tmp_path / best["checkpoint"] / "manifest.json").is_file()

    samples = read(run / "evals" / "sums" / "step-00002.parquet")
    assert [(row["problem_id"], row["sample"]) for row in samples] == [(f"s{i}", j) for i in range(6) for j in range(2)]
    assert {row["seed"] for row in samples} == {
        sample_seed(0, "eval/sums", f"s{i}", j) for i in range(6) for j in range(2)
    }

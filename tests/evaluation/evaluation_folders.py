"""Folders of evaluations with made-up samples, in the form in which `posttrain eval` leaves them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.evaluation.store import Store
from posttrain.evaluation.summary import summarize

ENVIRONMENT = {
    "posttrain": "0.1.0",
    "vllm": "0.25.1",
    "python": "3.11.2",
    "hardware": {"processor": "a processor", "cores": 2, "memory_gib": 8, "gpus": []},
}
PROTOCOL = {"name": "greedy", "about": "one answer", "sampling": {"temperature": 0.0, "max_tokens": 64}, "seed": 0}


def question(id: str, **more: Any) -> dict[str, Any]:
    n = int(id.rpartition("/")[2])
    return {
        "question": id,
        "problem": f"What is ${n}+1$?",
        "gold": str(n + 1),
        "level": n % 3 + 1,
        "source": "",
        **more,
    }


def sample(id: str, number: int, correct: bool, **more: Any) -> dict[str, Any]:
    n = int(id.rpartition("/")[2])
    said = str(n + 1 if correct else 0)
    row = {"question": id, "sample": number, "seed": 2**63 + number, "completion": f"So \\boxed{{{said}}}."}
    row |= {"extracted": said, "correct": correct, "reward": float(correct), "status": "ok", "detail": ""}
    return {**row, "tokens": 9, "finish": "stop", "format": True, "parsed": True, **more}


def drawn(bench: str, questions: int, samples: int, skill: float, seed: int = 0) -> list[dict[str, Any]]:
    """Samples of questions of growing difficulty."""
    rng = random.Random(f"{bench}/{seed}")
    ids = [f"{bench}/{n}" for n in range(questions)]
    return [
        sample(id, s, rng.random() < skill * (1 - n / max(questions, 1)) ** 0.5)
        for n, id in enumerate(ids)
        for s in range(samples)
    ]


def write_folder(
    folder: Path,
    samples: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
    questions: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    *,
    failed: Mapping[str, str] | None = None,
    calibration: Mapping[str, Any] | None = None,
    protocol: Mapping[str, Any] = PROTOCOL,
    environment: Mapping[str, Any] = ENVIRONMENT,
    code: str = "c0de",
    **settings: Any,
) -> Path:
    """`samples`: by model and benchmark. Questions are made up from the samples' ids where they are not given; `code` is
    the hash of the grader, `settings` are other parts of what was asked."""
    benches = list(dict.fromkeys(name for of in samples.values() for name in of))
    models = [{"key": key, "path": f"runs/{key}", "kind": "checkpoint", "hash": "5ha" * 4} for key in samples]
    graded = [{"name": name, "grader": {"use": "math", "code": code}} for name in benches]
    asked = {"models": models, "benchmarks": graded, "protocol": protocol, "seed": 3, **settings}
    with Store(folder) as store:
        store.open({**asked, "environment": environment})
        for name in benches:
            ids = dict.fromkeys(str(row["question"]) for of in samples.values() for row in of.get(name, ()))
            store.write_questions(name, (questions or {}).get(name) or [question(id) for id in ids])
        entries = {}
        for key, of in samples.items():
            made = {name: _result(store, key, name, rows) for name, rows in of.items()}
            if calibration:
                made = {name: {**result, "calibration": calibration} for name, result in made.items()}
            entries[key] = {"path": f"runs/{key}", "hash": "5ha" * 4, "failed": None, "benchmarks": made}
        for key, reason in (failed or {}).items():
            entries[key] = {"path": f"runs/{key}", "hash": None, "failed": reason, "benchmarks": {}}
        store.write_results({"protocol": protocol["name"], "environment": environment, "models": entries})
    return folder


def _result(store: Store, key: str, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    clusters: dict[str, list[int | None]] = {}
    for row in rows:
        store.append(key, name, row)
        of = None if row["extracted"] is None else 0 if row["correct"] else 1 + sum(map(ord, row["extracted"]))
        clusters.setdefault(str(row["question"]), []).append(of)
    store.write_clusters(key, name, clusters)
    return summarize(rows, clusters, max_failed=0.02)

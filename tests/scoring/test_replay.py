"""Too many failed verdicts stop a run; its message holds the command that judges the first of them alone."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from posttrain.config.load import load_recipe
from posttrain.data.facts import with_facts
from posttrain.data.types import Group, Prompt, Rollout
from posttrain.run import Run
from posttrain.scoring.columns import columns_of, prompt_of
from posttrain.scoring.scorer import scorer_of
from posttrain.telemetry.guards import Guards, RunStopped
from posttrain.telemetry.metrics import RATES, StepMetrics
from posttrain.telemetry.sinks import RunFolder

STEP = 3
REWARD = """
import time
from posttrain.scoring.api import Outcome

def fussy(completion, answer, unit, tokens, training_step, **columns):
    if completion == "raise":
        raise ValueError(f"{unit}, {tokens} tokens, step {training_step}")
    if completion == "sleep":
        time.sleep(300)
    if completion == "unparseable":
        return Outcome(None, "unparseable", "what is that?")
    return None if completion == "skip" else float(completion == answer)
"""
RECIPE = """
extends: quickstart
warmup: false
task: {use: dataset, path: rows.jsonl, columns: [unit]}
reward:
  correct: {use: fussy, weight: {use: linear, start: 0, end: 6, steps: 6}}
scoring: {timeout: 1.0}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a reward and a recipe."""
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "fussy.py").write_text(REWARD)
    (tmp_path / "my run.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def step_of(recipe: Any, *completions: str) -> StepMetrics:
    """The metrics of one group, judged as a run judges it."""
    prompt = Prompt(
        id="p1", source="t", messages=({"role": "user", "content": "q"},), answer="7", columns={"unit": "cm"}
    )
    ids = np.arange(3)
    with scorer_of(recipe) as scorer:
        scores = scorer.score([(text, with_facts(prompt, ids, False, STEP)) for text in completions])
    logp = np.zeros(3, dtype=np.float32)
    rows = [
        Rollout(prompt_ids=ids, response_ids=ids, sampler_logp=logp, text=text, score=score, seed=i)
        for i, (text, score) in enumerate(zip(completions, scores, strict=True))
    ]
    metrics = StepMetrics(STEP + 1)
    metrics.groups([Group(prompt=prompt, rollouts=tuple(rows))])
    return metrics


def record(loaded: Any, out: Path, metrics: StepMetrics) -> None:
    """What a run does at the end of a step, with its folder and its alarms."""
    run = SimpleNamespace(
        recipe=loaded.recipe,
        folder=RunFolder(out),
        guards=Guards(max_tokens=64, max_failed=loaded.recipe.scoring.max_failed),
        console=SimpleNamespace(step=lambda *_: None),
        sampled=[],
    )
    run._replayable = lambda notes: Run._replayable(run, notes)  # type: ignore[arg-type]
    run.folder.write_text("recipe.yaml", loaded.yaml())
    Run.record(run, STEP + 1, metrics, [])  # type: ignore[arg-type]


def replayed(message: str, folder: Path) -> dict[str, Any]:
    """What the command in the message prints, from another process."""
    (command,) = re.findall(r"Replay it alone: `(.*?)`", message)
    program, *arguments = shlex.split(command)
    assert program == "posttrain"
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "posttrain", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    return dict(row)


def test_every_rate_is_logged_even_when_nothing_failed(folder: Path) -> None:
    recipe = load_recipe("my run.yaml").recipe
    result = step_of(recipe, "7", "8").result()
    assert {f"reward/{status}_rate": result[f"reward/{status}_rate"] for status in RATES} == {
        "reward/timeout_rate": 0.0, "reward/error_rate": 0.0, "reward/unparseable_rate": 0.0, "reward/skipped_rate": 0.0,
    }  # fmt: skip
    assert (result["reward/mean"], result["reward/correct/counted"]) == (1.5, 1.5)  # the weight is 3 at this step


def test_every_rate_counts_its_own(folder: Path) -> None:
    recipe = load_recipe("my run.yaml").recipe
    result = step_of(recipe, "7", "8", "raise", "sleep", "unparseable", "skip", "raise", "7").result()
    rates = {status: result[f"reward/{status}_rate"] for status in RATES}
    assert rates == {"timeout": 1 / 8, "error": 2 / 8, "unparseable": 1 / 8, "skipped": 1 / 8}
    assert result["reward/failed"] == 4 / 8


@pytest.mark.parametrize(
    ("completion", "status", "detail"),
    [("raise", "error", "ValueError: cm, 3 tokens, step 3"), ("unparseable", "unparseable", "what is that?")],
)
def test_the_message_names_the_first_and_the_command_judges_it_alone(
    folder: Path, completion: str, status: str, detail: str
) -> None:
    out = folder / "runs" / "my run"
    loaded = load_recipe("my run.yaml", [f"output={out}"])
    with pytest.raises(RunStopped) as stopped:
        record(loaded, out, step_of(loaded.recipe, "7", "8", completion, "raise"))
    message = str(stopped.value)
    assert "50.0% of the completions could not be judged, more than scoring.max_failed = 0.02" in message
    assert f"First: problem 'p1', sample 2: {status} ({detail})" in message
    assert replayed(message, folder) == {"id": "p1/2", "reward": None, "status": status, "detail": detail}


def test_the_row_replays_with_the_weights_of_its_step(folder: Path) -> None:
    out = folder / "runs" / "r"
    loaded = load_recipe("my run.yaml", [f"output={out}"])
    with pytest.raises(RunStopped) as stopped:
        record(loaded, out, step_of(loaded.recipe, "raise"))
    row = json.loads((out / "failed.jsonl").read_text())
    assert (row["training_step"], row["tokens"], row["truncated"], row["unit"]) == (STEP, 3, False, "cm")
    (out / "failed.jsonl").write_text(json.dumps({**row, "completion": "7"}))  # as if the reward had been mended
    assert replayed(str(stopped.value), folder)["reward"] == 3.0


def test_within_the_budget_the_run_goes_on(folder: Path) -> None:
    out = folder / "runs" / "r"
    loaded = load_recipe("my run.yaml", [f"output={out}", "scoring.max_failed=0.5"])
    record(loaded, out, step_of(loaded.recipe, "7", "8", "raise", "unparseable"))
    assert json.loads((out / "failed.jsonl").read_text())["completion"] == "raise"
    assert json.loads((out / "metrics.jsonl").read_text())["reward/error_rate"] == 0.25


def test_the_row_tells_rewards_what_the_training_told_them() -> None:
    columns = {"solution": ["a", "list"], "source": "their own", "level": "Level 5", "unit": "cm"}
    prompt = Prompt(id="p", source="t.jsonl", messages=(), answer="7", level=5, columns=columns)
    ids = np.arange(3)
    rollout = Rollout(prompt_ids=ids, response_ids=ids, sampler_logp=np.zeros(3, dtype=np.float32), text="x")
    metrics = StepMetrics(STEP + 1)
    metrics.groups([Group(prompt=prompt, rollouts=(rollout,))])
    row = json.loads(metrics.notes["failed_row"])
    assert (row.pop("completion"), row.pop("id")) == ("x", "p/0")
    assert columns_of(prompt_of(row, "p")) == columns_of(with_facts(prompt, ids, False, STEP))

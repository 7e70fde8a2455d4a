"""`posttrain eval` as a user starts it: a real engine, real verifiers, a kill in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.evaluation.jobs import job
from tests.conftest import alive, command

pytestmark = pytest.mark.slow
Cli = Callable[..., subprocess.CompletedProcess[str]]
PROTOCOL = """
about: for this test
user: "{problem}"
sampling: {temperature: 1.0, max_tokens: 120}
samples: {"*": 8}
grader: {use: math}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says anything, one without a tokenizer, a benchmark with a question that is too long, a protocol."""
    from posttrain.config.models import TinyModel
    from posttrain.learner.tiny import build_tiny

    folder = tmp_path_factory.mktemp("eval")
    settings = TinyModel(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128, context=256)
    build_tiny(settings, 0, folder / "good")
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text((folder / "good" / "config.json").read_text())
    rows = [{"id": f"sum-{i}", "problem": f"{i}+1=", "answer": str(i + 1)} for i in range(12)]
    rows.append({"id": "long", "problem": "1+" * 150 + "1=", "answer": "151"})
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "protocol.yaml").write_text(PROTOCOL)
    return folder


def words(place: Path, out: Path, *more: str) -> list[str]:
    models = ["--model", str(place / "broken"), str(place / "good")]
    about = ["--bench", f"file:{place}/sums.jsonl", "--protocol", f"{place}/protocol.yaml", "--out", str(out)]
    sizes = ["--max-sequences", "8", "--kv-cache-gib", "0.25", "--max-failed", "0.1"]
    return ["eval", *models, *about, *sizes, *more]


def scores(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "results.json").read_text())["models"])


def lines(out: Path) -> list[dict[str, Any]]:
    path = out / "samples" / "good" / "sums.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.fixture(scope="module")
def whole(place: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """An evaluation that nothing disturbed."""
    out = place / "whole"
    line, clean = command(*words(place, out))
    return out, subprocess.run(line, env=clean, capture_output=True, text=True, timeout=300, check=False)


def test_a_broken_model_and_a_long_prompt_fail_alone(whole: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = whole
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr == ""
    found = scores(out)
    assert "has no tokenizer" in found["broken"]["failed"]
    assert found["broken"]["benchmarks"] == {}
    good = found["good"]["benchmarks"]["sums"]
    assert found["good"]["failed"] is None
    assert (good["questions"], good["samples"], good["unjudged"], good["marked"]) == (13, 104, 8, None)
    assert list(good["pass_at_k"]) == [str(k) for k in range(1, 9)]
    refused = [row for row in lines(out) if row["finish"] == "refused"]
    assert {row["question"] for row in refused} == {"long"}
    assert "leaves no room for an answer" in refused[0]["detail"]
    for text in ("broken: failed", r"good +sums", "results.json", "report.html"):
        assert re.search(text, done.stdout)
    assert "\x1b[" not in done.stdout  # no control codes into a pipe
    assert "<html" in (out / "report.html").read_text()
    asked = json.loads((out / "evaluation.json").read_text())
    assert asked["protocol"]["sampling"]["max_tokens"] == 120
    assert {"vllm", "torch", "transformers", "math_verify", "hardware"} <= asked["environment"].keys()
    for row in lines(out):
        assert row["seed"] == job(0, "sums", row["question"], row["sample"]).seed
    assert not alive(str(out))


def test_a_killed_evaluation_resumes_and_gives_the_same_table(
    place: Path, whole: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    """The second half runs on two engines, which changes nothing either."""
    out = place / "killed"
    line, clean = command(*words(place, out))
    process = subprocess.Popen(
        line, env=clean, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while len(lines(out)) < 30 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = lines(out)
    assert 30 <= len(kept) < 104, "the kill came too late to prove anything"
    assert not (out / "results.json").exists()
    line, clean = command(*words(place, out, "--data-parallel", "2"))
    done = subprocess.run(line, env=clean, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 3, done.stdout + done.stderr
    assert f"good: {len(kept)} samples are there" in done.stdout
    assert lines(out)[: len(kept)] == kept
    assert scores(out) == scores(whole[0])
    by_seed = lambda row: row["seed"]  # noqa: E731
    assert sorted(lines(out), key=by_seed) == sorted(lines(whole[0]), key=by_seed)


def test_a_single_sample_is_regenerated_token_for_token(
    posttrain: Cli, whole: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    row = next(row for row in lines(whole[0]) if row["question"] == "sum-7" and row["sample"] == 5)
    again = posttrain("eval", "regenerate", str(whole[0]), "sums", "sum-7", "5", "--model", "good")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "the same as the stored sample, token for token" in again.stdout
    assert str(row["seed"]) in again.stdout
    wrong = posttrain("eval", "regenerate", str(whole[0]), "sums", "sum-77", "5", "--model", "good")
    assert wrong.returncode == 2
    assert "Did you mean 'sum-7'?" in wrong.stderr


def test_other_settings_are_refused_before_anything_starts(
    place: Path, posttrain: Cli, whole: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    done = posttrain(*words(place, whole[0], "--seed", "3", "--samples", "2"))
    assert done.returncode == 2
    assert "seed: 0 -> 3" in done.stderr
    assert "protocol.samples.*: 8 -> 2" in done.stderr

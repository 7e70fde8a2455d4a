from __future__ import annotations

import json
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain import warmup
from posttrain.config.errors import ConfigError
from posttrain.config.registries import TASKS
from posttrain.warmup import MARK, WarmupFailed, run_warmup


def recipe_of(task: Any) -> Any:
    return SimpleNamespace(task=task)


@pytest.fixture
def arithmetic() -> Any:
    return recipe_of(TASKS.build("arithmetic", at="task"))


def trainer(monkeypatch: pytest.MonkeyPatch, folder: Path, *lines: str) -> None:
    """A shell script in the place of the training process."""
    script = folder / "python"
    script.write_text("\n".join(["#!/bin/sh", 'mkdir -p "$5"', *lines]) + "\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(warmup.sys, "executable", str(script))


def run(recipe: Any, folder: Path, seen: list[Any] | None = None, stop: Any = lambda: False) -> bool:
    report = seen if seen is not None else []
    return run_warmup(
        recipe, folder / "recipe.yaml", folder / "model", folder / "warm", lambda *now: report.append(now), stop
    )


def test_a_task_without_demonstrations_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(monkeypatch, tmp_path, f"touch {tmp_path}/started")
    task = TASKS.build({"use": "dataset", "path": "a.jsonl"}, at="task")
    with pytest.raises(ConfigError, match=r"warmup: .*no demonstrations.*`warmup: false`"):
        run(recipe_of(task), tmp_path)
    assert not (tmp_path / "started").exists()
    assert not (tmp_path / "warmup.log").exists()


def test_progress_is_told_and_other_lines_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arithmetic: Any
) -> None:
    lines = [MARK + json.dumps({"step": n, "steps": 20, "loss": 3.0 / n}) for n in (10, 20)]
    trainer(monkeypatch, tmp_path, f"echo '{lines[0]}'", "echo {a line of the trainer}", f"echo '{lines[1]}'")
    seen: list[Any] = []
    assert run(arithmetic, tmp_path, seen) is True
    assert seen == [(10, 20, 0.3), (20, 20, 0.15)]
    assert (tmp_path / "warm").is_dir()


def test_a_failure_shows_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arithmetic: Any) -> None:
    trainer(monkeypatch, tmp_path, "seq 1 40 >&2", "echo out of memory >&2", "exit 3")
    with pytest.raises(WarmupFailed) as error:
        run(arithmetic, tmp_path)
    message = str(error.value)
    assert "exit code 3" in message
    assert str(tmp_path / "warmup.log") in message
    assert message.endswith("39\n40\nout of memory")
    assert "\n20\n" not in message
    assert not (tmp_path / "warm").exists()  # a folder of this name would pass for a finished warm-up


def test_a_stop_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arithmetic: Any) -> None:
    line = MARK + json.dumps({"step": 1, "steps": 20, "loss": 1.0})
    trainer(monkeypatch, tmp_path, f"echo '{line}'", "exec sleep 60")
    seen: list[Any] = []
    assert run(arithmetic, tmp_path, seen, stop=lambda: bool(seen)) is False
    assert not (tmp_path / "warm").exists()


def test_the_launchers_world_is_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arithmetic: Any) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", "/somewhere")
    trainer(monkeypatch, tmp_path, f"env > {tmp_path}/environment", f'echo "$@" > {tmp_path}/words')
    run(arithmetic, tmp_path)
    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert "HF_HOME" in names
    assert not {n for n in names if n.startswith(("RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "ACCELERATE_"))}
    words = (tmp_path / "words").read_text().split()
    assert words == ["-m", "posttrain.warmup", *(str(tmp_path / n) for n in ("recipe.yaml", "model", "warm.part"))]


def test_sft_says_what_is_missing(tmp_path: Path) -> None:
    base = "extends: algorithms/grpo.yaml\nmodel: tiny\ntask: arithmetic\nreward: {correct: math}\n"
    (tmp_path / "cold.yaml").write_text(base)
    (tmp_path / "warm.yaml").write_text(base + "warmup: true\n")
    with pytest.raises(ConfigError, match=r"warmup: .*cold\.yaml sets none"):
        warmup.main(str(tmp_path / "cold.yaml"), "model", "out")
    with pytest.raises(ConfigError, match="--model=nowhere: no model folder"):
        warmup.main(str(tmp_path / "warm.yaml"), "nowhere", "out")

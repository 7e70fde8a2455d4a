from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain.cli import main

HEAVY = ("torch", "transformers", "vllm", "deepspeed", "datasets", "accelerate", "trl", "pandas", "plotly")


def heavy_after(root: Path, *arguments: str) -> tuple[int, list[str], str]:
    """Exit status, heavy modules that were imported, and standard error of a command in its own process."""
    code = (
        "import sys; from posttrain.cli import main; status = main(sys.argv[1:]);"
        f"print('HEAVY', *[m for m in {HEAVY!r} if m in sys.modules]); sys.exit(status)"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    print(f"posttrain {' '.join(arguments)}: {time.monotonic() - start:.2f} s")
    line = next(line for line in done.stdout.splitlines() if line.startswith("HEAVY"))
    return done.returncode, line.split()[1:], done.stderr


def test_a_bad_recipe_is_refused_before_anything_heavy_is_imported(root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("extends: quickstart\nbatch: {prompts: 3, updates: 2}\nstpes: 4\n")
    status, heavy, errors = heavy_after(root, "check", str(bad))
    assert status == 2
    assert heavy == []
    assert "bad.yaml:3: stpes: `recipe` has no such setting. Did you mean 'steps'?" in errors
    assert "bad.yaml:2: batch.updates: batch.prompts=3 cannot be divided" in errors
    assert all(line.startswith("error: ") for line in errors.splitlines())


@pytest.mark.parametrize("command", ["check", "explain"])
def test_a_good_recipe_imports_nothing_heavy_either(root: Path, command: str) -> None:
    _, heavy, errors = heavy_after(root, command, "quickstart")
    assert heavy == []
    assert errors == ""


def test_check_prints_the_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["check", "quickstart", "--world", "4", "batch.prompts=16", f"output={tmp_path}/run"])
    printed = capsys.readouterr().out
    assert "16 prompts x 8 samples = 128 sequences" in printed
    assert "/ 4 ranks = 32 a rank" in printed


def test_check_takes_ranks_from_a_launch_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "quickstart", "--launch", "gpu-8-zero3"])
    assert "ZeRO-3, ranks: 8" in " ".join(capsys.readouterr().out.split())
    assert main(["check", "quickstart", "--launch", "gpu-8-zero4"]) == 2
    assert "Did you mean 'gpu-8-zero" in capsys.readouterr().err
    assert main(["check", "quickstart", "--world", "0"]) == 2


def test_problems_of_this_machine_are_only_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: other\n")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    assert main(["check", "quickstart", f"output={folder}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "train would refuse: " in printed
    assert "already holds the run of another recipe" in printed.partition("train would refuse: ")[2]


def test_explain_schema_and_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "quickstart", "seed=7"]) == 0
    assert "command line" in capsys.readouterr().out
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "posttrain recipe"
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert "algorithms/grpo" in printed
    assert "quickstart" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chek", "quickstart"], "there is no command 'chek'. Did you mean 'check'?"),
        (["check", "quickstart", "--wrld", "2"], "there is no option '--wrld'. Did you mean '--world'?"),
        (["check"], "RECIPE"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "doctor" in capsys.readouterr().out


def test_train_hands_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain import launch

    seen: list[tuple[object, ...]] = []

    def run(recipe: str, overrides: list[str], **options: object) -> int:
        seen.append((recipe, overrides, options))
        return 130

    monkeypatch.setattr(launch, "run", run)
    assert main(["train", "quickstart", "--resume", "seed=1", "--launch", "cpu-2"]) == 130
    options = {"launch": "cpu-2", "resume": True, "overwrite": False, "dry_run": False}
    assert seen == [("quickstart", ["seed=1"], options)]


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain import launch

    def run(*args: object, **options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "run", run)
    assert main(["train", "quickstart"]) == 130

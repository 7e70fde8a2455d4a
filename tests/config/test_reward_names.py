"""Which reward a name means: here, beside the recipe, in a package; and that it never means two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.config.errors import ConfigError
from posttrain.config.load import load_recipe
from posttrain.config.registries import REWARDS

OWN = "def score(completion, answer):\n    return 0.25\n"
LOCAL = "extends: quickstart\nreward:\n  correct: {use: here}\n  other: {use: near}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """rewards/here.py, and sub/run.yaml with sub/rewards/near.py."""
    for file, text in {"rewards/here.py": OWN, "sub/rewards/near.py": OWN, "sub/run.yaml": LOCAL}.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["here", "near"])
@pytest.mark.parametrize("action", ["show", "test"])
def test_here_and_beside_the_recipe(project: Path, action: str, name: str) -> None:
    assert main(["rewards", action, name, "--recipe", "sub/run.yaml"]) in (0, 1)
    recipe = load_recipe("sub/run.yaml").recipe
    assert {type(part.reward).__name__ for part in recipe.reward.values()} == {"score"}


@pytest.mark.parametrize(("wrong", "right"), [("her", "here"), ("nea", "near"), ("exct", "exact")])
def test_the_nearest_name_is_one_of_all(
    project: Path, capsys: pytest.CaptureFixture[str], wrong: str, right: str
) -> None:
    assert main(["rewards", "show", wrong, "--recipe", "sub/run.yaml"]) == 2
    assert f"no reward is called '{wrong}'. Did you mean '{right}'?" in capsys.readouterr().err
    (project / "sub/run.yaml").write_text(LOCAL.replace("use: near", f"use: {wrong}"))
    with pytest.raises(ConfigError, match=rf"run\.yaml:4: reward\.other\.use: .*Did you mean '{right}'\?"):
        load_recipe("sub/run.yaml")


def test_a_file_with_a_built_in_name_does_not_touch_packaged_recipes(project: Path) -> None:
    (project / "rewards/math.py").write_text(OWN)
    for recipe in ("quickstart", "gsm8k", "sub/run.yaml"):
        load_recipe(recipe)
    (project / "mine.yaml").write_text("extends: quickstart\nsteps: 3\nreward:\n  correct: {tolerance: 0.1}\n")
    loaded = load_recipe("mine.yaml")
    assert type(loaded.recipe.reward["correct"].reward).__name__ == "Math"
    again = project / "again.yaml"
    again.write_text(loaded.yaml())
    assert load_recipe(again).resolved == loaded.resolved


def test_in_a_recipe_of_ones_own_the_line_and_both_ways_out_are_named(project: Path) -> None:
    (project / "rewards/math.py").write_text(OWN)
    own = project / "sub/run.yaml"
    own.write_text("extends: quickstart\nreward: {correct: {use: math}}\n")
    with pytest.raises(ConfigError) as error:
        load_recipe(own)
    places = ["posttrain_rewards.math:Math", "../rewards/math.py"]
    assert str(error.value).startswith("sub/run.yaml:2: two rewards are called 'math'")
    for place, value in zip(places, ["Math", "score"], strict=True):
        assert f"use: {place}" in str(error.value)
        own.write_text(f"extends: quickstart\nreward: {{correct: {{use: '{place}'}}}}\n")
        loaded = load_recipe(own)
        assert type(loaded.recipe.reward["correct"].reward).__name__ == value
    with pytest.raises(ConfigError, match=r"use: posttrain_rewards\.math:Math, or use: \./rewards/math\.py"):
        REWARDS.find("math")


def test_a_module_that_nobody_has_imported_is(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = f"package_{project.name}"
    (project / package).mkdir()
    (project / package / "__init__.py").write_text("")
    (project / package / "late.py").write_text(OWN)
    (project / package / "broken.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(str(project))
    assert REWARDS.find(f"{package}.late").__name__ == "score"
    assert REWARDS.find(f"{package}.late.score").__name__ == "score"
    with pytest.raises(ConfigError, match="has no 'nothing'"):
        REWARDS.find(f"{package}.nothing")
    with pytest.raises(ConfigError, match="no_such_module"):
        REWARDS.find(f"{package}.broken")


def test_a_package_that_takes_a_built_in_name_is_refused_everywhere_and_listed(project: Path) -> None:
    """In processes of their own: entry points are read from the path."""
    (project / "theirs.py").write_text(f'"""Theirs."""\nprint("imported")\n{OWN}')
    info = project / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[posttrain.rewards]\nexact = theirs:score\ntheirs = theirs:score\n")
    (project / "in.jsonl").write_text('{"id": 1, "completion": "7", "answer": "7"}\n')
    listed = command(project, "list")
    assert "imported" not in listed.stdout
    named = [line for line in listed.stdout.splitlines() if line.split()[0] == "exact"]
    assert len(named) == 2
    assert all("the name means several rewards: use its place" in line for line in named)
    assert any(line.split()[:3] == ["theirs", "theirs:score", "Theirs."] for line in listed.stdout.splitlines())
    for words in (["show", "exact"], ["score", "--reward", "exact", "--file", "in.jsonl"]):
        done = command(project, *words)
        said = " ".join(done.stderr.split())
        assert done.returncode == 2
        assert "use: theirs:score" in said
        assert "use: posttrain_rewards.exact:Exact" in said
    for place in ("theirs:score", "posttrain_rewards.exact:Exact"):
        assert command(project, "score", "--reward", place, "--file", "in.jsonl").returncode == 0


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(folder), str(root), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "posttrain", "rewards", *words],
        cwd=folder, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip

"""A reward is a plain function, found by name, path, file and entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.config.errors import ConfigError
from posttrain.config.imports import load_file
from posttrain.config.load import load_recipe
from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt
from posttrain.scoring.api import Outcome, judge, to_score
from posttrain.scoring.scorer import Scorer

PLAIN = """
import asyncio
from posttrain.scoring.api import Outcome

async def score(completion: str, answer: str, *, bonus: float = 0.0, **columns) -> float | Outcome:
    await asyncio.sleep(0)
    if completion == "?":
        return Outcome(None, "unparseable", "what?")
    return Outcome(float(completion == answer) + bonus, parts={"length": len(completion)}, detail=columns.get("unit", ""))
"""
TRL = """
def reward_len(completions, answer, log_metric, **kwargs):
    log_metric("mean_length", sum(map(len, completions)) / len(completions))
    return [None if c == "" else float(len(c) - len(a)) for c, a in zip(completions, answer)]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with rewards/ and a recipe."""
    (tmp_path / "rewards").mkdir()
    name = f"plain_{tmp_path.name}"
    (tmp_path / "rewards" / f"{name}.py").write_text(PLAIN)
    (tmp_path / "rewards" / "lengths.py").write_text(TRL)
    (tmp_path / "run.yaml").write_text(f"extends: quickstart\nreward: {{correct: {{use: {name}, bonus: 0.5}}}}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prompt(answer: str = "7", **columns) -> Prompt:
    return Prompt(id="p", source="t", messages=({"role": "user", "content": "q"},), answer=answer, columns=columns)


def plain(project: Path) -> str:
    return f"plain_{project.name}"


def test_by_name_file_and_attribute(project: Path) -> None:
    for use in (plain(project), f"./rewards/{plain(project)}.py", f"./rewards/{plain(project)}.py:score"):
        reward = REWARDS.build({"use": use, "bonus": 1.0}, "reward")
        score = judge(reward, "7", prompt(unit="cm"))
        assert (score.value, score.correct, score.parts, score.detail) == (2.0, True, {"length": 1.0}, "cm")
        assert judge(reward, "?", prompt()).status == "unparseable"
    assert plain(project) in REWARDS.names()


def test_by_dotted_path(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(project / "rewards"))
    for use in (f"{plain(project)}.score", f"{plain(project)}:score"):
        assert judge(REWARDS.build(use, "reward"), "7", prompt()).value == 1.0
    with pytest.raises(ConfigError, match="no module 'nowhere'"):
        REWARDS.build("nowhere.score", "reward")


def test_beside_the_recipe_from_anywhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    loaded = load_recipe(project / "run.yaml")
    reward = loaded.recipe.reward["correct"].reward
    assert judge(reward, "7", prompt()).value == 1.5
    again = project / "resolved.yaml"
    again.write_text(loaded.yaml())
    assert load_recipe(again).resolved == loaded.resolved


def test_trls_form_unchanged(project: Path) -> None:
    reward = REWARDS.build("lengths", "reward")
    score = judge(reward, "abc", prompt("1"))
    assert (score.value, score.parts) == (2.0, {"mean_length": 3.0})
    assert judge(reward, "", prompt("1")).status == "skipped"


def test_a_file_with_the_name_of_another_reward_is_refused(project: Path) -> None:
    (project / "rewards" / "math.py").write_text(TRL)
    (project / "run.yaml").write_text("extends: quickstart\nreward: {correct: {use: math}}\n")
    with pytest.raises(ConfigError, match="two rewards are called 'math'"):
        REWARDS.build("math", "reward")
    with pytest.raises(ConfigError, match="two rewards are called 'math'"):
        load_recipe(project / "run.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("x = 1", "holds no reward"), ("def a(completion): 0\ndef b(completion): 0", "several rewards: a, b")],
)
def test_files_without_one_reward(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "odd.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        REWARDS.build(str(tmp_path / "odd.py"), "reward")


def test_an_installed_package_brings_rewards(tmp_path: Path) -> None:
    """In a process of its own: entry points are read from the path."""
    (tmp_path / "theirs.py").write_text(TRL)
    info = tmp_path / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[posttrain.rewards]\ntheirs = theirs:reward_len\n")
    (tmp_path / "in.jsonl").write_text('{"id": 1, "completion": "abc", "answer": "1"}\n')
    done = command(tmp_path, "score", "--reward", "theirs", "--file", "in.jsonl", path=tmp_path)
    assert json.loads(done.stdout) == {"id": 1, "reward": 2.0, "status": "ok", "detail": ""}


@pytest.mark.parametrize(
    ("outcome", "value", "status"),
    [
        (Outcome(1), 1.0, "ok"),
        (Outcome(None), None, "skipped"),
        (Outcome(1.0, "timeout"), None, "timeout"),
        (Outcome(1.0, "good"), None, "error"),  # type: ignore[arg-type]
        (Outcome(float("nan")), None, "error"),
    ],
)
def test_outcomes(outcome: Outcome, value: float | None, status: str) -> None:
    score = to_score(outcome)
    assert (score.value, score.status) == (value, status)


def command(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`posttrain rewards` where torch cannot be imported."""
    blocked = folder / "blocked"
    blocked.mkdir(exist_ok=True)
    (blocked / "torch.py").write_text("raise AssertionError('torch was imported')")
    root = Path(__file__).resolve().parents[2]
    places = [str(blocked), *([str(path)] if path else []), str(root), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-m", "posttrain", "rewards", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
    )  # fmt: skip


def test_score_answers_every_row_in_order(tmp_path: Path) -> None:
    hostile = Path(__file__).with_name("hostile_rewards.py")
    good = [{"id": i, "completion": f"value {i}", "answer": "7", "level": i} for i in range(300)]
    lines = [json.dumps(row).encode() for row in good]
    lines[5] = b'{"id": "x", "completion": '
    lines[6] = b"\xff\xfe"
    lines[7] = b"[1]"
    lines[8] = b"[" * 100_000
    lines[9] = b'{"id": "nine", "answer": "7"}'
    lines[10] = b'{"id": "ten", "completion": "7", "answer": {"a": 1}}'
    lines[11] = b'{"id": [11], "completion": "sleep 60", "answer": "7"}'
    lines[12] = b'{"id": null, "completion": "\\ud800\\u0000", "answer": 7}'
    lines[13] = b'{"id": 13, "completion": "exit 3", "answer": "7"}'
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines[:20]) + b"\n\n" + b"\n".join(lines[20:]))
    use = f"{hostile}:Obey"
    done = command(tmp_path, "score", "--reward", use, "--file", "in.jsonl", "--out", "o.jsonl", "--timeout", "1")
    assert done.returncode == 0, done.stderr
    assert "300 rows" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert len(rows) == 300
    assert all(list(row) == ["id", "reward", "status", "detail"] for row in rows)
    assert [row["reward"] for row in rows[14:]] == [float(i) for i in range(14, 300)]
    assert [row["id"] for row in rows[:5] + rows[14:]] == [*range(5), *range(14, 300)]
    assert [row["id"] for row in rows[5:14]] == [None, None, None, None, "nine", "ten", [11], None, 13]
    statuses = ["error"] * 6 + ["timeout", "ok", "error"]
    assert [row["status"] for row in rows[5:14]] == statuses
    for row, detail in zip(
        rows[5:11], ["line 6: not JSON", "line 7", "line 8", "line 9", "completion", "answer"], strict=True
    ):
        assert detail in row["detail"]


def test_the_other_commands(project: Path) -> None:
    listed = command(project, "list")
    assert {"math", "format", "lengths", plain(project)} <= {line.split()[0] for line in listed.stdout.splitlines()}
    shown = command(project, "show", plain(project))
    assert "bonus = 0.0" in shown.stdout
    assert command(project, "show", "math").stdout.startswith("math: ")
    wrong = command(project, "show", "mth")
    assert wrong.returncode == 2
    assert "math" in wrong.stderr
    assert command(project, "test", "math").returncode == 0
    assert command(project, "score", "--file", "none").returncode == 2


def test_new_writes_a_reward_that_passes_and_its_test(tmp_path: Path) -> None:
    made = command(tmp_path, "new", "my_reward")
    assert made.returncode == 0, made.stderr
    done = command(tmp_path, "test", "my_reward")
    assert done.returncode == 0, done.stdout + done.stderr
    root = str(Path(__file__).resolve().parents[2])
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_my_reward.py"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout
    assert command(tmp_path, "new", "my_reward").returncode == 2
    assert command(tmp_path, "new", "math").returncode == 2
    broken = tmp_path / "rewards" / "my_reward.py"
    broken.write_text(broken.read_text().replace("return float(", "return 1 - float("))
    assert command(tmp_path, "test", "my_reward").returncode == 1


def test_a_recipes_rewards_score_a_row_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"id": "p/0", "completion": "7", "answer": "7", "messages": [{"role": "user", "content": "q"}]}
    (project / "failed.jsonl").write_text(json.dumps(row))
    assert main(["rewards", "score", "--recipe", "run.yaml", "--file", "failed.jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["reward"] == 1.5


def test_examples_of_a_file_are_those_of_its_function(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(
        textwrap.dedent("""
        EXAMPLES = [("a", {"answer": "a", "unit": "m"}, 1.0)]
        def two(completion, answer, unit): return float(completion == answer and unit == "m")
    """)
    )
    reward = REWARDS.build(str(tmp_path / "two.py"), "reward")
    ((completion, about, expected),) = reward.examples()
    assert judge(reward, completion, about).value == expected
    assert load_file(tmp_path / "two.py").two is type(reward).function


def test_rewards_beside_a_recipe_are_known_from_elsewhere(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere, beside = tmp_path_factory.mktemp("elsewhere"), ("--recipe", str(project / "run.yaml"))
    assert "lengths" not in command(elsewhere, "list").stdout
    listed = command(elsewhere, "list", *beside)
    assert {"math", "lengths", plain(project)} <= {line.split()[0] for line in listed.stdout.splitlines()}
    assert "TRL's batch form" in command(elsewhere, "show", "lengths", *beside).stdout
    tested = command(elsewhere, "test", plain(project), *beside)
    assert "has no examples of its own" in tested.stdout
    assert command(elsewhere, "show", "lengths").returncode == 2


PARTIAL = """
import functools

def base(completions, answer, k=1.0, **kw):
    return [k * float(c == a) for c, a in zip(completions, answer)]

score = functools.partial(base, k=2.0)
EXAMPLES = [("7", {"answer": "7"}, 2.0)]
"""
OBJECT = """
class Punish:
    def __init__(self, most):
        self.most = most

    def __call__(self, completion_ids: list[list[int]], **kwargs) -> list[float]:
        \"""Not too long.\"""
        return [-float(len(ids) > self.most) for ids in completion_ids]

punish_long = Punish(2)
"""


def test_a_partial_called_score_is_the_reward_of_its_file(project: Path) -> None:
    (project / "rewards" / "part.py").write_text(PARTIAL)
    for use in ("part", "./rewards/part.py", "./rewards/part.py:score"):
        reward = REWARDS.build(use, "reward")
        assert [expected for _, _, expected in reward.examples()] == [2.0]
        with Scorer({"part": (reward, 1.0)}) as scorer:
            assert [score.value for score in scorer.score([("7", prompt()), ("8", prompt())])] == [2.0, 0.0]
    assert judge(REWARDS.build({"use": "part", "k": 3.0}, "reward"), "7", prompt()).value == 3.0
    (project / "rewards" / "part.py").rename(project / "rewards" / "parts.py")
    (project / "rewards" / "parts.py").write_text(PARTIAL.replace("score =", "strict ="))
    with pytest.raises(ConfigError, match="several rewards: base, strict"):
        REWARDS.build("parts", "reward")


def test_an_object_that_can_be_called_is_a_reward(project: Path) -> None:
    (project / "rewards" / "punish.py").write_text(OBJECT)
    about = prompt(completion_ids=[1, 2, 3])
    for use in ("punish", "./rewards/punish.py:punish_long"):
        reward = REWARDS.build(use, "reward")
        with Scorer({"punish": (reward, 1.0)}) as scorer:
            assert [score.value for score in scorer.score([("x", about)])] == [-1.0]
    assert (type(reward).__doc__, type(reward).__name__) == ("Not too long.", "Punish")


def test_one_that_trl_makes_is_a_reward(project: Path) -> None:
    pytest.importorskip("trl.rewards")
    text = "from trl.rewards import get_soft_overlong_punishment\nshort = get_soft_overlong_punishment(100, 20)\n"
    (project / "rewards" / "soft.py").write_text(text)
    assert judge(REWARDS.build("soft", "reward"), "x", prompt(completion_ids=[1] * 90)).value == -0.5


def test_a_second_verifier_beside_the_recipe_is_found_from_anywhere(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = "second: {use: second_opinion, share: 1.0, verifier: {use: lengths}}"
    (project / "run.yaml").write_text(f"extends: quickstart\nreward:\n  correct: {{use: exact}}\n  {second}\n")
    monkeypatch.chdir("/")
    loaded = load_recipe(project / "run.yaml")
    assert loaded.resolved["reward"]["second"]["verifier"]["use"] == f"{project}/rewards/lengths.py:reward_len"
    assert judge(loaded.recipe.reward["second"].reward.verifier, "abc", prompt("1")).value == 2.0


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("def score(completion:\n    return 1", 1, "SyntaxError: '(' was never closed"),
        ("x = 1\nimport no_such_module", 2, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f():\n    return nothing\n\nf()", 2, "NameError: name 'nothing' is not defined"),
        ("import sys\nsys.exit(0)", 2, "SystemExit: 0"),
    ],
)
def test_a_file_that_does_not_run_is_named_with_its_line(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    line: int,
    message: str,
) -> None:
    file = project / "rewards" / f"broken_{line}_{len(text)}.py"
    file.write_text(text)
    assert main(["rewards", "show", file.stem]) == 2
    shown = capsys.readouterr().err
    assert f"{file}:{line}: {message}. Mend it" in " ".join(shown.split())
    assert "Traceback" not in shown
    monkeypatch.syspath_prepend(str(project / "rewards"))
    for use in (f"{file.stem}.score", f"{file.stem}:score"):
        with pytest.raises(ConfigError, match="cannot be imported"):
            REWARDS.build(use, "reward")


def test_an_entry_point_to_nothing_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text(TRL)
    info = tmp_path / "ours-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[posttrain.rewards]\nours = ours:nothing\n")
    done = command(tmp_path, "show", "ours", path=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "says is ours:nothing" in " ".join(done.stderr.split())
    assert "has no attribute 'nothing'" in " ".join(done.stderr.split())


def test_a_function_that_forgets_to_return_does_not_pass(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "rewards" / "forgets.py").write_text(
        "def score(completion, answer, **columns):\n    completion == answer\n"
    )
    assert main(["rewards", "test", "forgets"]) == 1
    assert "FAIL a value: never: all were skipped" in capsys.readouterr().out
    assert main(["rewards", "test", "hacking"]) == 0  # a guard gives none


def test_hostile_input_comes_with_what_a_run_tells_of_it(project: Path) -> None:
    (project / "rewards" / "ids.py").write_text(
        "def score(completion_ids, tokens, truncated): return [-float(tokens[0])]\n"
    )
    assert main(["rewards", "test", "ids"]) == 0

"""`posttrain rewards` on what is not as it should be: words, and nothing lost."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain.cli import main
from posttrain.config import imports
from posttrain.config.errors import ConfigError
from posttrain.config.registries import REWARDS
from posttrain.scoring.output import Output


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rewards").mkdir()
    (tmp_path / "in.jsonl").write_text('{"id": 1, "completion": "7", "answer": "7"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rewards(*words: str) -> int:
    return main(["rewards", *words])


def score(out: str) -> int:
    return rewards("score", "--reward", "exact", "--file", "in.jsonl", "--out", out)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("nowhere/o.jsonl", "there is no folder nowhere. Make it with `mkdir -p nowhere`"),
        ("rewards", "it is a folder"),
        ("in.jsonl", "it is the file that is read"),
        ("/dev/full", "No space left on device"),
    ],
)
def test_an_out_that_cannot_be_written_is_an_error_in_words(
    project: Path, capsys: pytest.CaptureFixture[str], out: str, said: str
) -> None:
    if out.startswith("/dev") and not Path(out).exists():
        pytest.skip(f"no {out} here")
    assert score(out) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_what_was_there_stays_until_the_new_one_is_whole(project: Path) -> None:
    out = project / "o.jsonl"
    out.write_text("what was there")
    out.chmod(0o600)
    (project / "rewards" / "stops.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Stops:\n    def prepare(self): raise OSError('no')\n"
        "    def __call__(self, completion, prompt): return 1.0\n"
    )
    assert rewards("score", "--reward", "stops", "--file", "in.jsonl", "--out", "o.jsonl") == 2
    assert (out.read_text(), list(project.glob("*.part"))) == ("what was there", [])
    with pytest.raises(KeyboardInterrupt):
        interrupted(out)
    assert (out.read_text(), (project / "o.jsonl.part").read_text()) == ("what was there", '{"id": 1}\n')
    assert score("o.jsonl") == 0
    assert json.loads(out.read_text())["reward"] == 1.0
    assert (out.stat().st_mode & 0o777, list(project.glob("*.part"))) == (0o600, [])


def interrupted(out: Path) -> None:
    with Output(out) as rows:
        rows.write({"id": 1})
        raise KeyboardInterrupt


def test_rows_from_the_standard_input(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO((project / "in.jsonl").read_bytes())))
    assert rewards("score", "--reward", "exact", "--file", "-") == 0
    assert json.loads(capsys.readouterr().out)["reward"] == 1.0


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ("7", "EXAMPLES is a int"),
        ("[7]", "EXAMPLES[0]: a int"),
        ("[('x', {}, 1.0), ('x', 7)]", "EXAMPLES[1]: a tuple of 2"),
        ("[(7, {}, 1.0)]", "EXAMPLES[0]: the completion is int '7'"),
        ("[('x', 7, 1.0)]", "EXAMPLES[0]: the columns are int"),
        ("[('x', {}, 'right')]", "EXAMPLES[0]: the expected value is str"),
        ("[('x', {'answer': None}, 1.0)]", "EXAMPLES[0]: answer must be text, got null"),
    ],
)
def test_examples_of_another_form_are_named(
    project: Path, capsys: pytest.CaptureFixture[str], examples: str, said: str
) -> None:
    file = project / "rewards" / "odd.py"
    file.write_text(f"EXAMPLES = {examples}\ndef score(completion): return 1.0\n")
    assert rewards("test", "odd") == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert f"{file}: {said}" in shown
    assert "Write (completion, {" in shown


@pytest.mark.parametrize("body", ["raise ValueError('no')", "yield 'x'", "return None"])
def test_a_components_examples_too(project: Path, capsys: pytest.CaptureFixture[str], body: str) -> None:
    (project / "rewards" / "comp.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Comp:\n    def __call__(self, completion, prompt): return 1.0\n"
        f"    def examples(self):\n        {body}\n"
    )
    assert rewards("test", "comp") == 2
    assert "examples() of Comp" in capsys.readouterr().err


def test_examples_are_compared_as_decimals_are(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "EXAMPLES = [('x', {}, 0.3), ('y', {}, 0.30001)]\ndef score(completion): return 0.1 + 0.2\n"
    (project / "rewards" / "tenths.py").write_text(text)
    assert rewards("test", "tenths") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines[:2]] == ["ok  ", "FAIL"]


def test_new_where_there_is_a_file_instead_of_a_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "rewards").rmdir()
    (project / "rewards").write_text("")
    assert rewards("new", "mine") == 2
    assert "rewards new: rewards is a file" in capsys.readouterr().err


def test_list_reads_what_it_does_not_import_and_cuts_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {
        "said": 'import no_such_module\n\ndef said(completion):\n    """Says\n    it.\n\n    And more."""\n',
        "of_file": '"""What the file says."""\nscore = lambda completion: 1.0\n',
        "broken": "def score(completion:\n",
    }
    for name, text in texts.items():
        (project / "rewards" / f"{name}.py").write_text(text)
    assert rewards("list") == 0
    lines = {line.split()[0]: line.rstrip() for line in capsys.readouterr().out.splitlines()}
    assert lines["said"].split(maxsplit=2)[1:] == ["rewards/said.py", "Says it."]
    assert lines["of_file"].endswith("What the file says.")
    assert lines["broken"].endswith("cannot be read: SyntaxError")
    assert "posttrain_rewards.knights_knaves:KnightsKnaves" in lines["knights_knaves"]
    assert not any(name.startswith("_") for name in lines)


def test_show_says_what_is_needed_and_what_is_no_setting(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "rewards" / "shown.py").write_text(
        "def f(completions, answer, unit, level=1, *, words=['a'], stream=print, **kw): return [1.0]\n"
    )
    assert rewards("show", "shown") == 0
    shown = capsys.readouterr().out
    assert "It gets one completion at a time, in lists of length 1" in shown
    assert "needs of the data: answer, unit" in shown
    assert "words = ['a']" in shown
    assert "(`level` is none: it does not stand behind the `*`" in shown
    assert "(`stream` is none: its default is a builtin_function" in shown


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./rewards/mine", "a file ./rewards/mine.py: name it with its ending"),
        ("rewards/mine", "a file rewards/mine.py: name it with its ending"),
        ("./rewards/none", "named by its path with .py"),
    ],
)
def test_a_path_without_its_ending(project: Path, capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    (project / "rewards" / "mine.py").write_text("def score(completion): return 1.0\n")
    assert rewards("score", "--reward", name, "--file", "in.jsonl") == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_an_import_that_does_not_end_is_given_up(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(imports, "NOTICE", 0.1)
    monkeypatch.setattr(imports, "LIMIT", 0.3)
    (project / "rewards" / "hangs.py").write_text("import time\ntime.sleep(60)\ndef score(completion): return 1.0\n")
    with pytest.raises(ConfigError, match=r"hangs\.py:2: TimeoutError: it was not done within 0\.3 s"):
        REWARDS.build("hangs", "reward")
    assert "hangs.py is still being imported after 0.1 s" in capsys.readouterr().err

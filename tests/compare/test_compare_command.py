"""`posttrain compare`: what it prints, its page, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser

import pytest
from run_folders import problems, write_run

from posttrain.cli import main

HOSTILE = "<script>alert(1)</script>"


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.plots, self.text, self._inside = [], 0, "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.plots += ("class", "plot") in attrs
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data


def arms(folder, **more):
    """Two arms of two seeds each."""
    made = []
    for name, right, wrong in (("grpo", (True, False, False, False), 0.6), ("ghpo", (True, True, True, False), 0.2)):
        for seed in range(2):
            evals = {"before": problems(False, False, False, True), "after": problems(*right)}
            accuracy = {2: 0.25, 4: sum(right) / 4}
            options = {"seed": seed, "evals": evals, "accuracy": accuracy, "wrong": wrong, "name": name, **more}
            made.append(write_run(folder / f"{name}-{seed}", strategy={"use": name}, **options))
    return made


def test_two_arms(tmp_path, capsys):
    assert main(["compare", *arms(tmp_path), "--target", "0.5", "--metric", "reward/accuracy"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for told in (
        "grpo 2 0, 1 25.0% +-0.0 25.0% +-0.0",
        "ghpo 2 0, 1 25.0% +-0.0 75.0% +-0.0",
        "reached by 0 of 2 2 of 2",
        "steps - 4 [4, 4]",
        "learner tokens - 400 [400, 400]",
        "ghpo 4 +50.0 pts",
        "+50.0, +50.0",
        "grpo 0.6 0.3 0.2 0.15",
        "Prompts without a right answer: after the strategy arm quarter 1",
        "strategy.use grpo ghpo",
    ):
        assert told in printed, told
    assert "note:" not in printed
    page = Elements((tmp_path / "compare.html").read_text(encoding="utf-8"))
    # accuracy over steps and four costs; failing groups twice; accuracy by level; the metric; one level
    assert page.plots == 10
    assert "25.0% → 75.0%" in page.text
    assert "2 of 2" in page.text


def test_the_target_is_what_all_reached_when_none_is_given(tmp_path, capsys):
    assert main(["compare", *arms(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr().out
    assert "To a held-out accuracy of 25.0%" in printed
    assert (tmp_path / "page.html").is_file()


def test_what_is_missing_is_said(tmp_path, capsys):
    made = [write_run(tmp_path / "a", learned=None, ended=False), write_run(tmp_path / "b", learned=None, seed=0)]
    assert main(["compare", *made]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "a: the run has not ended" in printed
    assert "b: no held-out evaluation after training" in printed
    assert "no learner tokens: metrics.jsonl of" in printed
    assert "lacks learn/tokens_computed" in printed
    assert "several runs have the same seed" in printed


def test_hostile_names_are_never_markup(tmp_path):
    clean = arms(tmp_path / "clean")
    made = arms(tmp_path / "hostile", metrics={HOSTILE: 1.0}, wrong=0.5, task={"use": HOSTILE})
    assert main(["compare", *clean, "--out", str(tmp_path / "a.html"), "--metric", "time/step"]) == 0
    assert main(["compare", *made, clean[0], "--out", str(tmp_path / "b.html"), "--metric", HOSTILE]) == 0
    text = (tmp_path / "b.html").read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert HOSTILE in Elements(text).text
    assert Elements(text).tags.count("script") == Elements((tmp_path / "a.html").read_text()).tags.count("script")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: [str(d / "nothing")], "no such run folder"),
        (lambda d: [str(d)], "has no recipe.yaml"),
        (lambda d: [write_run(d / "a"), write_run(d / "a")], "named twice"),
        (lambda d: [write_run(d / "a"), "--target", "80"], "--target=80: an accuracy is a share between 0 and 1"),
        (lambda d: [write_run(d / "a"), "--metric", "reward/acuracy"], "reward/accuracy"),
    ],
)
def test_refusals(tmp_path, capsys, make, words):
    assert main(["compare", *make(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_a_run_without_a_step_is_refused(tmp_path, capsys):
    run = write_run(tmp_path / "a")
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    assert main(["compare", run]) == 2
    assert "metrics.jsonl holds no step" in capsys.readouterr().err


def test_a_table_that_cannot_be_read_is_named(tmp_path, capsys):
    run = write_run(tmp_path / "a", evals={"after": problems(True)})
    (tmp_path / "a" / "evals" / "after.parquet").write_bytes(b"PAR1 half of it")
    assert main(["compare", run]) == 2
    assert "after.parquet cannot be read" in capsys.readouterr().err


def test_the_command_line_stays_light():
    code = "import sys, posttrain.cli as c; c._parsers(); print([m for m in ('torch', 'numpy', 'plotly') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The page of an evaluation: what it says, what it holds, and that nothing a model says becomes markup."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evaluation_folders import drawn, question, sample, write_folder
from rich.console import Console

from posttrain.config.errors import ConfigError
from posttrain.evaluation.pages import completions
from posttrain.evaluation.pages.report import write_evaluation_report
from posttrain.evaluation.table import table

HOSTILE = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\"><!--<script>"
HOSTILE_MATH = "$\\text{<img src=x onerror=\"document.title='hacked'\">}$ \\(\\href{javascript:alert(1)}{x}\\)"


class Page(HTMLParser):
    """The elements that a browser would make of it, its text, and the data for its scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.plots = 0
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self._inside = ""
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.tags.append(tag)
        self.plots += ("class", "plot") in attrs
        self.loads += [value for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data

    @property
    def completions(self):
        found = re.search(r'id="completion-data">(.*?)</script>', self.source, re.DOTALL)
        return json.loads(found[1]) if found else None


def two_models(folder: Path) -> Path:
    of = {"base": drawn("aime", 6, 4, 0.4), "step-00100": drawn("aime", 6, 4, 0.8, seed=1)}
    return write_folder(folder, {key: {"aime": rows} for key, rows in of.items()})


def test_scores_settings_and_curves(tmp_path):
    page = Page(write_evaluation_report(two_models(tmp_path / "e")))
    assert "Evaluation of 2 models" in page.text
    assert page.plots == 3  # scores, curves, heat map
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    accuracy = results["models"]["base"]["benchmarks"]["aime"]["accuracy"]
    assert f"{accuracy['mean']:.1%}" in page.text
    assert f"[{accuracy['low']:.1%}, {accuracy['high']:.1%}]" in page.text
    for told in ("protocol greedy", "seed 3", "vllm", "0.25.1", "5ha5ha", "max_tokens: 64", "a processor"):
        assert told in page.text


def test_it_loads_nothing(tmp_path):
    page = Page(write_evaluation_report(two_models(tmp_path)))
    assert page.loads == ["data:,"]
    assert "default-src 'none'" in page.source
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_every_completion_is_there_with_answer_gold_and_verdict(tmp_path):
    rows = [
        sample("q/0", 0, True),
        sample("q/0", 1, False, finish="length", extracted=None, format=False),
        sample("q/1", 0, False, status="unparseable", reward=None, detail="two boxes", parsed=None),
        sample("q/1", 1, False, finish="refused", status="skipped", reward=None, completion="", detail="too long"),
    ]
    page = Page(write_evaluation_report(write_folder(tmp_path, {"m": {"q": rows}})))
    held = page.completions
    assert held["benchmarks"] == [
        {"name": "q", "questions": [["q/0", "What is $0+1$?", "1", 1, ""], ["q/1", "What is $1+1$?", "2", 2, ""]]}
    ]
    assert held["rows"][0] == [0, 0, 0, 0, str(2**63), "1", True, "ok", "", 9, "stop", True, "So \\boxed{1}.", True]
    assert [row[5:12] for row in held["rows"][1:3]] == [
        [None, False, "ok", "", 9, "length", False],
        ["0", False, "unparseable", "two boxes", 9, "stop", True],
    ]
    assert [row[13] for row in held["rows"]] == [True, True, None, True]
    assert "Samples without a verdict" in page.text
    assert "too long" in page.text


def test_answers_that_are_missing_or_cannot_be_read_are_counted(tmp_path):
    rows = [
        sample("q/0", 0, True),
        sample("q/1", 0, False, extracted=None, parsed=None),
        *(sample(f"q/{n}", 0, False, extracted="\\frac{}", parsed=False) for n in (2, 3, 4)),
    ]
    folder = write_folder(tmp_path, {"m": {"q": rows}})
    text = Page(write_evaluation_report(folder)).text
    assert "no answerunparseableno verdict" in text.replace("\n", "")
    assert "0.0%0.0%20.0%60.0%0.0%" in text.replace("\n", "")  # cut off, malformed, and these three
    printed = Console(width=160, record=True, file=io.StringIO())
    printed.print(table(json.loads((folder / "results.json").read_text())))
    head, row = (line.split() for line in printed.export_text().splitlines())
    assert head[-7:] == ["no", "box", "no", "answer", "not", "read", "tokens"]
    assert row[-5:] == ["0.0%", "0.0%", "20.0%", "60.0%", "9"]


def test_hostile_text_is_never_markup(tmp_path):
    rows = [sample("q/0", n, False, completion=HOSTILE, extracted=HOSTILE, detail=HOSTILE) for n in range(2)]
    rows[1]["status"] = "error"
    asked = question("q/0", problem=HOSTILE, gold=HOSTILE, source=HOSTILE)
    clean = Page(write_evaluation_report(write_folder(tmp_path / "a", {"m": {"q": [sample("q/0", 0, False)]}})))
    page = Page(write_evaluation_report(write_folder(tmp_path / "b", {"m": {"q": rows}}, {"q": [asked]})))
    assert page.completions["rows"][0][12] == HOSTILE
    assert "img" not in page.tags
    assert page.tags.count("script") == clean.tags.count("script")
    assert HOSTILE not in page.source
    data = page.source[page.source.index('id="completion-data">') + 21 :]
    assert "<" not in data[: data.index("</script>")]


def test_half_a_surrogate_pair_is_no_obstacle(tmp_path):
    rows = [sample("q/0", 0, False, completion="\ud83d", status="error", detail="\ud83d")]
    assert write_evaluation_report(write_folder(tmp_path, {"m": {"q": rows}})).is_file()


def test_a_failed_model_a_marked_result_and_calibration_are_shown(tmp_path):
    rows = [sample("q/0", 0, True), sample("q/1", 0, False, status="timeout", detail="5.0 s")]
    verdict = {"model": "known", "protocol": "greedy", "source": "2504.07086", "published": 0.9, "score": 0.5}
    verdict |= {"z": -4.0, "limit": 2.0, "passed": False, "text": "far below"}
    folder = write_folder(tmp_path, {"m": {"q": rows}}, failed={"broken": "no config.json"}, calibration=verdict)
    text = Page(write_evaluation_report(folder)).text
    assert "no config.json" in text
    assert "more than max_failed" in text
    assert "-4.00" in text
    assert "far below" in text


def test_a_single_sample_and_a_model_without_results(tmp_path):
    page = Page(write_evaluation_report(write_folder(tmp_path / "a", {"m": {"q": [sample("q/0", 0, True)]}})))
    assert "100.0%" in page.text
    page = Page(write_evaluation_report(write_folder(tmp_path / "b", {}, failed={"m": "no such folder"})))
    assert "no such folder" in page.text
    assert page.completions is None


def test_too_many_completions_leave_out_whole_rounds(tmp_path, monkeypatch):
    monkeypatch.setattr(completions, "MOST", 9)
    page = Page(write_evaluation_report(two_models(tmp_path)))
    held = page.completions["rows"]
    assert [(row[0], row[2], row[3]) for row in held] == [(m, q, 0) for q in range(6) for m in range(2)]
    assert "This page holds 12 of 48 completions: sample 0 of every question." in page.text
    assert "samples/MODEL/BENCHMARK.jsonl" in page.text


def test_long_completions_are_cut_in_the_middle(tmp_path, monkeypatch):
    monkeypatch.setattr(completions, "CUTS", (100, 10))
    monkeypatch.setattr(completions, "MOST_CHARACTERS", 150)
    rows = [sample(f"q/{n}", 0, True, completion="a" * 60 + "b" * 60) for n in range(2)]
    page = Page(write_evaluation_report(write_folder(tmp_path, {"m": {"q": rows}})))
    text = page.completions["rows"][0][12]
    assert text == "aaaaa\n\n[ ... 110 characters left out ... ]\n\nbbbbb"
    assert "2 long ones are cut in the middle, to 10 characters." in page.text


def test_an_unfinished_evaluation_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        write_evaluation_report(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"evaluation\.json"):
        write_evaluation_report(tmp_path)
    (two_models(tmp_path / "e") / "results.json").unlink()
    with pytest.raises(ConfigError, match=r"results\.json.*again to finish it"):
        write_evaluation_report(tmp_path / "e")


def test_a_sample_without_its_completion_is_named(tmp_path):
    folder = write_folder(tmp_path, {"m": {"q": [sample("q/0", 0, True)]}})
    (folder / "samples" / "m" / "q.jsonl").write_text('{"question": "q/0", "sample": 0}\n')
    with pytest.raises(ConfigError, match=r"q\.jsonl: a sample of question q/0 without seed, completion"):
        write_evaluation_report(folder)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the program chromium")
def test_a_browser_shows_formulas_and_runs_nothing_of_a_model(tmp_path):
    said = (
        f"{HOSTILE} {HOSTILE_MATH} \\[ \\frac{{1}}{{2}} \\] and $\\frac{{1$ and costs $5 or $6 \\boxed{{\\sqrt{{2}}}}"
    )
    rows = [sample("q/0", 0, False, completion=said, extracted="\\frac{1}{2}")]
    path = write_evaluation_report(write_folder(tmp_path / "e", {"m": {"q": rows}}))
    opening = "<script>document.querySelector('#browser details').open = true</script></body>"
    opened = tmp_path / "opened.html"
    opened.write_text(path.read_text(encoding="utf-8").replace("</body>", opening), encoding="utf-8")
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'chromium'}")
    command = ["chromium", *flags, "--virtual-time-budget=4000", "--dump-dom", opened.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    shown = done[done.index('id="browser"') : done.index("</main>")]
    assert "<title>hacked" not in done
    assert "<img" not in shown
    assert "<script" not in shown
    assert "javascript:" not in re.sub(r'title="[^"]*"', "", shown).replace("href{javascript:", "")
    assert shown.count("<mfrac") == 2  # in the completion and the extracted answer
    assert "<msqrt" in shown
    assert "$\\frac{1$ and costs $5 or $6" in shown  # no formula: as it was written

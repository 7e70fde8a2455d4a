from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from telemetry_samples import evaluation, group, rollout

from posttrain.config.errors import ConfigError
from posttrain.telemetry.report import main, write_report
from posttrain.telemetry.sinks import RunFolder

HOSTILE = "<script>alert(1)</script></script>"
RECIPE = "name: adding & more\nseed: 7\nsteps: 3\nmodel: {use: tiny, hidden: 64}\n"
STEP = {
    "reward/mean": 0.5,
    "reward/accuracy": 0.5,
    "policy/entropy": 0.2,
    "policy/grad_norm": 0.4,
    "policy/lr": 3e-4,
    "rollout/length": 40.0,
    "rollout/truncated": 0.1,
    "rollout/tokens": 1500.0,
    "groups/all_right": 0.2,
    "groups/all_wrong": 0.3,
    "groups/mixed": 0.5,
    "sync/max_difference": 1e-5,
    "mismatch/max": 1e-3,
    "time/rollout": 2.0,
    "time/learn": 3.0,
    "time/step": 5.0,
}


class Page(HTMLParser):
    """Everything the browser would take as an element, and the text around it."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.loads: list[str] = []
        self.scripts = 0
        self.plots = 0
        self.text = ""
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.scripts += tag == "script"
        self.plots += ("class", "plot") in attrs
        self.loads += [value for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data


def finished(path: Path) -> Path:
    folder = RunFolder(path)
    folder.write_text("recipe.yaml", RECIPE)
    for step in (1, 2, 3):
        folder.append_metrics(step, STEP | ({"eval/accuracy": 0.6} if step == 2 else {}))
    before, after = (
        evaluation(False, False, True, True),
        evaluation(True, True, True, False, completion=HOSTILE),
    )
    for name, rows in (("before", before), ("after", after)):
        pq.write_table(pa.Table.from_pylist(rows), folder.eval_path(name))
    folder.write_summary({"accuracy_before": 0.5, "accuracy_after": 0.75, "problems": 4, "seconds": 95.2, "seed": 7})
    return path


def test_a_finished_run(tmp_path):
    page = Page(write_report(finished(tmp_path / "run")))
    assert page.plots == 8
    assert "adding & more" in page.text
    assert "model tiny · seed 7 · 3 of 3 steps" in page.text
    assert "50.0% → 75.0%" in page.text
    assert "before 15%-85%, after 30%-95%; 4 problems" in page.text
    assert "4,500" in page.text  # tokens
    assert "1:35" in page.text  # of 95.2 s
    assert "hidden: 64" in page.text
    assert "wrong before, right now" in page.text
    assert "Missing so far" not in page.text


def test_it_loads_nothing(tmp_path):
    path = write_report(finished(tmp_path / "run"))
    assert Page(path).loads == ["data:,"]
    text = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_a_completion_stays_text(tmp_path):
    path = write_report(finished(tmp_path / "run"))
    page = Page(path)
    assert page.scripts == 3  # the library, the figures, the drawing
    assert HOSTILE in page.text
    assert HOSTILE not in path.read_text(encoding="utf-8")


def test_a_hostile_metric_name_cannot_end_the_script(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics(1, {**STEP, f"time/{HOSTILE}": 1.0})
    assert Page(write_report(tmp_path)).scripts == 3


def test_an_empty_folder_says_what_is_missing(tmp_path):
    page = Page(write_report(tmp_path))
    assert page.plots == 0
    for name in (
        "recipe.yaml",
        "summary.json",
        "metrics.jsonl",
        "evals/before.parquet",
        "evals/after.parquet",
    ):
        assert name in page.text


def test_a_run_in_progress_shows_samples_of_its_last_step(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics(1, {"reward/mean": 0.25, "reward/accuracy": 0.25})
    folder.write_rollouts(1, [group(rollout(1.0, text="so 7"), rollout(0.0, text="so 8"))])
    page = Page(write_report(tmp_path))
    assert page.plots == 1
    assert "25.0%" in page.text
    assert "Samples of the last step" in page.text
    assert "so 8" in page.text
    assert "no numbers for: Group mix, Entropy" in page.text


def test_one_side_of_the_evaluation_is_enough(tmp_path):
    folder = RunFolder(tmp_path)
    pq.write_table(pa.Table.from_pylist(evaluation(True, False)), folder.eval_path("before"))
    page = Page(write_report(tmp_path))
    assert "50.0% → ?" in page.text
    assert "no evaluation after the training" in page.text


def test_a_half_written_table_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.eval_path("after").write_bytes(b"PAR1 half of it")
    assert "evals/after.parquet cannot be read" in Page(write_report(tmp_path)).text


def test_numbers_that_are_not_finite_leave_a_gap(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics(1, {**STEP, "policy/grad_norm": float("nan")})
    assert Page(write_report(tmp_path)).plots == 7


def test_a_streak_of_alarms_is_one_line(tmp_path):
    folder = RunFolder(tmp_path)
    for step, alarms in enumerate((["cut: 61%"], ["cut: 63%"], [], ["cut: 70%"]), start=1):
        folder.append_metrics(step, STEP, alarms)
    text = Page(write_report(tmp_path)).text
    assert "steps 1 to 2: cut: 63%" in text
    assert "step 4: cut: 70%" in text


def test_the_command(tmp_path, capsys):
    assert main(str(finished(tmp_path / "run"))) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'run' / 'report.html'}\n"
    with pytest.raises(ConfigError, match="no such run folder"):
        main(str(tmp_path / "nothing"))

from __future__ import annotations

import io
from pathlib import Path

import pytest
from telemetry_samples import evaluation

from posttrain.telemetry.console import Console
from posttrain.telemetry.guards import Alarm
from posttrain.telemetry.words import clock, one_line, printable

STEP = {
    "reward/mean": 0.6125,
    "reward/accuracy": 0.5938,
    "policy/entropy": 0.2173,
    "rollout/length": 41.87,
    "rollout/tokens_per_second": 3051.6,
    "time/rollout": 3.44,
    "time/reward": 0.25,
    "time/learn": 3.12,
    "time/sync": 0.51,
    "time/step": 7.5,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def plain(steps: int = 60, **settings) -> tuple[Console, io.StringIO, Clock]:
    stream, now = io.StringIO(), Clock()
    return Console(steps=steps, stream=stream, now=now, **settings), stream, now


def test_a_step_is_one_row_under_a_header():
    console, stream, _ = plain()
    console.step(1, STEP)
    *_, titles, row = stream.getvalue().splitlines()
    assert titles.split() == (
        "step reward accuracy entropy length tok/s rollout reward learn sync ETA".split()  # noqa: SIM905
    )
    assert row.split() == [
        "1/60",
        "0.613",
        "59.4%",
        "0.217",
        "41.9",
        "3052",
        "3.4",
        "0.2",
        "3.1",
        "0.5",
        "7:22",
    ]  # 59 x 7.5 s = 442 s


def test_the_header_comes_again_every_twenty_rows():
    console, stream, _ = plain()
    for step in range(1, 42):
        console.step(step, STEP)
    lines = stream.getvalue().splitlines()
    assert [n for n, line in enumerate(lines) if "accuracy" in line] == [1, 23, 45]


@pytest.mark.parametrize("width", [40, 60, 80, 109, 200])
def test_rows_fit_the_terminal_and_line_up(width):
    console, stream, _ = plain(steps=60, width=width)
    console.step(1, STEP, [Alarm("x", "warn", "some words that have to be wrapped " * 5)])
    console.step(60, STEP)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= max(width, 40)
    assert len({len(line) for line in lines if "/60" in line}) == 1
    assert ("sync" in lines[1]) == (width >= 80)


def test_missing_numbers_are_dashes():
    console, stream, _ = plain()
    console.step(1, {"reward/mean": 1.0})
    assert stream.getvalue().splitlines()[-1].split() == ["1/60", "1.000", *["-"] * 9]


def test_an_evaluation_has_its_own_line():
    console, stream, _ = plain()
    console.step(20, {**STEP, "eval/accuracy": 0.7119})
    assert stream.getvalue().splitlines()[-1] == "  held-out problems: 71.2% right"


def test_an_alarm_is_shown_while_new_only():
    console, stream, _ = plain()
    console.step(1, STEP, [Alarm("cut", "warn", "too long")])
    console.step(2, STEP, [Alarm("cut", "warn", "too long", new=False)])
    assert stream.getvalue().count("warning: too long") == 1


def test_plain_output_has_no_control_codes_and_few_progress_lines():
    console, stream, now = plain()
    console.phase("supervised warm-up")
    for done in range(1, 801):
        now.time += 0.05  # 40 s in all: a line every 10 s
        console.progress(done, 800, loss=0.41)
    console.phase("starting vLLM")
    console.working("rollout 3/8")
    now.time += 5
    console.done()
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    assert lines[0] == "supervised warm-up ..."
    assert lines[1].startswith("supervised warm-up  20")
    assert lines[1].endswith("loss 0.41  ETA 0:30")
    assert len(lines) <= 8
    assert "supervised warm-up: done in 0:40  loss 0.41" in lines
    assert lines[-1] == "starting vLLM: done in 0:05"
    assert console.seconds == pytest.approx({"supervised warm-up": 40.0, "starting vLLM": 5.0})


def test_a_terminal_gets_a_live_line_and_is_given_back():
    stream = Terminal()
    console = Console(steps=60, stream=stream, width=100)
    console.phase("warm-up")
    console.progress(320, 800, loss=0.41)
    console.progress(321, 800, loss=0.40)
    console.working("learn")
    console.step(1, STEP)
    console.close()
    assert "\x1b[?25h" in stream.getvalue()  # the cursor is back
    assert "warm-up: done" in stream.getvalue()
    assert "1/60" in stream.getvalue()


def test_other_ranks_are_silent():
    console, stream, _ = plain(rank=1)
    console.phase("warm-up")
    console.step(1, STEP, [Alarm("cut", "warn", "too long")])
    console.finish(after=evaluation(True))
    console.stopped("nan")
    assert stream.getvalue() == ""


def test_a_phase_that_raises_is_not_done():
    console, stream, _ = plain()
    with pytest.raises(KeyError), console.during("starting vLLM"):
        raise KeyError
    assert "done" not in stream.getvalue()


def test_the_closing_page():
    console, stream, now = plain(steps=1)
    console.phase("supervised warm-up")
    now.time += 30
    console.step(1, STEP)
    now.time += 30
    before = evaluation(False, False, level=1) + evaluation(False, True, level=2)
    after = evaluation(True, False, level=1) + evaluation(True, True, level=2)
    console.finish(before=before, after=after, folder=Path("runs/a"), report=Path("runs/a/report.html"))
    text = stream.getvalue()
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines() if line}
    assert rows["level 1"][2:] == [
        "2",
        "0.0%",
        "[",
        "0%,",
        "66%]",
        "50.0%",
        "[",
        "9%,",
        "91%]",
        "+50.0",
        "pts",
    ]
    assert rows["all"][1:] == ["4", "25.0%", "[", "5%,", "70%]", "75.0%", "[", "30%,", "95%]", "+50.0", "pts"]
    assert "sample 1: wrong before, right now (level 2)" in text
    assert "  supervised warm-up            0:30   50%" in text
    assert "  everything else               0:23   38%" in text
    assert text.rstrip().endswith("run folder  runs/a\nreport      runs/a/report.html")


def test_unjudged_evaluations_are_counted_in_words():
    console, stream, _ = plain()
    console.finish(after=evaluation(True, False, status="timeout"))
    assert "2 of 2 completions could not be judged and count as wrong" in stream.getvalue()


def test_without_an_evaluation_it_says_so():
    console, stream, _ = plain()
    console.finish()
    assert "no evaluation was made" in stream.getvalue()


def test_ctrl_c_is_short_and_says_how_to_go_on():
    console, stream, _ = plain()
    console.interrupted(step=12, checkpoint=Path("c/step-00012"), resume="posttrain train r.yaml --resume")
    assert stream.getvalue() == (
        "  stopped: by you after 12 steps\nsaved in c/step-00012\ngo on with: posttrain train r.yaml --resume\n"
    )


def test_what_a_model_samples_cannot_repaint_the_terminal():
    assert printable("a\x1b[2Jb\u202ec\td é 漢\n") == "a\ufffd[2Jb\ufffdc\td é 漢\n"
    assert printable("é漢", "ascii") == "??"
    console, stream, _ = plain()
    console.finish(after=evaluation(True, completion="[red]\x1b[2J"))
    assert "[red]\ufffd[2J" in stream.getvalue()


def test_a_stream_that_cannot_write_unicode():
    raw = io.BytesIO()
    console = Console(steps=1, stream=io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    console.note("漢")
    assert raw.getvalue() == b"?\n"


def test_small_words():
    assert [clock(s) for s in (0, 59.6, 185, 8100)] == ["0:00", "1:00", "3:05", "2:15:00"]
    assert one_line("a\n b", 10) == "a b"
    cut = one_line("0123456789" * 10, 30)
    assert (len(cut), cut) == (30, "0123456789012345 ... 123456789")

"""Nothing that a reward starts outlives its worker, in whatever session it runs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from test_scorer import alive, environment, gone

from posttrain.config.imports import load_file
from posttrain.data.types import Prompt
from posttrain.scoring.scorer import Scorer

straying = load_file(Path(__file__).with_name("straying_rewards.py"))
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has adoption")


def prompt(file: Path) -> Prompt:
    return Prompt(id="p", source="test", messages=(), answer=str(file))


def scorer(timeout: float = 0.7) -> Scorer:
    return Scorer({"strays": (straying.Strays(), 1.0)}, timeout=timeout)


def started(file: Path, count: int) -> list[int]:
    """What the reward has said that it started."""
    end = time.monotonic() + 10.0
    while time.monotonic() < end:
        found = [int(pid) for pid in file.read_text().split()] if file.exists() else []
        if len(found) >= count:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{found} is not {count} processes")


@pytest.mark.parametrize(
    ("word", "count", "then"), [("session", 1, "hang"), ("deep", 2, "hang"), ("daemon", 1, "hang"), ("deep", 2, "exit")]
)
def test_it_ends_with_its_worker_and_not_before(tmp_path: Path, word: str, count: int, then: str) -> None:
    file, other = tmp_path / "pids", tmp_path / "other"
    with scorer(timeout=2.0) as judging:
        (score,) = judging.score([(f"{word} {then}", prompt(file))])
        pids = started(file, count)
        assert score.status == ("timeout" if then == "hang" else "error")
        assert gone(pids)
        assert judging.score([("daemon", prompt(other))])[0].value == 1.0
        (kept,) = started(other, 1)
        assert judging.score([("x", prompt(other))])[0].value == 1.0
        assert alive(kept)  # its worker lives
        judging.score([("session hang", prompt(file))])
        assert gone([*started(file, count + 1), kept])


@pytest.mark.parametrize(("word", "count"), [("session", 1), ("deep", 2), ("daemon", 1)])
def test_what_a_reward_leaves_behind_ends_with_the_scorer(tmp_path: Path, word: str, count: int) -> None:
    file = tmp_path / "pids"
    with scorer(timeout=5.0) as judging:
        assert judging.score([(word, prompt(file))])[0].value == 1.0
        pids = started(file, count)
        assert all(map(alive, pids))
        began = time.monotonic()
    assert time.monotonic() - began < 2.0
    assert gone(pids)


def test_it_ends_when_the_trainer_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    program = f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_kin import prompt, scorer
        judging = scorer(timeout=300.0)
        judging.submit(0, "daemon", prompt(Path({str(file)!r})))
        judging.submit(1, "deep hang", prompt(Path({str(file)!r})))
        time.sleep(300)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], env=environment()) as trainer:
        pids = started(file, 3)
        trainer.kill()
    assert gone(pids)


def test_a_worker_that_keeps_a_process_is_not_forked(tmp_path: Path) -> None:
    """Its copies would all talk to that one process, and get each other's answers."""
    began = time.monotonic()
    with Scorer({"keeps": (straying.Keeps(), 1.0)}, workers=2, timeout=2.0) as judging:
        batch, left = 0, 3  # batches after its copies have been found out
        while left and time.monotonic() - began < 60:
            texts = [f"{batch}/{i}" for i in range(60)]
            texts[30] = "hang" if batch == 2 or left == 2 else texts[30]
            scores = judging.score([(text, prompt(tmp_path)) for text in texts])
            assert [s.value for s, text in zip(scores, texts, strict=True)] == [
                None if text == "hang" else 1.0 for text in texts
            ]
            batch += 1
            crew = judging._pool._crew
            left -= crew is not None and crew._barren
        assert not left

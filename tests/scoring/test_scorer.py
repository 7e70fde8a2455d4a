from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from posttrain.config.errors import ConfigError
from posttrain.config.imports import load_file
from posttrain.data.types import Prompt
from posttrain.scoring.api import as_reward
from posttrain.scoring.pool import ScorerBroken
from posttrain.scoring.scorer import Scorer

hostile = load_file(Path(__file__).with_name("hostile_rewards.py"))


def prompt(answer: str = "7", **columns) -> Prompt:
    return Prompt(id="p", source="test", messages=({"role": "user", "content": "q"},), answer=answer, columns=columns)


def obey(workers: int = 1, timeout: float = 1.0, memory_mb: int = 1024) -> Scorer:
    return Scorer({"obey": (hostile.Obey(), 1.0)}, workers=workers, timeout=timeout, memory_mb=memory_mb)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.fixture(scope="module")
def shared():
    with obey() as scorer:
        yield scorer


def test_order_is_kept_over_several_workers():
    rng = random.Random(0)
    items = [
        (f"value {i}", prompt()) if rng.random() < 0.97 else (f"sleep {rng.random() / 20}", prompt())
        for i in range(700)
    ]
    with obey(workers=3) as scorer:
        scores = scorer.score(items)
    wanted = [float(text.split()[1]) if text.startswith("value") else 0.0 for text, _ in items]
    assert [s.value for s in scores] == wanted


@pytest.mark.parametrize(
    ("completion", "status", "detail"),
    [
        ("sleep 60", "timeout", "scoring.timeout = 1 s"),
        ("loop", "timeout", "scoring.timeout"),
        ("backtrack", "timeout", "scoring.timeout"),
        ("stop", "timeout", "scoring.timeout"),
        ("ignore", "timeout", "scoring.timeout"),
        ("exit 3", "error", "exited with code 3"),
        ("exit 0", "error", "exited with code 0"),
        ("sysexit", "error", "SystemExit: 3"),
        ("interrupt", "error", "KeyboardInterrupt"),
        ("bomb", "error", "MemoryError"),
        ("raise oh no", "error", "ValueError: oh no"),
        ("raise \ud800\x00", "error", "ValueError"),
        ("suicide", "error", "SIGKILL"),
        ("junk", "error", "not a verdict"),
        ("close", "error", "worker"),
        ("nan", "error", "nan"),
        ("inf", "error", "inf"),
        ("text", "error", "returned str"),
        ("none", "skipped", ""),
    ],
)
def test_a_hostile_sample_fails_alone(shared, completion, status, detail):
    items = [("7", prompt()), ("8", prompt()), (completion, prompt()), ("7", prompt()), ("true", prompt())]
    scores = shared.score(items)
    assert [s.value for s in scores] == [1.0, 0.0, None, 1.0, 1.0]
    assert [s.status for s in scores] == ["ok", "ok", status, "ok", "ok"]
    assert [s.correct for s in scores] == [True, False, False, True, True]
    assert detail in scores[2].detail
    assert len(scores[2].detail) <= 500


@pytest.mark.parametrize("completion", ["junk", "close"])
def test_workers_are_the_same_under_a_trainer_with_many_open_files(completion):
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(50)]
    try:
        with obey() as scorer:
            scores = scorer.score([("7", prompt()), ("heirs", prompt()), (completion, prompt()), ("7", prompt())])
    finally:
        for descriptor in held:
            os.close(descriptor)
    assert [s.value for s in scores] == [1.0, 3.0, None, 1.0]  # only the three standard streams are inherited
    assert [s.status for s in scores] == ["ok", "ok", "error", "ok"]


def test_many_hostile_samples_in_one_chunk_are_each_found():
    bad = {3: "exit 1", 9: "sleep 60", 10: "suicide", 30: "loop", 39: "exit 2"}
    items = [(bad.get(i, f"value {i}"), prompt()) for i in range(40)]
    with obey(workers=2, timeout=0.5) as scorer:
        scores = scorer.score(items)
    for i, score in enumerate(scores):
        assert score.status == ({9: "timeout", 30: "timeout"}.get(i, "error") if i in bad else "ok")
        assert score.value == (None if i in bad else float(i))


def test_output_of_rewards_and_long_details_do_no_harm(shared, capfd):
    scores = shared.score([("print", prompt("print")), ("long", prompt()), ("7" * 3_000_000, prompt())])
    assert [s.value for s in scores] == [1.0, 1.0, 0.0]
    assert "noise" not in capfd.readouterr().out


def test_the_parent_is_never_blocked_by_a_stuck_worker():
    with obey(timeout=30.0) as scorer:
        scorer.score([("7", prompt())])
        began = time.monotonic()
        scorer.submit(0, "stop", prompt())
        for i in range(1, 200):  # far more than a socket buffer holds
            scorer.submit(i, "x" * 100_000, prompt())
        assert scorer.ready() == []
        assert scorer.outstanding == 200
        assert time.monotonic() - began < 10.0
        closing = time.monotonic()
    assert time.monotonic() - closing < 10.0


def test_streaming_returns_each_key_once():
    with obey(workers=2) as scorer:
        got = {}
        for i in range(300):
            scorer.submit(("step", i), f"value {i}", prompt())
            if i % 50 == 0:
                got.update(dict(scorer.ready()))
        for key, score in scorer.drain():
            assert key not in got
            got[key] = score
        assert scorer.ready() == []
        assert {key: s.value for key, s in got.items()} == {("step", i): float(i) for i in range(300)}
        scorer.submit("again", "7", prompt())
        with pytest.raises(ValueError, match="already submitted"):
            scorer.submit("again", "7", prompt())
        assert scorer.score([("value 5", prompt())])[0].value == 5.0  # both ways at once
        assert [key for key, _ in scorer.drain()] == ["again"]


def test_empty_input(shared):
    assert shared.score([]) == []
    assert shared.score([("", prompt())])[0].value == 0.0


def test_workers_import_no_torch_and_ignore_sigint(shared):
    scores = shared.score([("modules", prompt()), ("sigint", prompt())])
    assert [s.value for s in scores] == [0.0, 1.0]


def test_scoring_itself_imports_no_torch():
    code = (
        "import sys; import posttrain.scoring.scorer; from posttrain.config.registries import REWARDS;"
        "REWARDS.names();"
        "print(sorted({'torch','transformers','sympy','math_verify'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.strip() == "[]"


def test_the_built_in_rewards_run_in_workers():
    from posttrain.config.registries import REWARDS

    rewards = {
        "correct": (REWARDS.build("math", "reward"), 1.0),
        "shape": (REWARDS.build({"use": "format", "tags": ["a"]}, "reward"), 0.5),
    }
    with Scorer(rewards, timeout=5.0) as scorer:
        items = [
            ("<a>\\boxed{1/2}</a>", prompt("0.5")),
            ("\\boxed{3}", prompt("0.5")),
            ("<a>x</a>", prompt("\\frac{")),
        ]
        right, wrong, broken = scorer.score(items)
    assert (right.value, right.correct) == (1.5, True)
    assert right.parts == {"correct": 1.0, "correct/format": 1.0, "correct/parsed": 1.0, "shape": 1.0}
    assert (wrong.value, wrong.correct) == (0.0, False)
    assert (broken.value, broken.status, broken.parts["shape"]) == (None, "unparseable", 1.0)
    assert broken.detail.startswith("correct: ")


def test_plain_functions_are_rewards():
    with Scorer(
        {"a": (as_reward(hostile.trl_length), 1.0), "b": (as_reward(hostile.trl_chat, chat=True), 10.0)}
    ) as scorer:
        assert [s.value for s in scorer.score([("q", prompt("123")), ("xyz", prompt("123"))])] == [14.0, 6.0]
    with Scorer({"a": (as_reward(hostile.exact), 1.0)}) as scorer:
        assert scorer.score([("7", prompt(unit="cm"))])[0].correct
        assert "KeyError" in scorer.score([("7", prompt())])[0].detail


def test_close_leaves_no_process_and_may_be_repeated():
    scorer = obey(workers=2, timeout=30.0)
    scorer.score([("7", prompt())] * 10)
    pids = scorer.pids()
    scorer.submit(1, "child", prompt())
    time.sleep(0.5)
    grandchildren = [child for pid in pids for child in children_of(pid)]
    assert len(pids) >= 2  # and spares
    assert grandchildren
    began = time.monotonic()
    scorer.close()
    scorer.close()
    assert time.monotonic() - began < 10.0
    assert gone(pids + grandchildren)
    for call in (scorer.ready, lambda: scorer.score([("7", prompt())])):
        with pytest.raises(ScorerBroken, match="closed"):
            call()


@pytest.mark.parametrize("completion", ["backtrack", "stop", "ignore", "deaf"])
@pytest.mark.parametrize("workers", [1, 4])
def test_close_does_not_wait_for_a_stuck_worker(completion, workers):
    scorer = obey(workers=workers, timeout=30.0)
    scorer.score([("7", prompt())] * 2 * workers)
    broken = []

    def score() -> None:
        with pytest.raises(ScorerBroken, match="closed") as caught:
            scorer.score([(completion, prompt())] * workers)  # all at once: one for each worker
        broken.append(caught)

    caller = threading.Thread(target=score)
    caller.start()
    time.sleep(0.2)
    pids = scorer.pids()
    began = time.monotonic()
    scorer.close()
    assert time.monotonic() - began < 10.0
    assert gone(pids)
    caller.join()
    assert broken


def test_close_while_workers_still_start():
    scorer = obey(workers=2)
    time.sleep(0.05)
    scorer.close()
    assert not [pid for pid in scorer.pids() if alive(pid)]


def test_a_killed_worker_is_replaced(shared):
    before = shared.pids()
    os.kill(before[0], signal.SIGKILL)
    assert shared.score([("7", prompt())] * 3)[-1].value == 1.0
    assert gone(before[:1])
    end = time.monotonic() + 5.0
    while before[0] in shared.pids() and time.monotonic() < end:
        time.sleep(0.02)
    assert before[0] not in shared.pids()
    assert shared.score([("7", prompt())] * 3)[-1].value == 1.0


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@pytest.mark.parametrize("first", ["7", "loop", "backtrack"])
def test_workers_die_with_a_killed_parent(first):
    program = f"""
        import os, sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_scorer import obey, prompt
        scorer = obey(workers=2, timeout=300.0)
        scorer.score([("7", prompt())] * 100)
        scorer.submit(0, {first!r}, prompt())
        time.sleep(0.3)
        print(*scorer.pids(), flush=True)
        time.sleep(300)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) >= 2  # and spares
        assert all(alive(pid) for pid in pids)
        parent.kill()
    assert gone(pids)


def test_rewards_that_cannot_be_loaded_are_reported():
    with Scorer({"proof": (hostile.Unloadable(), 1.0)}) as scorer, pytest.raises(ScorerBroken, match="lean4"):
        scorer.score([("7", prompt())])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "scoring.workers is 0"),
        ({"timeout": 0.0}, "scoring.timeout"),
        ({"timeout": float("nan")}, "scoring.timeout"),
        ({"memory_mb": 1}, "scoring.memory_mb"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Scorer({"one": (hostile.Constant(), 1.0)}, **settings)


def test_no_reward_and_unpicklable_rewards_are_refused():
    with pytest.raises(ConfigError, match="reward is empty"):
        Scorer({})
    with pytest.raises(ConfigError, match="cannot be sent"):
        Scorer({"one": (lambda completion, prompt: 1.0, 1.0)})  # type: ignore[dict-item]


def test_the_main_process_keeps_its_signal_handlers(shared):
    before = {s: signal.getsignal(s) for s in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
    shared.score([("7", prompt())])
    assert {s: signal.getsignal(s) for s in before} == before

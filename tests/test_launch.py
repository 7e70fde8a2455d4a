from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from posttrain import launch
from posttrain.config.errors import ConfigError
from posttrain.launch import command

LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]


@pytest.fixture(autouse=True)
def own_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(launch, "_gpus", lambda: count)


# ---- the command ----
@pytest.mark.parametrize("name", ["cpu-2", "gpu-1", "gpu-8-zero2", "gpu-8-zero3", "multi-node"])
def test_a_named_configuration(name: str, root: Path) -> None:
    words = command("quickstart", [], launch=name)
    assert words == [*LAUNCHER, str(root / "launch" / f"{name}.yaml"), "-m", "posttrain.train", "quickstart"]


def test_a_configuration_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("")
    assert command("r.yaml", [], launch=str(own))[4] == str(own)
    with pytest.raises(ConfigError, match=r"--launch=.*none\.yaml: there is no such file"):
        command("r.yaml", [], launch=str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(("name", "near"), [("gpu-8-zero4", "'gpu-8-zero3'"), ("cpu2", "'cpu-2'")])
def test_an_unknown_configuration_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"--launch={name}: there is no such") as error:
        command("r.yaml", [], launch=name)
    assert f"Did you mean {near}?" in str(error.value)


def test_or_all_of_them() -> None:
    with pytest.raises(ConfigError, match="cpu-2, gpu-1, gpu-8-zero2, gpu-8-zero3, multi-node"):
        command("r.yaml", [], launch="slurm")


@pytest.mark.parametrize(
    ("count", "config", "more"),
    [
        (0, "cpu-2", []),
        (1, "gpu-1", []),
        (2, "gpu-8-zero2", ["--num_processes", "2"]),
        (8, "gpu-8-zero2", ["--num_processes", "8"]),
    ],
)
def test_the_machine_decides_without_a_name(
    monkeypatch: pytest.MonkeyPatch, count: int, config: str, more: list[str]
) -> None:
    gpus(monkeypatch, count)
    words = command("r.yaml", [])
    assert Path(words[4]).stem == config
    assert words[5:] == [*more, "-m", "posttrain.train", "r.yaml"]


def test_overrides_and_flags_are_passed_through(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    overrides = ["steps=3", "chat.system=Think first, then answer."]
    tail = ["-m", "posttrain.train", "r.yaml", *overrides]
    assert command("r.yaml", overrides)[5:] == tail
    assert command("r.yaml", overrides, resume=True)[5:] == [*tail, "--resume"]
    assert command("r.yaml", overrides, overwrite=True)[5:] == [*tail, "--overwrite"]


def test_a_dry_run_prints_the_command_and_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "_run", lambda words: pytest.fail("it was run"))
    monkeypatch.setattr(launch, "problems", lambda *args, **flags: [])
    assert launch.run("quickstart", ["name=two words"], launch="cpu-2", dry_run=True) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("$ accelerate launch --config_file ")
    assert printed.endswith("-m posttrain.train quickstart 'name=two words'\n")


def test_what_is_wrong_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, bool]] = []
    monkeypatch.setattr(launch, "problems", lambda loaded, **flags: asked.append(flags) or ["no vllm", "no room"])
    monkeypatch.setattr(launch, "_run", lambda words: pytest.fail("it was run"))
    with pytest.raises(ConfigError, match="no vllm\nno room"):
        launch.run("quickstart", [], launch="cpu-2", resume=True)
    assert asked == [{"resume": True, "overwrite": False}]


# ---- the run ----
def child(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(["import os, signal, sys, time", *lines])]


def logs(folder: Path) -> list[Path]:
    return list(folder.glob("posttrain-*.log"))


@pytest.mark.parametrize(
    ("said", "code", "expected"),
    [
        ([], 0, 0),
        (["posttrain: error: batch.samples"], 1, 2),
        (["posttrain: stopped: all rewards are 0"], 1, 3),
    ],
)
def test_the_exit_code_says_what_happened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: list[str], code: int, expected: int
) -> None:
    lines = [f"print({line!r}, file=sys.stderr)" for line in ["noise of the launcher", *said]]
    assert launch._run(child(*lines, f"sys.exit({code})")) == expected
    assert capsys.readouterr().err.splitlines() == [s.removeprefix("posttrain: ") for s in said]
    assert logs(tmp_path) == []


def test_a_crash_shows_the_ranks_traceback_and_keeps_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["noise", "[rank0]: Traceback", "[rank0]: ZeroDivisionError", "ChildFailedError of the launcher"]
    assert launch._run(child(*(f"print({line!r}, file=sys.stderr)" for line in lines), "sys.exit(1)")) == 1
    shown = capsys.readouterr().err
    (log,) = logs(tmp_path)
    assert shown.splitlines()[:2] == ["[rank0]: Traceback", "[rank0]: ZeroDivisionError"]
    assert str(log) in shown
    assert log.read_text().splitlines() == lines


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_is_passed_on_once_and_decides_the_exit_code(tmp_path: Path, number: int, code: int) -> None:
    ready, got = tmp_path / "ready", tmp_path / "got"
    before = signal.getsignal(number)

    def interrupt() -> None:
        deadline = time.monotonic() + 20
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    found = launch._run(
        child(
            f"signal.signal(signal.SIGINT, lambda *a: (open({str(got)!r}, 'a').write('x'), os._exit(1)))",
            f"open({str(ready)!r}, 'w').close()",
            "time.sleep(30)",
        )
    )
    thread.join()
    assert found == code
    assert got.read_text() == "x"
    assert signal.getsignal(number) == before


def test_what_does_not_stop_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE", 0.3)
    ready = tmp_path / "ready"

    def interrupt() -> None:
        deadline = time.monotonic() + 20
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    start = time.monotonic()
    stubborn = child(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)", f"open({str(ready)!r}, 'w').close()", "time.sleep(30)"
    )
    assert launch._run(stubborn) == 130
    thread.join()
    assert time.monotonic() - start < 25

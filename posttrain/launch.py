"""`posttrain train`: picks an accelerate configuration, prints the command, runs it, and passes on a Ctrl-C."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from posttrain import doctor
from posttrain.config.environment import problems
from posttrain.config.errors import ConfigError
from posttrain.config.imports import package_folder
from posttrain.config.load import load_recipe
from posttrain.config.names import nearest
from posttrain.signals import ASKING

OURS = "posttrain: "  # what `posttrain.train` puts before the lines that a person should see
LOST = ("Connection closed by peer", "Connection reset by peer")
GRACE = 25.0  # seconds between a Ctrl-C and the end of whatever is still there


def command(
    recipe: str, overrides: Sequence[str], launch: str | None = None, resume: bool = False, overwrite: bool = False
) -> list[str]:
    """The accelerate command for this machine, or for the named configuration."""
    config, processes = _config(launch)
    head = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    if processes is not None:
        head += ["--num_processes", str(processes)]
    flags = ["--resume"] * resume + ["--overwrite"] * overwrite
    return [*head, "-m", "posttrain.train", recipe, *overrides, *flags]


def run(
    recipe: str,
    overrides: Sequence[str],
    launch: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> int:
    """Exit codes: 0 done, 1 a crash, 2 a mistake in recipe or data, 3 stopped by an alarm, 130 Ctrl-C."""
    words = command(recipe, overrides, launch, resume, overwrite)
    # What is wrong with the recipe or this machine is said before anything heavy starts.
    if found := problems(load_recipe(recipe, overrides), resume=resume, overwrite=overwrite):
        raise ConfigError("\n".join(found))
    shown = ["accelerate", "launch", *words[3:]]
    print("$ " + shlex.join(_shorter(word) for word in shown), flush=True)
    return 0 if dry_run else _run(words)


def _config(launch: str | None) -> tuple[Path, int | None]:
    folder = package_folder("posttrain_launch")
    if launch is not None and launch.endswith((".yaml", ".yml")):
        if not Path(launch).is_file():
            raise ConfigError(f"--launch={launch}: there is no such file")
        return Path(launch), None
    if folder is None:
        raise ConfigError("the launch configurations are not installed: run `make setup`, or give --launch FILE.yaml")
    if launch is not None:
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        if launch not in known:
            raise ConfigError(f"--launch={launch}: there is no such accelerate configuration. {nearest(launch, known)}")
        return folder / f"{launch}.yaml", None
    gpus = _gpus()
    if gpus == 0:
        return folder / "cpu-2.yaml", None
    return (folder / "gpu-1.yaml", None) if gpus == 1 else (folder / "gpu-8-zero2.yaml", gpus)


def _gpus() -> int:
    """How many the driver lists; counted without importing torch."""
    if not doctor.has_cuda():
        return 0
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return sum(bool(device.strip()) for device in visible.split(","))
    asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in asked.stdout.splitlines())


def _shorter(word: str) -> str:
    here = str(Path.cwd()) + os.sep
    return word.removeprefix(here)


def _run(words: Sequence[str]) -> int:
    """The launcher in a session of its own: a Ctrl-C in the terminal reaches us alone, and we pass it on once."""
    asked = _Signals()
    with tempfile.NamedTemporaryFile("w", prefix="posttrain-", suffix=".log", delete=False) as log:
        # torch's launcher sets one thread per rank too, but says so in four lines.
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        if not doctor.has_cuda():
            environment.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found no GPU
        process = subprocess.Popen(
            words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, errors="replace"
        )
        asked.pass_on_to(process)
        assert process.stderr is not None
        relay = _Relay(process.stderr, log)
        relay.start()
        try:
            code = process.wait()
        finally:
            asked.restore()
            relay.join(timeout=5)
    return _outcome(code, asked.number, relay.said, Path(log.name))


def _outcome(code: int, asked: int | None, said: Sequence[str], log: Path) -> int:
    """The exit code, and for a crash the words of the rank that broke. A log that nobody needs is removed."""
    broken = [] if code == 0 else _traceback(log.read_text(errors="replace").splitlines())
    if said or (not broken and (code == 0 or asked is not None)):
        log.unlink()
        if code == 0 or (asked is not None and not any(line.startswith("error:") for line in said)):
            return 0 if code == 0 else 128 + (asked or 0)
        return 2 if any(line.startswith("error:") for line in said) else 3
    print("\n".join(broken or log.read_text(errors="replace").splitlines()[-30:]), file=sys.stderr)
    print(f"posttrain: the run crashed (exit code {code}); everything it wrote to stderr is in {log}", file=sys.stderr)
    return 1


def _traceback(lines: Sequence[str]) -> list[str]:
    """The end of the traceback of the rank that broke first; the others only lost their connection to it."""
    by_rank: dict[str, list[str]] = {}
    for line in lines:
        if found := re.match(r"\[rank(\d+)\]: ", line):
            by_rank.setdefault(found[1], []).append(line)
    own = [text for text in by_rank.values() if not any(lost in line for line in text for lost in LOST)]
    return own[0][-30:] if own else []


class _Relay(threading.Thread):
    """Shows our own lines and keeps the rest: the launcher reports any exit code with a traceback of its own."""

    def __init__(self, stream: IO[str], log: IO[str]) -> None:
        super().__init__(daemon=True)
        self.stream, self.log, self.said = stream, log, list[str]()

    def run(self) -> None:
        for line in self.stream:
            if line.startswith(OURS):
                self.said.append(line.removeprefix(OURS).rstrip())
                print(self.said[-1], file=sys.stderr, flush=True)
            else:
                self.log.write(line)
                self.log.flush()


class _Signals:
    """Passes the first Ctrl-C on to the launcher, which tells every rank; ends everything when that takes too long."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.number: int | None = None
        self._before = {n: signal.signal(n, self._receive) for n in ASKING}

    def pass_on_to(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        if self.number is not None:  # asked while the launcher was being started
            self._tell()

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        if self.number is not None:
            self._kill()
            return
        self.number = number
        self._tell()

    def _tell(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        timer = threading.Timer(GRACE, self._kill)
        timer.daemon = True
        timer.start()

    def _kill(self) -> None:
        """The launcher alone: its ranks are in sessions of their own and end with it, and their engines with them."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

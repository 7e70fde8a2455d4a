"""`posttrain train`: picks an accelerate configuration, prints the command, runs it, and passes on a Ctrl-C."""

from __future__ import annotations

import os
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

OURS = "posttrain: "  # what `posttrain.train` puts before the lines that a person should see
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
    asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in asked.stdout.splitlines())


def _shorter(word: str) -> str:
    here = str(Path.cwd()) + os.sep
    return word.removeprefix(here)


def _run(words: Sequence[str]) -> int:
    """The launcher in a session of its own: a Ctrl-C in the terminal reaches us alone, and we pass it on once."""
    with tempfile.NamedTemporaryFile("w", prefix="posttrain-", suffix=".log", delete=False) as log:
        # torch's launcher sets one thread per rank too, but says so in four lines.
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        process = subprocess.Popen(
            words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, errors="replace"
        )
        assert process.stderr is not None
        relay = _Relay(process.stderr, log)
        relay.start()
        asked = _Signals(process)
        try:
            code = process.wait()
        finally:
            asked.restore()
            relay.join(timeout=5)
    return _outcome(code, asked, relay, Path(log.name))


def _outcome(code: int, asked: _Signals, relay: _Relay, log: Path) -> int:
    if code == 0 or asked.number is not None:
        log.unlink()
        return 128 + asked.number if asked.number is not None else 0
    if relay.said:
        log.unlink()
        return 2 if any(line.startswith("error:") for line in relay.said) else 3
    lines = log.read_text(errors="replace").splitlines()
    # What broke is a rank's traceback; the launcher's own comes after it and says nothing.
    tail = [line for line in lines if line.startswith("[rank0]: ")][-30:] or lines[-30:]
    print("\n".join(tail), file=sys.stderr)
    print(f"posttrain: the run crashed (exit code {code}); everything it wrote to stderr is in {log}", file=sys.stderr)
    return 1


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

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.number: int | None = None
        self._before = {n: signal.signal(n, self._receive) for n in (signal.SIGINT, signal.SIGTERM)}

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        if self.number is not None:
            self._kill()
            return
        self.number = number
        self.process.send_signal(signal.SIGINT)
        timer = threading.Timer(GRACE, self._kill)
        timer.daemon = True
        timer.start()

    def _kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

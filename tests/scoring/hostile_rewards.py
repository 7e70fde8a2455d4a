"""Rewards that misbehave in every way; loaded from this file, as a user's plugin beside a recipe is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import ClassVar

from posttrain.data.types import Score


@dataclass(frozen=True)
class Obey:
    """Does what the completion says."""

    def __call__(self, completion, prompt):
        word, _, rest = completion.partition(" ")
        if word == "sleep":
            time.sleep(float(rest))
        if word == "loop":
            while True:
                pass
        if word == "backtrack":  # one call into C that holds the interpreter's lock
            re.fullmatch(r"(a+)+b", "a" * 60)
        if word == "exit":
            os._exit(int(rest))
        if word == "sysexit":
            sys.exit(3)
        if word == "interrupt":
            raise KeyboardInterrupt
        if word == "bomb":
            return float(len(bytearray(1 << 34)))
        if word == "raise":
            raise ValueError(rest)
        if word == "suicide":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(60)
        if word == "junk":  # writes over the worker's own connection
            for fd in range(3, 20):
                try:
                    os.write(fd, b"\xff" * 64)
                except OSError:
                    continue
        if word == "close":
            os.closerange(3, 20)
        if word == "deaf":  # the connection is gone, the process is not
            os.closerange(3, 20)
            re.fullmatch(r"(a+)+b", "a" * 60)
        if word == "heirs":  # the worker's descriptors that a program started by a reward would inherit
            return float(sum(os.get_inheritable(int(fd)) for fd in os.listdir("/proc/self/fd") if is_open(int(fd))))
        if word == "child":
            subprocess.Popen(["sleep", "300"])
            while True:
                pass
        if word == "print":
            print("noise " * 10_000)
        if word == "long":
            return Score(value=1.0, detail="x" * 5_000_000)
        if word == "ignore":
            signal.signal(signal.SIGXCPU, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                pass
        special = {
            "nan": float("nan"), "inf": float("inf"), "none": None, "text": "1.0", "true": True,
            "modules": float(bool({"torch", "transformers"} & set(sys.modules))), "pid": float(os.getpid()),
            "sigint": float(signal.getsignal(signal.SIGINT) == signal.SIG_IGN),
        }  # fmt: skip
        if word in special:
            return special[word]
        return float(rest) if rest and word == "value" else float(completion == prompt.answer)

    def examples(self):
        return ()


@dataclass(frozen=True)
class Constant:
    value: float | None = 1.0

    def __call__(self, completion, prompt):
        return self.value

    def examples(self):
        return ()


@dataclass(frozen=True)
class Unloadable:
    def __call__(self, completion, prompt):
        return 1.0

    def prepare(self):
        raise ImportError("no module called lean4")

    def examples(self):
        return ()


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def trl_length(completions, answer, **kwargs):
    return [float(len(c) + len(a)) for c, a in zip(completions, answer, strict=True)]


def trl_chat(prompts, completions):
    return [float(prompts[0][0]["content"] == completions[0][0]["content"])]


def exact(completion, answer, **columns):
    return float(completion == answer and columns["unit"] == "cm")


def nothing(text):
    return 1.0


@dataclass(frozen=True)
class Prepared:
    """1 where the process that judges is the one that prepared."""

    def __call__(self, completion, prompt):
        if completion.startswith("sleep"):
            time.sleep(300)
        return float(os.environ["POSTTRAIN_TEST_PREPARED"] == str(os.getpid()))

    def prepare(self):
        os.environ["POSTTRAIN_TEST_PREPARED"] = str(os.getpid())

    def examples(self):
        return ()


@dataclass(frozen=True)
class Waits(Prepared):
    waits: ClassVar[bool] = True


@dataclass(frozen=True)
class Threaded(Prepared):
    def prepare(self):
        super().prepare()
        threading.Thread(target=time.sleep, args=(300,), daemon=True).start()


@dataclass(frozen=True)
class BrieflyThreaded(Prepared):
    def prepare(self):
        super().prepare()
        threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()


@dataclass(frozen=True)
class Opened(Prepared):
    def prepare(self):
        super().prepare()
        OPENED.append(open(__file__))  # noqa: SIM115  it stays open, as a connection to a data base does


OPENED: list = []


@dataclass(frozen=True)
class Ramp:
    """A schedule."""

    slope: float

    def __call__(self, step):
        return self.slope * step

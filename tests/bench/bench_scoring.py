"""Prints the throughput of scoring, asserts nothing: `python tests/bench/bench_scoring.py [seconds a run] [repeats] [only]`.

First what a reward does alone. Then the same answers without and with 1 % pathological ones, turn and turn about in one
run: the ratio counts, for the machine may be doing something else beside. They are the math reward's hostile answers
(its tests' list: powers of powers, 10^5 braces, 900 kB of boxes ...), and ones in which a reward hangs until
scoring.timeout. `healthy` is until the last other answer has its verdict, `all` until the last of them has; no batch
with a hung answer can end before scoring.timeout.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent), str(ROOT / "tests/rewards")]

from hanging import BURNS, BURNS_IN_C, SLEEPS, Even, HangingMath  # noqa: E402
from hostile_math import HOSTILE  # noqa: E402

from posttrain.data.types import Prompt  # noqa: E402
from posttrain.scoring.scorer import Scorer  # noqa: E402

Items = list[tuple[str, Prompt]]
HOSTILE_MATH = "hostile math"
BIG = re.compile(r"\^|\*\*|!|binom|choose")  # with other numbers these may hang by themselves
TIMEOUT = 5.0  # seconds, the recipe's default
WARM_UP = 0.6  # of the items are judged before the clock starts: it is the middle of a run that counts


def prompt(name: str, answer: str) -> Prompt:
    return Prompt(id=name, source="bench", messages=({"role": "user", "content": name},), answer=answer)


def sums(count: int, rng: random.Random) -> Items:
    """Short chains of thought as in the quickstart, 8 to a problem, half of them right: what takes least."""
    items = []
    for i in range(count // 8):
        a, b, c = (rng.randrange(50) for _ in range(3))
        about = prompt(str(i), str(a + b + c))
        for _ in range(8):
            found = a + b + c if rng.random() < 0.5 else a + b + c + rng.randrange(1, 10)
            items.append((f"{a}+{b}={a + b}\n{a + b}+{c}={found}\n\\boxed{{{found}}}", about))
    return items


def formulas(count: int, rng: random.Random) -> Items:
    """Answers of the project's own cases behind 4 kB of reasoning, 8 to a problem.

    The numbers in them are others in every problem, so that no cache knows them from an earlier one.
    """
    lines = (ROOT / "tests/rewards/math_cases.jsonl").read_text().splitlines()
    cases = [row for row in map(json.loads, lines) if row["right"] and row["wrong"] and not BIG.search(str(row))]
    reasoning = "so we see that x + 1 = 2 \\frac{a}{b} and " * 100
    items: Items = []
    while len(items) < count:
        row, more = rng.choice(cases), rng.randrange(1, 10**4)

        def other(text: str, more: int = more) -> str:
            return re.sub(r"\d{1,3}", lambda found: str(int(found[0]) + more), text)

        about = prompt(f"{len(items)}", other(row["reference"]))
        said = [rng.choice(row[rng.choice(("right", "wrong"))]) for _ in range(8)]
        items += [(f"{reasoning}\\boxed{{{other(text)}}}", about) for text in said]
    return items


def even(count: int, rng: random.Random) -> Items:
    """For a reward that does not look at them."""
    return [("", prompt("even", ""))] * count


def with_hung(items: Items, kind: str) -> Items:
    """Every hundredth answer replaced."""
    texts = HOSTILE if kind == HOSTILE_MATH else (kind,)
    return [(texts[i // 100 % len(texts)], item[1]) if i % 100 == 50 else item for i, item in enumerate(items)]


class Run:
    """One pass over the items by a new scorer, which has been at work for a while."""

    def __init__(self, reward: Any, before: Items, items: Items, workers: int) -> None:
        hung = {i for i, (text, _) in enumerate(items) if text in (SLEEPS, BURNS, BURNS_IN_C, *HOSTILE)}
        with Scorer({"one": (reward, 1.0)}, workers=workers, timeout=TIMEOUT) as scorer:
            scorer.score(before)
            began, cpu = time.perf_counter(), time.process_time()
            for i, item in enumerate(items):
                scorer.submit(i, *item)
            self.seconds = self.healthy = 0.0
            self.most, self.memory, self.failed, left = 0, 0, 0, len(items)
            while left:
                for i, score in scorer.ready():
                    left -= 1
                    self.seconds = time.perf_counter() - began
                    self.healthy = self.healthy if i in hung else self.seconds
                    self.failed += i not in hung and score.status not in ("ok", "unparseable")
                pids = scorer.pids()
                if len(pids) > self.most:
                    self.most, self.memory = len(pids), sum(map(private, pids))
                time.sleep(0.01)
            self.cpu = time.process_time() - cpu
        self.rate, self.of_healthy = len(items) / self.seconds, (len(items) - len(hung)) / self.healthy


def private(pid: int) -> int:
    """Bytes of a process that no other one shares."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Private_"))


def compare(name: str, reward: Any, items: Items, kind: str, workers: int, repeats: int) -> None:
    healthy, total = [], []
    first = int(len(items) * WARM_UP)
    for _ in range(repeats):
        clean, hung = (Run(reward, x[:first], x[first:], workers) for x in (items, with_hung(items, kind)))
        healthy.append(hung.of_healthy / clean.rate)
        total.append(hung.rate / clean.rate)
        print(
            f"{name:9} {kind:20} workers {workers}: {clean.rate:6.0f} a second without, {hung.of_healthy:6.0f} with: "
            f"healthy {healthy[-1]:4.0%}, all {total[-1]:4.0%}; at most {hung.most} processes, "
            f"{hung.memory / (1 << 20) / max(hung.most, 1):.1f} MiB of its own each; other failures {hung.failed}",
            flush=True,
        )
    print(f"{name:9} {kind:20} workers {workers}: median healthy {median(healthy):.0%}, all {median(total):.0%}\n")


def main(seconds: float = 20.0, repeats: int = 3, only: str = "") -> None:
    rng = random.Random(0)
    for name, make, reward in (
        ("formulas", formulas, HangingMath()),
        ("sums", sums, HangingMath()),
        ("even", even, Even()),
    ):
        kinds = [kind for kind in (HOSTILE_MATH, SLEEPS, BURNS, BURNS_IN_C) if only in f"{name} {kind}"]
        if name == "even":
            kinds = [kind for kind in kinds if kind != HOSTILE_MATH]
        if not kinds:
            continue
        probe = Run(reward, make(1000, rng), make(1000, rng), 1)
        parent = 1e6 * probe.cpu / 1000
        print(
            f"{name:9} workers 1: {probe.rate:6.0f} a second, {parent:.0f} us of the parent's time a sample", flush=True
        )
        for workers in (1, 2):
            items = make(int(probe.rate * workers * seconds / (1 - WARM_UP)), rng)
            for kind in kinds:
                compare(name, reward, items, kind, workers, repeats)


if __name__ == "__main__":
    print(f"scoring.timeout {TIMEOUT:g} s, 1 % of the answers pathological")
    main(*(kind(text) for kind, text in zip((float, int, str), sys.argv[1:], strict=False)))

"""Prints what the algorithms that act on data do, beside GRPO: `python tests/bench/bench_effects.py [BED ...] [--seeds 3]`.

Asserts nothing. Every arm of a bed starts from the same weights, which one warm-up makes, and has the same steps and the
same rollouts a step (GHPO and Guide ask for more where they give hints: `compare` prints the rollouts of every arm). Real
vLLM and DeepSpeed, two processes, one run after another; a run takes one to three minutes on two cores. Runs that are
there already are not repeated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

POSTTRAIN = [sys.executable, "-m", "posttrain"]
DECAYING = "{use: linear, start: %g, end: %g, steps: 80}"


@dataclass(frozen=True)
class Bed:
    """Arms are an algorithm and what is set beside it, by name; the first is what the others are compared with."""

    recipe: str
    settings: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]


MIXED = ("steps=80", "eval.every=10", "eval.problems=240", "checkpoint.every=0")
BEDS = {
    "hints": Bed(
        "testbeds/hints",
        (),
        {
            "grpo": ("grpo",),
            "ghpo": ("ghpo", "strategy.start=0"),
            "guide": ("guide",),
            "dump": ("dump", "batch.samples=8", "objective.ref_kl.weight=0.0"),
        },
    ),
    "experts": Bed(
        "testbeds/experts",
        (),
        {
            "rl": ("grpo",),
            "sft": ("chord_mu", "schedules.mu=1.0"),
            "chord": ("chord_mu", "schedules.mu.decay=50"),
        },
    ),
    "selection": Bed(
        "quickstart",
        MIXED,
        {
            "grpo": ("grpo",),
            "d3s": (
                "d3s",
                "selects=[{use: max_variance, keep: %s, within: batch}]" % (DECAYING % (2, 8)),
                "objective.policy.gates=[{use: informative_tokens, fraction: %s}]" % (DECAYING % (0.2, 1)),
            ),
        },
    ),
}


def train(recipe: Path, output: Path, settings: list[str]) -> None:
    if (output / "summary.json").exists():
        return
    command = [*POSTTRAIN, "train", str(recipe), "--overwrite", f"output={output}", f"name={output.parent.name}"]
    print(" ".join([*command, *settings]), flush=True)
    log = output.with_suffix(".log")
    output.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        if subprocess.run([*command, *settings], stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
            sys.exit(f"that run failed: see {log}")


def measure(name: str, seeds: int, out: Path) -> None:
    bed = BEDS[name]
    warm = out / bed.recipe.replace("/", "-") / "warm-up"
    first = out / f"{warm.parent.name}.yaml"
    out.mkdir(parents=True, exist_ok=True)
    first.write_text(f"extends: {bed.recipe}.yaml\n")
    train(first, warm, ["steps=1", "eval.before=false", "eval.after=false"])
    model = f"model={{use: pretrained, path: {warm / 'warm'}}}"
    runs = []
    for seed in range(seeds):
        for arm, (algorithm, *settings) in bed.arms.items():
            recipe = out / f"{name}-{arm}.yaml"
            recipe.write_text(f"extends: [{bed.recipe}.yaml, algorithms/{algorithm}.yaml]\n")
            runs.append(out / name / arm / str(seed))
            train(recipe, runs[-1], [model, "warmup=false", f"seed={seed}", *bed.settings, *settings])
    page = out / f"{name}.html"
    subprocess.run([*POSTTRAIN, "compare", "--by", "name", "--out", str(page), *map(str, runs)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("beds", nargs="*", metavar="BED", help=", ".join(BEDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/effects"))
    options = parser.parse_args()
    if unknown := sorted(set(options.beds) - set(BEDS)):
        parser.error(f"no bed is called {unknown[0]!r}. Known: {', '.join(BEDS)}.")
    for name in options.beds or BEDS:
        measure(name, options.seeds, options.out.resolve())


if __name__ == "__main__":
    main()

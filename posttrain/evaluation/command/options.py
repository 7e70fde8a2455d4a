"""The options of `posttrain eval`, and which of its actions they mean. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from posttrain.config.errors import ConfigError


def run(options: argparse.Namespace) -> int:
    """Exit codes: 0 done, 2 a mistake in the request, 3 something is not as it should be, 130 Ctrl-C."""
    if options.action == "regenerate":
        from posttrain.evaluation.command import again

        return again.run(options)
    if options.action == "compare":
        return _compare(options)
    from posttrain.evaluation.command import evaluate

    return evaluate.run(options)


def _compare(options: argparse.Namespace) -> int:
    if len(options.what) != 2:
        raise ConfigError("eval compare takes two: folders of evaluations, or FOLDER:MODEL, as in `eval compare A B`")
    from posttrain.evaluation import compare

    a, b = options.what
    return compare.run(a, b, Path(options.out) if options.out else None)


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = ("run", "regenerate", "compare")
    parser.commands = actions  # type: ignore[attr-defined]
    add = parser.add_argument
    add("action", choices=actions, nargs="?", default="run", help="run is the default")
    add("what", nargs="*", metavar="FOLDER", help="regenerate: FOLDER BENCH QUESTION SAMPLE; compare: two folders")
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}
    add("--model", metavar="MODEL", help="folders, checkpoints, a run, LoRA adapters, hub ids; patterns too", **several)
    add(
        "--bench",
        metavar="A,B",
        help="aime24, aime25, math500, ... or file:PATH; as in --bench aime24,math500",
        **several,
    )
    add(
        "--protocol",
        metavar="NAME",
        help="prompt, sampling, samples, grader: a name or a YAML file (default: greedy; sampled for several --samples)",
    )
    add("--samples", type=int, metavar="N", help="completions of each question (default: the protocol's)")
    add("--data", metavar="FOLDER", help="read benchmarks from local files there instead of the hub")
    add("--out", metavar="FOLDER", help="default runs/eval/MODEL-PROTOCOL; the same command again continues there")
    add("--overwrite", action="store_true", help="replace the evaluation in the folder")
    add("--limit", type=int, metavar="N", help="only the first N questions of each benchmark")
    add("--seed", type=int, metavar="N", help="of all samples (default: the protocol's)")
    add("--max-tokens", type=int, metavar="N", help="longest completion (default: the protocol's)")
    add("--context", type=int, metavar="N", help="most tokens of prompt and completion (default: the model's limit)")
    add("--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto", help="auto: float32 on CPUs")
    add("--tensor-parallel", type=int, default=1, metavar="N", help="devices that share one model")
    add("--data-parallel", type=int, default=1, metavar="N", help="engines that share the questions")
    add("--batch-invariant", action="store_true", help="on GPUs: a sample is the same whatever runs beside it; slower")
    add("--max-sequences", type=int, metavar="N", help="completions sampled at a time (default 1024, on CPUs 256)")
    add("--gpu-memory", type=float, default=0.9, metavar="SHARE", help="of each GPU (default 0.9)")
    add("--kv-cache-gib", type=float, default=2.0, metavar="GIB", help="on CPUs (default 2)")
    add("--calibrate", metavar="NAME", help="compare with the published scores of a known model")
    add(
        "--max-failed",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="samples without a verdict before a result is marked",
    )
    add("--workers", type=int, default=1, metavar="N", help="scoring processes for each kind of answer (default 1)")
    add("--timeout", type=float, default=5.0, metavar="S", help="seconds for one verdict (default 5)")

"""One gradient for every way to cut a batch, for everything registered: a new algorithm is covered without a test.

Real DeepSpeed ZeRO-2 in float64, on one process and on two over gloo. The reference of each algorithm is its own gradient
with all rows in one micro-batch of one process; what that gradient should be is the matter of the audit's tests.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.config.algorithms import explore
from posttrain.config.models import TinyModel
from posttrain.config.parents import packaged_recipes
from tests.conftest import LAUNCHER
from tests.learner.invariance_worker import cuts

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("invariance_worker.py")
ALGORITHMS = sorted(n.removeprefix("algorithms/") for n in packaged_recipes() if n.startswith("algorithms/"))
# Switches that no algorithm turns on by itself.
SWITCHES = {
    "grpo, every penalty": ("grpo", {
        "objective.ref_kl.weight": 0.1, "objective.policy.term.dual": 3.0,
        "objective.entropy": {"term": "entropy_bonus", "weight": 0.01},
    }),
    "grpo, adaptive entropy": ("grpo", {"objective.entropy": {"term": {"use": "adaptive_entropy", "target": 9.0, "start": 0.1}}}),
    "grpo, token correction": ("grpo", {"objective.policy.gates": [{"use": "truncated_is", "cap": 1.1}]}),
    "grpo, sequence correction": ("grpo", {"objective.policy.gates": [{"use": "masked_is", "level": "sequence"}]}),
    "grpo, rejection out of the mean": ("grpo", {
        "objective.policy.gates": [{"use": "reject", "high": 0.02, "scope": "step"}], "objective.policy.count": "gated",
    }),
    "grpo, mean weight of 1": ("grpo", {
        "objective.policy.gates": [{"use": "truncated_is", "normalize": True, "scope": "step"}],
    }),
    "dapo, the most uncertain tokens": ("dapo", {
        "objective.policy.gates": [{"use": "high_entropy", "fraction": 0.2}], "objective.policy.count": "gated",
    }),
    "gspo, right answers": ("gspo", {"objective.policy.gates": ["correct"]}),
    "grpo, off-policy sequences": ("grpo", {
        "objective.policy.gates": [{"use": "off_policy_mask", "delta": 0.0, "scope": "step"}],
    }),
    "grpo, off-policy sequences, live": ("grpo", {"objective.policy.gates": [{"use": "off_policy_mask", "delta": 0.0}]}),
    "rover, the most uncertain tokens": ("rover", {"objective.policy.gates": [{"use": "high_entropy", "fraction": 0.2}]}),
    "ppo, a critic of right answers": ("ppo", {"objective.value.gates": ["correct"]}),
    "clip_cov, with candidates": ("clip_cov", {
        "objective.policy.gates": [{"use": "clip_cov", "low": 0.0, "high": 5.0, "fraction": 0.05}],
    }),
    "kl_cov, a twentieth": ("kl_cov", {"objective.kl_cov.gates": [{"use": "top_cov", "fraction": 0.05}]}),
    "lp_reg, a third": ("lp_reg", {"objective.policy.term.fraction": 0.3, "objective.policy.term.form": "sampled"}),
    "lp_reg, the whole vocabulary": ("lp_reg", {"objective.policy.term.fraction": 0.3, "objective.policy.term.form": "full"}),
    "siren, away from its anchor": ("siren", {"objective.entropy.weight": 1.0, "objective.entropy.term.anchor": 1.0}),
    "guide, gamma of a sequence": ("guide", {"objective.policy.term.scope": "sequence"}),
    "guide, rows of every kind in one table": ("guide", {
        "mixes": {"expert": "expert_mix", "aux": "entropy_control"},
        "objective.policy.gates": [{"use": "informative_tokens", "fraction": 0.4}], "objective.policy.count": "gated",
        "objective.expert": {"rows": ["expert"], "term": {"use": "nll", "phi": "p(1-p)"}, "weight": 0.3},
        "objective.aux": {"rows": ["aux"], "term": "ppo_clip", "reduce": "seq_mean_token_mean", "weight": 0.2},
        "objective.entropy": {"rows": ["policy", "hinted"], "term": "entropy_bonus", "weight": 0.01},
    }),
    "rapo, exact": ("rapo", {"objective.forward_kl.term.form": "exact", "objective.forward_kl.weight": 1.0}),
    "rloo, penalty in the reward": ("rloo", {"shaping.kl.coef": 0.1}),
    "reinforce_pp, penalty in the reward": ("reinforce_pp", {"shaping.kl.coef": 0.1}),
}  # fmt: skip
JOBS: dict[str, dict[str, Any]] = {name: {"algorithm": name, "options": {}} for name in ALGORITHMS}
JOBS |= {name: {"algorithm": base, "options": options} for name, (base, options) in SWITCHES.items()}
VARIANTS = [*cuts(), "nothing skipped", "order 1", "order 2"]
# One micro-batch: what `scope: micro`, which reproduces authors' code, can be held to. Its selections depend on the cut.
ONE_PIECE = ["whole", "chunks of 1", "chunks of 7", "packed"]
PER_SEQUENCE = {"truncated_is", "masked_is", "reject", "off_policy_mask"}  # gates that look at a sequence alone
TOLERANCE = 1e-10  # of the largest entry of the gradient


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, root: Path, request: pytest.FixtureRequest
) -> dict[int, dict[Any, Any]]:
    """The gradients on one process and on two, of the jobs that are asked for."""
    from posttrain.learner.tiny import build_tiny

    folder = tmp_path_factory.mktemp("invariance")
    size = TinyModel(hidden=32, layers=2, heads=1, kv_heads=1, intermediate=64, context=64)
    for seed, name in enumerate(("model", "reference")):
        build_tiny(size, seed, folder / name)
    params = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    asked = {"grpo", "d3s", "kl_cov_official"} | {p["job"] for p in params if "job" in p}
    (folder / "jobs.pickle").write_bytes(pickle.dumps({name: job for name, job in JOBS.items() if name in asked}))
    clean = {k: v for k, v in os.environ.items() if k not in LAUNCHER}
    clean |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    running = {}
    for world in (1, 2):  # side by side: none of them keeps two cores busy
        config = (root / "launch" / "cpu-2.yaml").read_text().replace("num_processes: 2", f"num_processes: {world}")
        (folder / f"launch-{world}.yaml").write_text(config)
        line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", folder / f"launch-{world}.yaml"]
        line += [WORKER, folder / "model", folder / "reference", folder / "jobs.pickle", folder / f"out-{world}.pickle"]
        with (folder / f"log-{world}").open("wb") as log:
            running[world] = subprocess.Popen(line, cwd=root, env=clean, stdout=log, stderr=log)
    try:
        for world, process in running.items():
            assert process.wait(timeout=900) == 0, (folder / f"log-{world}").read_text()[-3000:]
    finally:
        for process in running.values():
            process.terminate()
    return {world: pickle.loads((folder / f"out-{world}.pickle").read_bytes()) for world in running}


def selects_by_micro_batch(component: Any) -> bool:
    if isinstance(component, dict):
        mine = component.get("scope") == "micro" and component.get("use") not in PER_SEQUENCE
        return mine or any(map(selects_by_micro_batch, component.values()))
    return isinstance(component, list) and any(map(selects_by_micro_batch, component))


def ways(job: str) -> list[tuple[int, str]]:
    """(processes, cut) that must not matter."""
    loaded = explore(JOBS[job]["algorithm"], JOBS[job]["options"])
    if selects_by_micro_batch(loaded.resolved["objective"]):
        return [(1, cut) for cut in ONE_PIECE]
    return [(world, variant) for world in (1, 2) for variant in VARIANTS]


@pytest.mark.parametrize("job", JOBS)
def test_one_gradient_however_the_rows_are_cut(found: dict[int, dict[Any, Any]], job: str) -> None:
    whole = found[1][job, "whole"]
    worst: dict[str, float] = {}
    for world, variant in ways(job):
        other = found[world][job, variant]
        assert other["loss"] == pytest.approx(whole["loss"], rel=1e-10, abs=1e-12), (world, variant)
        for model, expected in whole["gradients"].items():
            size = np.abs(expected).max()
            assert size > 0, f"{model} learns nothing: nothing would be compared"
            got = other["gradients"][model]
            n = min(len(got), len(expected))  # ZeRO pads the end with zeros
            assert not got[n:].any()
            assert not expected[n:].any()
            difference = np.abs(got[:n] - expected[:n]).max() / size
            worst[variant] = max(worst.get(variant, 0.0), float(difference))
            assert difference < TOLERANCE, (world, variant, model, difference)
    print(f"{job}: largest difference / largest entry {max(worst.values()):.1e} ({max(worst, key=worst.__getitem__)})")


def test_what_selects_by_micro_batch_does_depend_on_the_cut(found: dict[int, dict[Any, Any]]) -> None:
    """Otherwise the comparisons above could not tell."""
    whole, cut = (found[1]["kl_cov_official", v]["gradients"]["policy"] for v in ("whole", "four"))
    assert np.abs(whole - cut).max() / np.abs(whole).max() > 1e-6


def test_tokens_that_a_gate_drops_are_not_computed(found: dict[int, dict[Any, Any]]) -> None:
    """Of D3S a fifth of the tokens of its own rows; of GRPO all of them. Rows of other origins have no part in either."""
    for world in (1, 2):
        of = {(job, v): found[world][job, v]["trained"] for job in ("grpo", "d3s") for v in ("two", "nothing skipped")}
        print(world, of)
        assert 0 < of["d3s", "two"] < 0.3 * of["d3s", "nothing skipped"]
        assert of["grpo", "two"] < of["grpo", "nothing skipped"]


def test_the_cuts_are_what_they_are_called(found: dict[int, dict[Any, Any]]) -> None:
    pieces = {world: {v: found[world]["grpo", v]["micro_batches"] for v in cuts()} for world in (1, 2)}
    print(pieces)
    one = pieces[1]
    assert (one["whole"], one["two"], one["four"], one["packed"]) == (1, 2, 4, 1)
    assert one["packed in four"] >= 4
    assert pieces[2]["four"] >= 2

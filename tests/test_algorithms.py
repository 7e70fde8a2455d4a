"""Every algorithm, some steps on the real stack from its debug recipe: two processes, a real engine, real verifiers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.config.parents import packaged_recipes
from tests.conftest import command

pytestmark = pytest.mark.slow
ALGORITHMS = sorted(n.removeprefix("algorithms/") for n in packaged_recipes() if n.startswith("algorithms/"))
RATIO = {f"policy/ratio_{q}" for q in ("p01", "p50", "p99", "max", "effective")}
CLIP = RATIO | {"policy/clipped_low", "policy/clipped_high", "policy/approx_kl"}
CRITIC = {"critic/explained_variance", "critic/loss", "critic/grad_norm", "value/clipped"}
COVARIANCE = {"groups/sampled", "policy/clip_cov/kept", "policy/clip_cov/candidates", "policy/clip_cov/covariance_p99"}
HINTS = {"hints/hard", "hints/unsolved", "hints/stage_1", "hints/solved_1"}
# What each says about itself, beside what every run says.
DIAGNOSTICS = {
    "cispo": RATIO | {"policy/capped"},
    "clip_cov": CLIP | COVARIANCE,
    "clip_cov_official": CLIP | COVARIANCE,
    "dapo": CLIP | {"groups/sampled", "credit/shaping"},
    "kl_cov": CLIP | {"groups/sampled", "kl_cov/loss", "kl_cov/top_cov/kept", "kl_cov/top_cov/covariance_p99"},
    "kl_cov_official": CLIP | {"groups/sampled", "kl_cov/loss", "kl_cov/top_cov/kept"},
    "lp_reg": RATIO | {"policy/regularised", "policy/proxy_kl", "policy/capped"},
    "lp_reg_official": RATIO | {"policy/regularised", "policy/proxy_kl", "policy/capped"},
    "ghpo": CLIP | HINTS,
    "guide": CLIP | HINTS | {"policy/hinted", "policy/hinted_weight"},
    "guide_ppo": CLIP | CRITIC | HINTS | {"policy/hinted"},
    "nft": RATIO,
    "rapo": CLIP | {"forward_kl/kf", "forward_kl/saturated", "forward_kl/phi_p50", "entropy/loss"},
    "siren": CLIP | {"entropy/loss", "entropy/distance", "entropy/peak_entropy/kept"},
    "siren_official": CLIP | {"entropy/loss", "entropy/distance"},
    "ppo": CLIP | CRITIC | {"credit/shaping"},
    "reinforce_pp": CLIP | {"credit/shaping"},
    "reinforce_pp_baseline": CLIP | {"ref_kl/kl"},
    "rloo": {"credit/shaping"},
    "rover": set[str](),
    "vapo": CLIP | CRITIC | {"positive_nll/loss"},
}
# What these say needs a while to come about.
LONGER = ("ghpo", "guide")
ALWAYS = {
    "policy/entropy",
    "policy/grad_norm",
    "policy/loss",
    "total/loss",
    "mismatch/ratio_p99",
    "mismatch/ratio_effective",
}


WORKER = Path(__file__).with_name("algorithms_worker.py")


def steps_of(name: str) -> int:
    return 20 if name.startswith(LONGER) else 8


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, root: Path, request: pytest.FixtureRequest) -> Path:
    """The run folders of the algorithms that are asked for: a warm-up, then all of them, on two processes and one engine."""
    folder = tmp_path_factory.mktemp("algorithms")
    _, clean = command()
    asked = {item.callspec.params["name"] for item in request.session.items if "name" in getattr(item, "fixturenames", ())
             and item.fspath == request.fspath}  # fmt: skip
    jobs = [f"{name}:{steps_of(name)}" for name in ALGORITHMS if name in asked]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", root / "launch" / "cpu-2.yaml"]
    line = [*launch, WORKER, folder, *jobs]
    with (folder / "output.txt").open("wb") as output:  # not a pipe: children may hold it open
        worker = subprocess.Popen(line, cwd=root, env=clean | {"PYTHONPATH": str(root)}, stdout=output, stderr=output)
        try:
            worker.wait(timeout=90 * len(jobs) + 600)
        finally:
            worker.kill()
    return folder


@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_runs_on_the_real_stack(name: str, runs: Path) -> None:
    errors = [path.read_text() for path in sorted(runs.glob("*.error-*"))]
    file = runs / name / "metrics.jsonl"
    assert file.is_file(), "\n".join(errors) or (runs / "output.txt").read_text()[-3000:]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, steps_of(name) + 1)), "\n".join(errors)
    values = {k: [line[k] for line in lines if k in line] for k in lines[-1]}
    numbers = {k: v for k, v in values.items() if all(isinstance(x, int | float) for x in v)}
    assert not [k for k, v in numbers.items() if not all(map(math.isfinite, v))]
    assert not (ALWAYS | DIAGNOSTICS.get(name, CLIP)) - values.keys()
    assert max(values["policy/grad_norm"]) > 0
    summary = json.loads((runs / name / "summary.json").read_text())
    assert summary["ranks"] == 2
    entropy = values["policy/entropy"][-1]
    print(f"{name}: {summary['accuracy_before']:.0%} -> {summary['accuracy_after']:.0%}, entropy {entropy:.3f}")

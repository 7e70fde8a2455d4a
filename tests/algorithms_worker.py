"""What each rank of the algorithms' test runs: every debug recipe in turn, on one engine.

The command line starts processes and an engine for every run. Here both are started once; everything else is the run
that `posttrain train` makes: recipe, assembly, warm model, loop, report.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

from posttrain import assemble as assembly
from posttrain.config.load import load_recipe
from posttrain.signals import Stop
from posttrain.train import train
from posttrain.world import join_world


class Kept:
    """The engine of all runs: a run that ends does not close it."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def close(self) -> None:
        return None


def one_engine(started: list[Any]) -> None:
    """From now on `assemble` starts an engine once."""
    start = assembly._engine

    def engine(*words: Any) -> Kept | None:
        if not started:
            started.append(start(*words))
        return Kept(started[0]) if started[0] is not None else None

    assembly._engine = engine  # type: ignore[assignment]


def main(out: str, *jobs: str) -> int:
    """A warm-up, then `jobs`: NAME:STEPS. Stops at the first that fails, for its ranks may no longer be in step."""
    comm, device = join_world()
    stop, engines = Stop(), list[Any]()
    one_engine(engines)
    given = [f"model={{use: pretrained, path: {out}/first/warm}}", "warmup=false", "batch.prompts=8"]
    code = 0
    for job in ("first:1", *jobs):
        name, _, steps = job.partition(":")
        recipe, settings = ("grpo", []) if name == "first" else (name, given)
        settings = [*settings, f"steps={steps}", f"output={out}/{name}"]
        try:
            run = assembly.assemble(load_recipe(f"debug/{recipe}", settings), comm, device, stop, False, False)
            train(run)
            run.close()
        except Exception:
            Path(out, f"{name}.error-{comm.rank}").write_text(traceback.format_exc())
            code = 1
            break
    for engine in engines:
        if engine is not None:
            engine.close()
    if code == 0:
        comm.barrier()
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

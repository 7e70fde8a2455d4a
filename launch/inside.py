"""What set-up runs with the Python of the new environment: `.venv/bin/python launch/inside.py PART ...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def needs(package: str, *without: str) -> None:
    """Prints what a package asks for, less some names, as JSON.

    pip knows no way to leave out single requirements of one package: it is installed alone, then these.
    """
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    asked = [Requirement(text) for text in requires(package) or []]
    kept = [one for one in asked if one.name not in without and (not one.marker or one.marker.evaluate({"extra": ""}))]
    for one in kept:
        one.marker = None
    print(json.dumps([str(one) for one in kept]))


def extension() -> None:
    """Compiles DeepSpeed's collective for processes of one machine.

    DeepSpeed would do it at the first run. One killed meanwhile leaves a lock on which every later start
    waits for ever, so it is done here, once, into the environment.
    """
    from posttrain import doctor

    doctor.remove_stale_locks(doctor.extensions_dir())
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is not None and builder.is_compatible():
        builder.load()


def imports(stack: str) -> None:
    """The imports of a run, which this also compiles to byte code; pip would compile all of everything.

    A torchvision that does not match torch breaks the first one.
    """
    import importlib

    import torch
    from transformers import Qwen2ForCausalLM  # noqa: F401
    from trl import SFTTrainer  # noqa: F401
    from vllm import LLM  # noqa: F401

    for name in ("plotly.graph_objects", "pyarrow.parquet", "deepspeed", "math_verify", "posttrain"):
        importlib.import_module(name)
    if stack == "cuda" and torch.version.cuda is None:
        sys.exit(f"torch {torch.__version__} was installed, which is not a CUDA build")


def freeze(constraints: str) -> None:
    """Rewrites the versions of a constraints file from this environment, keeping its head comment."""
    from importlib.metadata import distributions

    path = Path(constraints)
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    have = {one.name: one.version for one in distributions() if one.name not in ("pip", "wheel", "posttrain")}
    # `+cpu` is a build, not a version: which builds exist is the index's business.
    lines = sorted((f"{name}=={version.partition('+')[0]}" for name, version in have.items()), key=str.lower)
    path.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")


PARTS = {part.__name__: part for part in (needs, extension, imports, freeze)}

if __name__ == "__main__":
    PARTS[sys.argv[1]](*sys.argv[2:])

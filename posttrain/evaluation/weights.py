"""A model's files on the disk: which safetensors there should be, whether they are whole, and what to hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

INDEX = "model.safetensors.index.json"
# What else decides a completion: architecture, tokenizer, chat template, tokens that end it, an adapter's scale.
SETTINGS = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "spiece.model", "chat_template*", "adapter_config.json",
)  # fmt: skip


class Broken(Exception):
    """Why a model cannot be evaluated."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a model's folder, by name; those that an index lists, where there is one.

    Raises Broken where one is missing or cut off.
    """
    names = [file.name for file in folder.glob("*.safetensors")]
    if (folder / INDEX).is_file():
        try:
            names = list(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Broken(f"{folder / INDEX} is not readable: {type(error).__name__}: {error}") from None
    files = [folder / name for name in sorted(set(names))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise Broken(f"{folder} lacks {', '.join(missing)}, which {INDEX} lists")
    for file in files:
        _whole(file)
    return files


def settings_files(folder: Path) -> list[Path]:
    """Those files beside the weights that change what a model says."""
    return [file for pattern in SETTINGS for file in folder.glob(pattern) if file.is_file()]


def _whole(file: Path) -> None:
    """A safetensors file is 8 bytes with the length of a JSON header, the header, and what its offsets span."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise Broken(f"{file} is no safetensors file, or cut off in its header ({size} bytes)")
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            wanted = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise Broken(f"{file} is no safetensors file: its header cannot be read") from None
    if size < wanted:
        raise Broken(f"{file} is cut off: {size} of {wanted} bytes. Copy or save it again")


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(sums: Mapping[str, str], also: str = "") -> str:
    """sha256 over the names of files and the sha256 of each, and over `also`."""
    text = "".join(f"{name} {one}\n" for name, one in sorted(sums.items()))
    return hashlib.sha256((text + also).encode()).hexdigest()


def recorded(manifest: Path) -> dict[str, str]:
    """sha256 by file, as a checkpoint's manifest has it. Raises Broken."""
    try:
        return {str(name): str(value) for name, value in json.loads(manifest.read_text())["sha256"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Broken(f"{manifest} is not readable") from None

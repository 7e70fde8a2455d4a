"""Recipes on disk for the tests of configuration."""

from __future__ import annotations

import textwrap
from pathlib import Path

REWARD = """
from dataclasses import dataclass

@dataclass
class Same:
    tolerance: float = 0.0

    def __call__(self, completion, prompt):
        return None
"""

BASE = """\
name: base
model: {use: tiny, context: 128}
task: {use: arithmetic, problems: 100}
batch:
  prompts: 4
  samples: 2
objective:
  policy:
    term: {use: ppo_clip, low: 0.1}
reward:
  correct: {use: './same.py:Same'}
"""


def write(folder: Path, name: str, text: str) -> Path:
    """A file below the folder, its text without the common indentation."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def base(folder: Path) -> Path:
    """A complete small recipe with a reward of its own."""
    write(folder, "same.py", REWARD)
    return write(folder, "base.yaml", BASE)

"""What the loop asks of a rollout engine: completions for token ids, and new weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np


class EngineError(RuntimeError):
    """The engine died, did not start, or refused a request. The message carries the end of its log."""


class Interrupted(Exception):
    """Somebody asked the run to stop while it waited for the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One completion to sample. `key` comes back with it; `seed` alone decides the sampler's random draws."""

    key: int
    prompt_ids: Sequence[int]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are sampled. `max_tokens` counts the end token."""

    temperature: float = 1.0
    max_tokens: int = 64
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What came back: token ids with the end token, and each one's log-probability at the sampling temperature."""

    key: int
    token_ids: np.ndarray  # [m] int64
    logp: np.ndarray  # [m] float32
    finish: Literal["stop", "length"]
    version: int  # of the weights that sampled it


class Engine(Protocol):
    """A rollout engine. `VLLMEngine` is the real one; `ScriptedEngine` replays answers in unit tests."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_done: Callable[[Completion], None] | None = None
    ) -> list[Completion]:
        """Completions in the order of the requests; `on_done` sees each one as soon as it is finished."""
        ...

    def wait_until_ready(self) -> None:
        """Returns when the engine can generate; raises `Interrupted` when somebody asks to stop meanwhile."""
        ...

    def load_weights(self, folder: Path, version: int) -> None:
        """Take the safetensors of `folder` as the weights of `version`; forget every cached prefix."""
        ...

    def close(self) -> None: ...

"""An engine that replays answers: for unit tests and dry runs, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.rollout.engine import Completion, EngineError, Request, Sampling

Answers = Sequence[str] | Mapping[int, str]
PromptKey = str | tuple[int, ...]


class ScriptedEngine:
    """Gives the answers it was given, whatever the weights.

    `answers` maps a prompt, as its rendered text or its token ids, to a list (the n-th request for this prompt within
    one call gets the n-th answer) or to a map from sampler seeds. Nothing is invented: a prompt, a seed or an n-th
    answer that is not in the script is an `EngineError`. It is no policy: `logp` stands for every token's
    log-probability, and `load_weights` only notes the version, so the probe that follows every publishing of weights
    stops a run that has such an engine.
    """

    def __init__(self, tokenizer: Any, answers: Mapping[PromptKey, Answers], *, logp: float) -> None:
        self.tokenizer, self.logp = tokenizer, logp
        self.versions: list[int] = []  # every version it was asked to load
        self.requests: list[Request] = []  # every request it was asked to serve
        self.closed = False
        self._answers = {self._ids(prompt): script for prompt, script in answers.items()}

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_done: Callable[[Completion], None] | None = None
    ) -> list[Completion]:
        """Completions in the order of the requests, done one after the other."""
        if self.closed:
            raise EngineError("the scripted engine is closed")
        asked: Counter[tuple[int, ...]] = Counter()
        out = []
        for request in requests:
            prompt = tuple(request.prompt_ids)
            out.append(self._completion(request, self._answer(prompt, asked[prompt], request.seed), sampling))
            asked[prompt] += 1
            self.requests.append(request)
            if on_done is not None:
                on_done(out[-1])
        return out

    def load_weights(self, folder: Path, version: int) -> None:
        """Notes the version; there are no weights to load."""
        self.versions.append(version)

    def wait_until_ready(self) -> None:
        return None

    def close(self) -> None:
        self.closed = True

    def _ids(self, prompt: PromptKey) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return tuple(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        return prompt

    def _answer(self, prompt: tuple[int, ...], turn: int, seed: int) -> str:
        script = self._answers.get(prompt)
        if script is None:
            raise EngineError(f"the script has no answers for the prompt {self.tokenizer.decode(prompt)!r}")
        wanted = seed if isinstance(script, Mapping) else turn
        if wanted not in (script if isinstance(script, Mapping) else range(len(script))):
            what = f"seed {wanted}" if isinstance(script, Mapping) else f"request {wanted + 1}"
            raise EngineError(f"the script has no answer for {what} of the prompt {self.tokenizer.decode(prompt)!r}")
        return script[wanted]

    def _completion(self, request: Request, answer: str, sampling: Sampling) -> Completion:
        ids = [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        whole = len(ids) <= sampling.max_tokens
        ids = ids[: sampling.max_tokens]
        return Completion(
            key=request.key,
            token_ids=np.asarray(ids, dtype=np.int64),
            logp=np.full(len(ids), self.logp, dtype=np.float32),
            finish="stop" if whole else "length",
            version=self.versions[-1] if self.versions else 0,
        )

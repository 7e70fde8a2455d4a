"""A sampler over a scripted engine and a scorer without processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.comm import SingleProcess
from posttrain.data.types import Prompt, Score
from posttrain.rollout.engine import Completion, Interrupted
from posttrain.rollout.sampler import Sampler
from posttrain.rollout.scripted import ScriptedEngine
from tests.row_samples import prompt

CONTEXT = 64
SEED = 11


class AnswerScorer:
    """1 where the completion is the prompt's answer, no verdict on "?". Hands verdicts out one by one, late and last first."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, str, str]] = []
        self._waiting: list[tuple[Any, Score]] = []

    def submit(self, key: Any, completion: str, prompt: Prompt) -> None:
        self.asked.append((key, completion, prompt.id))
        right = completion == prompt.answer
        score = Score(value=float(right), correct=right)
        if completion == "?":
            score = Score(value=None, status="timeout")
        self._waiting.append((key, score))

    def ready(self) -> list[tuple[Any, Score]]:
        return [self._waiting.pop()] if self._waiting else []


class InterruptedEngine(ScriptedEngine):
    """Somebody asks the run to stop after the first completion."""

    def generate(self, requests: Any, sampling: Any, on_done: Any = None) -> list[Completion]:
        super().generate(requests[:1], sampling, on_done)
        raise Interrupted


def rendered(tokenizer: Any, p: Prompt) -> str:
    return str(tokenizer.apply_chat_template(list(p.messages), add_generation_prompt=True, tokenize=False))


def problems(count: int) -> list[Prompt]:
    return [prompt(f"p{i}", f"{i}+1=", answer=str(i + 1)) for i in range(count)]


def scripted(tokenizer: Any, answers: Mapping[str, Sequence[str]], prompts: Sequence[Prompt]) -> ScriptedEngine:
    """An engine that knows the prompts by id."""
    known = {p.id: rendered(tokenizer, p) for p in prompts}
    return ScriptedEngine(tokenizer, {known[i]: given for i, given in answers.items()}, logp=-0.5)


def sampler(
    tokenizer: Any,
    engine: Any,
    comm: Any = None,
    engine_ranks: Sequence[int] = (0,),
    scorer: Any = "new",
    seed: int = SEED,
) -> Sampler:
    judge = AnswerScorer() if scorer == "new" else scorer
    return Sampler(tokenizer, comm or SingleProcess(), engine, judge, engine_ranks, CONTEXT, seed)

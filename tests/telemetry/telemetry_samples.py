"""Small groups and evaluation rows with known numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from posttrain.data.types import Group, Prompt, Rollout, Score


def rollout(
    value: float | None,
    *,
    tokens: tuple[int, ...] = (1, 2),
    correct: bool | None = None,
    finish: str = "stop",
    status: str | None = None,
    parts: dict[str, float] | None = None,
    **more: Any,
) -> Rollout:
    right = value == 1.0 if correct is None else correct
    state = status or ("ok" if value is not None else "timeout")
    score = Score(
        value=value,
        correct=right,
        status=state,  # type: ignore[arg-type]
        parts=parts or {},
        detail="5.0 s" if state == "timeout" else "",
    )
    return Rollout(
        prompt_ids=np.arange(3),
        response_ids=np.array(tokens, dtype=np.int64),
        sampler_logp=np.full(len(tokens), -0.5, dtype=np.float32),
        finish=finish,  # type: ignore[arg-type]
        score=score,
        **more,
    )


def group(*rollouts: Rollout, id: str = "p1") -> Group:
    messages = ({"role": "system", "content": "add"}, {"role": "user", "content": "3+4=?"})
    prompt = Prompt(id=id, source="arithmetic", messages=messages, answer="7", level=2)
    return Group(prompt=prompt, rollouts=rollouts)


def evaluation(*correct: bool, level: int = 1, **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "problem_id": f"level{level}-{n}",
            "level": level,
            "prompt": f"{n}+1=?",
            "completion": f"\\boxed{{{n + 1 if right else 0}}}",
            "answer": str(n + 1),
            "correct": right,
            "status": "ok",
            "reward": float(right),
            "tokens": 9,
            "finish": "stop",
            **changes,
        }
        for n, right in enumerate(correct)
    ]

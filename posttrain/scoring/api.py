"""What a reward is, and how whatever it returns becomes a verdict."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Protocol, cast, get_args

from posttrain.config.errors import ConfigError
from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt, Score, Status
from posttrain.scoring.batch import number_of
from posttrain.scoring.columns import columns_of
from posttrain.scoring.functions import BatchReward, component_of
from posttrain.scoring.loops import settled
from posttrain.scoring.outcome import Outcome, told
from posttrain.scoring.overrule import combined

__all__ = [
    "REWARDS",
    "Outcome",
    "Part",
    "Reward",
    "Sum",
    "as_parts",
    "as_reward",
    "columns_of",
    "component_of",
    "judge",
    "judge_all",
    "to_score",
    "waits",
]

DETAIL_LIMIT = 500  # characters kept of a detail: it travels with every sample and ends in the logs


class Reward(Protocol):
    """A verifier of one completion. Pure, no torch, sync or async; it runs in a process of its own with limits.

    A `Score` is taken as it is; a bool or a number is the value, and 1 or more counts as correct; None means
    that this reward has nothing to say about the sample. Wrong output of the model is 0.0; only what cannot
    be judged (a broken reference) is a status other than "ok".

    A reward may also have `prepare() -> None`, called once in each worker before limits are set: the place
    for slow imports; and `answer(completion, prompt) -> str | None`, what it reads as the answer: evaluation
    shows it, and clusters samples by it. One that asks somebody else says `waits = True`, and in `needs_seconds` how
    long one completion may take. One with rewards in it has `inner()`, which gives them. A guard has `overrule`, see
    `judge_all`.
    """

    def __call__(self, completion: str, prompt: Prompt) -> Score | float | None: ...

    def examples(self) -> Iterable[tuple[str, Prompt, float | None]]:
        """(completion, prompt, expected value). At least one right, one wrong, one hostile."""
        ...


def as_reward(obj: Any, chat: bool = False) -> Reward:
    """A component as it is, a plain function wrapped."""
    if inspect.isfunction(obj):
        cls = component_of(obj)
        return cls(chat) if issubclass(cls, BatchReward) else cls()
    if callable(obj) and not isinstance(obj, type):
        return cast(Reward, obj)
    raise ConfigError(f"{obj!r} is not a reward: a component with __call__(completion, prompt), or a function, is.")


def waits(reward: object) -> bool:
    """Whether it says that it waits for something outside, such as an endpoint."""
    return bool(getattr(reward, "waits", False))


REWARDS.adapter = component_of


def to_score(returned: Any) -> Score:
    """Any return value of a reward as a verdict."""
    if isinstance(returned, Outcome):
        value = number_of(returned.reward)
        right = value is not None and value >= 1.0
        returned = Score(
            value=returned.reward if value is None else value,
            correct=right if returned.correct is None else returned.correct,
            status=returned.status,
            parts=returned.parts,
            detail=str(returned.detail),
        )
    if isinstance(returned, Score):
        return _checked(returned)
    if returned is None:
        return Score(value=None, status="skipped", detail="returned None")
    value = number_of(returned)  # a bool counts as a number
    if value is not None:
        return _checked(Score(value=value, correct=value >= 1.0))
    return _failed(f"returned {type(returned).__name__}, expected Score, number or None: {str(returned)[:100]}")


def judge(reward: Reward, completion: str, prompt: Prompt) -> Score:
    """The verdict of one reward; whatever goes wrong in it is a verdict too."""
    try:
        return to_score(settled(reward(completion, prompt)))
    except BaseException as error:
        # The one place where everything is caught: a plugin may raise anything (even SystemExit, and
        # math-verify's time-out derives from BaseException), and it must not take down the samples of its
        # neighbours.
        return _failed(told(error))


@dataclass(frozen=True)
class Part:
    """One reward and how it enters the sum."""

    reward: Reward
    weight: Callable[[int], float] | float = 1.0
    """A number, or a schedule over the training steps."""
    clip: tuple[float, float] | None = None
    """The value is held between these two before it is weighted."""
    only_if: str | None = None
    """Another reward, by name: this one counts where that one accepted the completion, and is 0 elsewhere."""

    def factor(self, step: int) -> float:
        return float(self.weight(step) if callable(self.weight) else self.weight)

    def counted(self, value: float, step: int) -> float:
        """What a value adds to the sum."""
        if self.clip is not None:
            value = min(max(value, self.clip[0]), self.clip[1])
        return self.factor(step) * value

    @property
    def always(self) -> bool:
        """Whether it counts in every sample, as it is."""
        return self.clip is None and self.only_if is None and not callable(self.weight) and self.weight != 0


Sum = Mapping[str, Part | tuple[Reward, float]]


def as_parts(rewards: Sum) -> dict[str, Part]:
    """Rewards with a weight alone as parts of a sum."""
    return {name: Part(*given) if isinstance(given, tuple) else given for name, given in rewards.items()}


def judge_all(rewards: Sum, completion: str, prompt: Prompt, steps: int = 1) -> Score:
    """The sum over rewards of weight x clip(value); `correct` is the verdict of the first one that judged the sample.

    - Every reward judges every sample, and its value is logged as it is, in `parts` under its name.
    - `weight` is that of the sample's training step; a sample without one, as in an evaluation, gets the weights of the
      last of `steps`. Accuracy is `correct`, in which no weight enters.
    - `only_if` names another reward of the sum. Where that one did not accept the completion (said that it is correct,
      or gave 1 or more, before weight and clip), this one adds 0. The gate looks at that verdict alone, not at whether
      it counts itself.
    - A reward that skips adds nothing (as in TRL). The sample is skipped when all that have weight do, or are closed by
      a gate that does. What one without weight says counts in `correct` where it is the first, a gate, or none has any.
    - A reward that fails fails the sample where it would have counted, where it is the gate of one that has weight, and
      where it is the first. Elsewhere it only shows in the parts.
    - A reward with `overrule(total, completion, prompt) -> Score` is a guard: it may take back what the others have said
      of a sample that was judged (posttrain.scoring.overrule).
    - Of a reward with a clip, a gate, a schedule or weight 0 the parts also hold NAME/counted, what it added to the
      sum, and NAME/failed.
    """
    parts = as_parts(rewards)
    prompt = replace(prompt, columns={"training_step": steps - 1, **prompt.columns, "training_steps": steps})
    step = prompt.columns["training_step"]
    if not isinstance(step, int):
        return _failed(f"training_step must be a whole number, got {step!r}")
    scores = {name: judge(part.reward, completion, prompt) for name, part in parts.items()}
    failed = {name for name, score in scores.items() if score.status not in ("ok", "skipped")}
    weighing = [name for name, part in parts.items() if part.factor(step) != 0]
    counting = {name for name in weighing if _open(parts[name], scores)}
    first = next(iter(scores))
    decisive = {first, *counting, *(parts[name].only_if for name in weighing)}
    judged = {name: score.value for name, score in scores.items() if score.value is not None}
    counted = {name: parts[name].counted(value, step) for name, value in judged.items() if name in counting}
    shown = _parts(parts, scores, counted)
    for name in scores:
        if name in failed & decisive:
            detail = f"{name}: {scores[name].detail}" if len(scores) > 1 else scores[name].detail
            return replace(scores[name], parts=shown, detail=detail[:DETAIL_LIMIT])
    guards = {name: part.reward for name, part in parts.items() if hasattr(part.reward, "overrule")}
    asked = {name: parts[name].only_if for name in weighing if name not in guards}
    shut = any(gate in judged for name, gate in asked.items() if name not in counting)  # an honest 0
    record = next((scores[name] for name in judged if name in decisive or not asked), None)
    if record is None or (asked and not counted and not shut):
        return Score(value=None, status="skipped", parts=shown, detail=scores[next(iter(asked), first)].detail)
    total = _checked(Score(value=sum(counted.values()), correct=record.correct, parts=shown, detail=record.detail))
    if total.value is None or not guards:
        return total
    rulings = {name: _ruling(guard, total, completion, prompt) for name, guard in guards.items()}
    return _checked(combined(total, rulings))


def _ruling(guard: Any, total: Score, completion: str, prompt: Prompt) -> Score:
    """What a guard makes of a judged sample. As for a reward, whatever goes wrong in it is a verdict."""
    try:
        return to_score(guard.overrule(total, completion, prompt))
    except BaseException as error:  # see `judge`
        return _failed(told(error))


def _open(part: Part, scores: Mapping[str, Score]) -> bool:
    if part.only_if is None:
        return True
    gate = scores[part.only_if]
    return gate.correct or (gate.value is not None and gate.value >= 1.0)


def _parts(parts: Mapping[str, Part], scores: Mapping[str, Score], counted: Mapping[str, float]) -> dict[str, float]:
    shown: dict[str, float] = {}
    for name, score in scores.items():
        if score.value is not None:
            shown[name] = score.value
        shown |= {f"{name}/{part}": value for part, value in score.parts.items()}
        if not parts[name].always:
            shown[f"{name}/counted"] = counted.get(name, 0.0)
            shown[f"{name}/failed"] = float(score.status not in ("ok", "skipped"))
    return shown


def _checked(score: Score) -> Score:
    """A score whose value and status agree and whose numbers are plain finite floats."""
    detail = score.detail[:DETAIL_LIMIT]
    if score.status not in get_args(Status):
        return _failed(f"status {score.status!r} is none of {', '.join(get_args(Status))}; {detail}")
    if why := _ill_typed(score):
        return _failed(f"{why}; {detail}".removesuffix("; "))
    parts = {name: float(number_of(value) or 0.0) for name, value in score.parts.items()}
    bad = {name: value for name, value in parts.items() if not math.isfinite(value)}
    if bad:
        return _failed(f"parts are not finite: {bad}; {detail}")
    if score.status != "ok":
        return replace(score, value=None, correct=False, parts=parts, detail=detail)
    if score.value is None:
        return replace(score, correct=False, status="skipped", parts=parts, detail=detail)
    if not math.isfinite(score.value):
        return _failed(f"value is {score.value}; {detail}".removesuffix("; "))
    return replace(score, value=float(score.value), correct=bool(score.correct), parts=parts, detail=detail)


def _ill_typed(score: Score) -> str:
    """What in a verdict has the wrong type, in words; empty where nothing has."""
    if score.value is not None and not isinstance(score.value, Real):
        return f"the reward is {type(score.value).__name__} {str(score.value)[:60]!r}; a number or None is expected"
    if not isinstance(score.parts, Mapping):
        return f"parts is {type(score.parts).__name__} {str(score.parts)[:60]!r}; a map of names to numbers is expected"
    for name, value in score.parts.items():
        if not isinstance(name, str) or number_of(value) is None:
            return f"parts has {str(name)[:60]!r}: {str(value)[:60]!r}; names are text and values are numbers"
    return ""


def _failed(detail: str) -> Score:
    return Score(value=None, status="error", detail=detail[:DETAIL_LIMIT])

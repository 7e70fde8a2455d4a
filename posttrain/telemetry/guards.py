"""Alarms over the metrics of a step: what is wrong, how much, and which knob to turn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.telemetry.signs import signs

Severity = Literal["warn", "stop"]


class RunStopped(RuntimeError):
    """The run cannot go on in a useful way. The message is for the person who started it."""


@dataclass(frozen=True, slots=True)
class Alarm:
    name: str
    severity: Severity
    message: str
    new: bool = True  # False while the same alarm goes on: it is shown once per streak


def raise_if_stopping(alarms: Iterable[Alarm]) -> None:
    """Call it after the step has been written down, so that the evidence is there to look at."""
    messages = [alarm.message for alarm in alarms if alarm.severity == "stop"]
    if messages:
        raise RunStopped("\n".join(messages))


class Guards:
    """Remembers nothing but how many steps in a row each condition has held."""

    def __init__(
        self,
        *,
        max_tokens: int,
        all_zero_steps: int = 3,
        truncated: float = 0.5,
        max_failed: float = 0.02,
        entropy: float = 1e-3,
        duplicates: float = 0.9,
    ) -> None:
        self.max_tokens = max_tokens
        self.all_zero_steps = all_zero_steps
        self.truncated = truncated
        self.max_failed = max_failed
        self.entropy = entropy
        self.duplicates = duplicates
        self.streaks: dict[str, int] = {}

    def check(self, step: int, metrics: Mapping[str, float], notes: Mapping[str, str] | None = None) -> list[Alarm]:
        """The alarms of this step. `notes` are those of the step's recorder."""
        found: list[Alarm | None] = [
            self._not_finite(metrics),
            self._failed(metrics, notes or {}),
            self._all_skipped(step, metrics),
            self._all_zero(step, metrics),
            self._truncated(metrics),
            self._all_right(metrics),
            self._duplicates(step, metrics),
            self._entropy(metrics),
            self._zero_gradient(metrics),
            *(self._alarm(f"{s.name}:{key}", bad, text, after=s.after) for s, key, bad, text in signs(metrics)),
        ]
        return [alarm for alarm in found if alarm is not None]

    def state_dict(self) -> dict[str, Any]:
        return {"streaks": dict(self.streaks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.streaks = {str(name): int(steps) for name, steps in state["streaks"].items()}

    def _streak(self, name: str, holds: bool) -> int:
        self.streaks[name] = self.streaks.get(name, 0) + 1 if holds else 0
        return self.streaks[name]

    def _alarm(self, name: str, holds: bool, message: str, severity: Severity = "warn", after: int = 1) -> Alarm | None:
        steps = self._streak(name, holds)
        if not holds or after == 0 or steps < after:  # 0 turns the alarm off
            return None
        return Alarm(name, severity, message, new=steps == after)

    def _not_finite(self, metrics: Mapping[str, float]) -> Alarm | None:
        broken = [
            f"{key} = {value}"
            for key, value in metrics.items()
            if key.rpartition("/")[2] in ("loss", "grad_norm") and not math.isfinite(value)
        ]
        message = (
            f"{', '.join(broken)}: the weights are lost or about to be. Go back to the last checkpoint; "
            "usual causes: learner.lr too high, learner.max_grad_norm off, an advantage that divides by 0"
        )
        return self._alarm("not_finite", bool(broken), message, "stop")

    def _failed(self, metrics: Mapping[str, float], notes: Mapping[str, str]) -> Alarm | None:
        share = metrics.get("reward/failed", 0.0)
        first = f" First: {notes['failed']}." if "failed" in notes else ""
        message = (
            f"{share:.1%} of the completions could not be judged, more than scoring.max_failed = "
            f"{self.max_failed:g}."
            f"{first} Fix the reward or raise scoring.timeout; scoring.max_failed is the share you can "
            f"live with"
        )
        return self._alarm("failed", share > self.max_failed, message, "stop")

    def _all_skipped(self, step: int, metrics: Mapping[str, float]) -> Alarm | None:
        """No reward said anything of any completion. A guard that leaves all of them out has seen verdicts, and says so."""
        guarded = any(key.endswith("/overruled") for key in metrics)
        holds = metrics.get("reward/skipped_rate", 0.0) >= 1.0 and not guarded
        steps = self.streaks.get("all_skipped", 0) + 1
        message = (
            f"every completion was skipped for {_steps(steps)}: nothing can be learned; no reward gave a value. Look at "
            f"rollouts/step-{step:05d}.parquet; usual causes: a reward function without `return` (which gives None), or "
            f"rewards that are meant for other problems. The run stops after guards.all_zero_steps={self.all_zero_steps} "
            "such steps (0: never)"
        )
        severity: Severity = "stop" if 0 < self.all_zero_steps <= steps else "warn"
        return self._alarm("all_skipped", holds, message, severity)

    def _all_zero(self, step: int, metrics: Mapping[str, float]) -> Alarm | None:
        """Nobody was right and every reward is the same number (0, or -1 where wrong costs)."""
        low, high = metrics.get("reward/min"), metrics.get("reward/max")
        holds = low is not None and low == high and metrics.get("reward/accuracy") == 0
        steps = self.streaks.get("all_zero", 0) + 1
        cut = metrics.get("rollout/truncated", 0.0)
        message = (
            f"every group scored {0.0 if low is None else low:g} for {_steps(steps)}: nothing can be "
            f"learned; the reward "
            f"never fires. Look at rollouts/step-{step:05d}.parquet; usual causes: answer format the "
            f"verifier cannot "
            "read, problems too hard (start from easier levels or run a warm-up), completions cut before "
            "the answer: "
            f"{cut:.0%} hit sampling.max_tokens={self.max_tokens}"
        )
        return self._alarm("all_zero", holds, message, after=self.all_zero_steps)

    def _truncated(self, metrics: Mapping[str, float]) -> Alarm | None:
        share = metrics.get("rollout/truncated", 0.0)
        message = (
            f"{share:.0%} of the completions were cut at sampling.max_tokens={self.max_tokens} "
            f"(alarm above guards.truncated={self.truncated:g}): a completion that is cut cannot answer. "
            f"Raise "
            "sampling.max_tokens, or ask for shorter answers"
        )
        return self._alarm("truncated", share > self.truncated, message)

    def _all_right(self, metrics: Mapping[str, float]) -> Alarm | None:
        message = (
            "every sample of every group was right: nothing left to learn from these problems. "
            "Take harder ones, or stop here"
        )
        return self._alarm("all_right", metrics.get("groups/all_right", 0.0) >= 1.0, message)

    def _duplicates(self, step: int, metrics: Mapping[str, float]) -> Alarm | None:
        """Equal completions are fine when the policy is certain; they are not when it still has a choice.

        A completion carries about entropy x length nats: above two of them, chance makes few twins.
        """
        share = metrics.get("groups/duplicates", 0.0)
        nats = metrics.get("policy/entropy", math.inf) * metrics.get("rollout/length", math.inf)
        message = (
            f"{share:.0%} of the completions repeat another one of their group although the policy is not "
            f"certain: "
            f"are the samples' seeds different? Look at the seed column of rollouts/step-{step:05d}.parquet"
        )
        return self._alarm("duplicates", share >= self.duplicates and nats > 2.0, message)

    def _entropy(self, metrics: Mapping[str, float]) -> Alarm | None:
        entropy = metrics.get("policy/entropy", math.inf)
        message = (
            f"policy/entropy is {entropy:.1e}, below {self.entropy:g}: the policy has stopped exploring "
            f"and all samples "
            "of a group will be alike. Go back to an earlier checkpoint with a lower learner.lr or an "
            "entropy term"
        )
        return self._alarm("entropy", entropy < self.entropy, message)

    def _zero_gradient(self, metrics: Mapping[str, float]) -> Alarm | None:
        """Silent when every group is all right: that alarm already says why the gradient is 0."""
        right = metrics.get("groups/all_right", 0.0) >= 1.0
        if metrics.get("groups/mixed", 0.0) > 0:
            why = "some groups hold right and wrong samples: look at the advantage, the selects and the gates"
        else:
            why = "no group holds both right and wrong samples, so no advantage differs from 0"
        message = f"the gradient is exactly 0, this step changed nothing: {why}"
        return self._alarm("zero_gradient", metrics.get("policy/grad_norm") == 0 and not right, message)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"

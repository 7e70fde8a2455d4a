"""GRPO in plain float64 loops over `[B, T, V]` logits, from the formulas of 2402.03300. Imports nothing of the project."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def advantages(rewards: Sequence[float], eps: float) -> list[float]:
    """(r - mean) / (std + eps) over one group, with the standard deviation of the sample."""
    mean = sum(rewards) / len(rewards)
    variance = sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)
    return [(r - mean) / (math.sqrt(variance) + eps) for r in rewards]


def grpo(
    logits: np.ndarray,  # [B, T, V] float64
    target: np.ndarray,  # [B, T] int
    length: Sequence[int],  # [B]: tokens 0 .. length - 1 of a row are its response
    old_logp: np.ndarray,  # [B, T]
    advantage: Sequence[float],  # [B]
    low: float,
    high: float,
    temperature: float = 1.0,
) -> tuple[float, np.ndarray]:
    """The loss and its gradient by the logits.

    - 1/B sum_b 1/|o_b| sum_t min(r A_b, clip(r, 1 - low, 1 + high) A_b),  r = p(token) / p_old(token)
    """
    rows, _, vocabulary = logits.shape
    loss, gradient = 0.0, np.zeros_like(logits)
    for b in range(rows):
        for t in range(length[b]):
            scaled = [float(x) / temperature for x in logits[b, t]]
            top = max(scaled)
            log_z = top + math.log(sum(math.exp(x - top) for x in scaled))
            ratio = math.exp(scaled[target[b, t]] - log_z - old_logp[b, t])
            free = ratio * advantage[b]
            held = min(max(ratio, 1 - low), 1 + high) * advantage[b]
            share = 1.0 / (rows * length[b])
            loss -= share * min(free, held)
            if free <= held:  # else the constant is the smaller one
                for v in range(vocabulary):
                    slope = (1.0 if v == target[b, t] else 0.0) - math.exp(scaled[v] - log_z)
                    gradient[b, t, v] -= share * free * slope / temperature
    return loss, gradient

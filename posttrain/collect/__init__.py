"""Curricula, strategies, advantages and selections. Importing it registers every one."""

from posttrain.collect import advantage, curriculum, select, strategy

__all__ = ["advantage", "curriculum", "select", "strategy"]

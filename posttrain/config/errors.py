"""The one error a user can fix by editing a recipe, a data file or a command line."""

from __future__ import annotations


class ConfigError(ValueError):
    """Names the key, the value, what is allowed and what to do next."""

"""The one error a user can fix by editing a recipe, a data file or a command line."""

from __future__ import annotations


class ConfigError(ValueError):
    """Names the key, the value, what is allowed and what to do next."""


def text_of(error: BaseException) -> str:
    """What an exception says, even one that cannot."""
    try:
        return str(error)
    except BaseException:  # its own __str__ is somebody else's code too
        return "its text cannot be shown, because its __str__ raises"

r"""Congruences: `x \equiv 3 \pmod{7}` and what else says the same residues."""

from __future__ import annotations

import re
from typing import NamedTuple

_MODULUS = (
    r"\s*\(?\s*(?:\\p?mod|\\bmod|\\text\{\s*\(?\s*mod\s*\}|mod)(?![a-zA-Z])\s*\{?\s*(?P<modulus>\d{1,9})\s*\}?\s*\)*\s*"
)
_CONGRUENCE = re.compile(
    r"(?:(?P<name>[a-zA-Z](?:_\{?\w+\}?)?)\s*\\equiv\s*)?"
    r"(?P<residues>(?:\\pm\s*)?-?\d{1,9}(?:\s*(?:,|\s(?:or|and)\s|,\s*(?:or|and)\s)\s*-?\d{1,9})*)" + _MODULUS
)


class Congruence(NamedTuple):
    name: str
    residues: frozenset[int]  # at least 0, below the modulus
    modulus: int
    written: tuple[int, ...]


def congruence(text: str) -> Congruence | None:
    """The residues that a cleaned answer names; None for anything else."""
    found = _CONGRUENCE.fullmatch(text.strip())
    if found is None or not int(found["modulus"]):
        return None
    modulus = int(found["modulus"])
    written = [int(value) for value in re.findall(r"-?\d+", found["residues"])]
    if "\\pm" in found["residues"]:
        written += [-value for value in written]
    residues = frozenset(value % modulus for value in written)
    return Congruence(found["name"] or "", residues, modulus, tuple(written))

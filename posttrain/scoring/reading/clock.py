"""Times of day: 3:30 p.m. is 15:30, and 3:30 where nobody says which half of the day is meant."""

from __future__ import annotations

import re

from posttrain.scoring.reading.answers import unwrapped

_NAMED = re.compile(r"(?:12(?::00)?\s*)?(noon|midnight)", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*([ap])?\.?\s*(?:m\.?)?", re.IGNORECASE)


def is_time(text: str) -> bool:
    return _read(text) is not None


def same_time(gold: str, answer: str) -> bool | None:
    """None where neither is a time of day; the half of the day may be missing in one, and seconds that are 0."""
    ours, theirs = _read(gold), _read(answer)
    if ours is None or theirs is None:
        return None if ours is theirs else False
    if [ours[2], ours[3] or "00"] != [theirs[2], theirs[3] or "00"]:
        return False
    if not (ours[4] or theirs[4]):
        return int(ours[1]) == int(theirs[1])
    hours = [_hours(int(found[1]), (found[4] or "").lower()) for found in (ours, theirs)]
    return bool(hours[0] & hours[1])


def _read(text: str) -> re.Match[str] | None:
    bare = unwrapped(text)
    if named := _NAMED.fullmatch(bare):
        bare = "12:00 pm" if named[1].lower() == "noon" else "12:00 am"
    return _CLOCK.fullmatch(bare)


def _hours(hour: int, half: str) -> set[int]:
    """Hours since midnight that may be meant."""
    if not half:
        return {hour} if hour > 12 else {hour, hour % 12 + 12}
    return {hour % 12 + (12 if half == "p" else 0)}

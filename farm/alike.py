"""Names that may be meant by one that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST, _MOST_OF_SEVERAL = 3, 8


def alike(name: str, known: Iterable[str]) -> list[str]:
    """The known names that are like one, in whatever letters, or that it is a part of: the likeliest first."""
    by_letters = {other.lower(): other for other in known if other != name}
    near = difflib.get_close_matches(name.lower(), by_letters, n=_MOST)
    around = (other for other in by_letters if name.lower() in other)
    return [by_letters[other] for other in dict.fromkeys((*near, *around))][:_MOST]


def did_you_mean(names: Iterable[str], known: Iterable[str], otherwise: str) -> str:
    """A hint: whether one of the known names was meant, where some are like these, and what to do `otherwise`."""
    every = list(known)
    near = list(dict.fromkeys(other for name in names for other in alike(name, every)))[:_MOST_OF_SEVERAL]
    return f"did you mean {' or '.join(map(repr, near))}? {otherwise}" if near else otherwise

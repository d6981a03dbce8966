"""Which parts of a line are read from the left, and which from the right.

The first level of Unicode's bidirectional algorithm (UAX #9). Directions are True from the left, False from the right,
and None for what has none of its own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_CLOSED_BY = {pair[0]: pair[1] for pair in ["()", "[]", "{}", "（）", "［］", "「」", "『』", "【】", "《》", "〈〉"]}


def own_direction(text: str) -> bool | None:
    """That of a text's first sign."""
    kind = unicodedata.bidirectional(text[0])
    return True if kind == "L" else False if kind in ("R", "AL", "AN") else None


def directions(texts: Sequence[str], base: bool) -> list[bool]:
    """Those of the parts of a line, each a sign with its marks, in a text whose direction is `base`.

    Digits take the direction of the words before them, brackets one for both; whatever else has none that of both its
    neighbours, or `base`.
    """
    found: list[bool | None] = []
    words = base
    for text in texts:
        own = own_direction(text)
        words = words if own is None else own
        found.append(words if text.isdigit() else own)
    for opening, closing in _pairs(texts):
        found[opening] = found[closing] = _of_brackets(found, opening, closing, base)
    before = _nearest(found, base)
    after = _nearest(found[::-1], base)[::-1]
    return [here if here == there else base for here, there in zip(before, after, strict=True)]


def _pairs(texts: Sequence[str]) -> list[tuple[int, int]]:
    """The places of brackets that belong together, by where they open (rule BD16)."""
    pairs, open_ones = [], list[int]()
    for place, text in enumerate(texts):
        if text in _CLOSED_BY:
            open_ones.append(place)
        for opening in reversed(open_ones):
            if _CLOSED_BY[texts[opening]] == text:
                del open_ones[open_ones.index(opening) :]
                pairs.append((opening, place))
                break
    return sorted(pairs)


def _of_brackets(found: Sequence[bool | None], opening: int, closing: int, base: bool) -> bool | None:
    """`base` if anything in them has it; else, if there are words in them, that of what is before them (rule N0)."""
    inside = set(found[opening + 1 : closing]) - {None}
    before = next((direction for direction in reversed(found[:opening]) if direction is not None), base)
    return base if base in inside else before if inside else None


def _nearest(found: Sequence[bool | None], base: bool) -> list[bool]:
    """Each direction, or the last one before it, or `base`."""
    nearest, all_of_them = base, []
    for direction in found:
        nearest = nearest if direction is None else direction
        all_of_them.append(nearest)
    return all_of_them

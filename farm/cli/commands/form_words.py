"""The words of the command's help for forms, which have fields and no options."""

from __future__ import annotations

import re

_SAID_INSTEAD = tuple(
    (re.compile(said), instead)
    for said, instead in (
        (r"^With --init(: )?", ""),
        (r"the picture --init", "a picture"),
        (r"--init", "the picture"),
        (r"\s*\('farm \w+' lists them\)", ""),
        (r"--(?=[a-z])", ""),
        (r"\$FARM_MODEL, or ", ""),
        (r"\bPROMPT(?=s?\b)", "prompt"),
    )
)


def for_forms(told: str) -> str:
    """The words of the command's help, where there are fields and no options."""
    for said, instead in _SAID_INSTEAD:
        told = said.sub(instead, told)
    return told.strip()


def sentence_for_forms(told: str) -> str:
    """The same as a sentence."""
    said = for_forms(told)
    return said[:1].upper() + said[1:]

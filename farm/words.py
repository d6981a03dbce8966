"""Words of strangers, made harmless: no text of a prompt, a record or an error may steer a terminal or forge a line."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable

# They stay where they hold an emoji together, or letters of a script that needs them, such as Persian's.
_JOINERS = "\u200c\u200d"
_LAST_OF_LATIN = "\u02ff"
_NOT_PLAIN = re.compile(r"[^\x20-\x7e]")
_NOT_PLAIN_JSON = re.compile(r"[^\n\x20-\x7e]")


def one_line(text: str) -> str:
    """The text on one line, with nothing in it that a terminal would act on: such characters become spaces."""
    return _NOT_PLAIN.sub(_harmless, text)


def shell_words(words: Iterable[str]) -> str:
    """A command of these words for a shell, in which every character shows as itself.

    Those that would hide, or turn the order of what is read, are written out, in the one form of quotes that takes
    them: `$'…'`, as Bash, Zsh and POSIX 2024 have it.
    """
    return " ".join(_quoted(word) for word in words)


def inert(document: str) -> str:
    """JSON with all that does not show as itself escaped; JSON itself asks that of a part of it only."""
    return _NOT_PLAIN_JSON.sub(_escaped, document)


def _quoted(word: str) -> str:
    if _NOT_PLAIN.sub(_harmless, word) == word:
        return shlex.quote(word)
    return "$'" + "".join(_written_out(sign) for sign in word) + "'"


def _written_out(sign: str) -> str:
    if sign in "\\'":
        return f"\\{sign}"
    return sign if sign.isprintable() else "".join(f"\\{byte:03o}" for byte in sign.encode())


def _harmless(found: re.Match[str]) -> str:
    sign = found[0]
    if sign in _JOINERS:
        return sign if _joins(found) else " "
    return sign if sign.isprintable() else " "


def _joins(found: re.Match[str]) -> bool:
    text, before, after = found.string, found.start() - 1, found.end()
    neighbours = (text[before], text[after]) if before >= 0 and after < len(text) else (" ",)
    return all(sign > _LAST_OF_LATIN and sign.isprintable() for sign in neighbours)


def _escaped(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]

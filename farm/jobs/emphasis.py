r"""Prompts as people write them: the grammar that A1111's web UI made the common one.

    (word)        weighs 1.1 times as much, and so on: ((word)) 1.21 times
    (word:1.3)    1.3 times
    [word]        1/1.1 times
    \( \) \[ \] \\   a bracket or a backslash as such; any other backslash says nothing
    BREAK         what follows begins a chunk of its own

A bracket that nothing closes weighs all that follows it; one that closes nothing is a letter; and so is what looks like
a weight where no round bracket is open. Round and square brackets need not nest in one another. Everything else is
words. See https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from farm.errors import InvalidInput
from farm.jobs.faults import quoted

MORE, LESS = 1.1, 1 / 1.1
"""What a round and a square bracket multiply by."""
MAX_DEPTH = 100
"""Brackets that may be open at once."""
MAX_EMPHASIS = 100.0
"""The most that a word may weigh, with either sign."""

_LITERALLY = r"write \( or \[ for a bracket as such, or use --plain-prompt"
_SIGNS = re.compile(
    r"""
    \\ (?P<escaped> [()\[\]\\]? )
    | : \s* (?P<weight> [+-]? (?: \d+ \.? \d* | \. \d+ ) ) \s* \)
    | (?P<bracket> [()\[\]] )
    | : | [^()\[\]\\:]+
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\bBREAK\b")


@dataclass(frozen=True)
class Words:
    """A part of a prompt, without the signs of the grammar, and what its tokens' states are multiplied by."""

    text: str
    weight: float = 1.0


Section = tuple[Words, ...]
"""What lies between two BREAKs."""


def sections(prompt: str) -> tuple[Section, ...]:
    """The sections of a prompt, of which one may be empty; neighbours of one weight are one.

    Raises `InvalidInput` for more than `MAX_DEPTH` open brackets and weights beyond `MAX_EMPHASIS`.
    """
    found: list[list[_Part]] = [[]]
    for part in _Reading(prompt).parts():
        if part.is_break:
            found.append([])
        else:
            found[-1].append(part)
    return tuple(map(_joined, found))


def escaped(text: str) -> str:
    r"""`text` written so that every sign in it is a letter: `(sic)` as `\(sic\)`; and BREAK small, as it is encoded."""
    return _BREAK.sub("break", re.sub(r"[()\[\]\\]", r"\\\g<0>", text))


@dataclass
class _Part:
    """A piece of the prompt while its weight is not known yet; `is_break` if it is a BREAK."""

    text: str
    weight: float = 1.0
    is_break: bool = False


@dataclass
class _Reading:
    """A prompt as it is read from left to right. An open bracket is kept as the number of the first part within."""

    prompt: str
    _parts: list[_Part] = field(default_factory=list)
    _round: list[int] = field(default_factory=list)
    _square: list[int] = field(default_factory=list)

    def parts(self) -> Sequence[_Part]:
        for sign in _SIGNS.finditer(self.prompt):
            self._read(sign)
        while self._round:
            self._close(self._round, MORE)
        while self._square:
            self._close(self._square, LESS)
        return self._parts

    def _read(self, sign: re.Match[str]) -> None:
        escaped, weight, bracket = sign.group("escaped", "weight", "bracket")
        if escaped is not None:
            self._parts.append(_Part(escaped))
        elif bracket == "(":
            self._open(self._round)
        elif bracket == "[":
            self._open(self._square)
        elif weight is not None and self._round:
            self._close(self._round, float(weight))
        elif bracket == ")" and self._round:
            self._close(self._round, MORE)
        elif bracket == "]" and self._square:
            self._close(self._square, LESS)
        else:
            self._parts += _words_and_breaks(sign.group())

    def _open(self, kind: list[int]) -> None:
        kind.append(len(self._parts))
        if len(self._round) + len(self._square) > MAX_DEPTH:
            raise InvalidInput(f"{quoted(self.prompt)} opens more than {MAX_DEPTH} brackets at once", hint=_LITERALLY)

    def _close(self, kind: list[int], times: float) -> None:
        for part in self._parts[kind.pop() :]:
            part.weight *= times


def _words_and_breaks(text: str) -> Iterator[_Part]:
    words, *others = _BREAK.split(text)
    yield _Part(words)
    for words in others:
        yield _Part("", is_break=True)
        yield _Part(words)


def _joined(parts: Sequence[_Part]) -> Section:
    """The words of a section, one after the other those of one weight."""
    found = []
    for weight, same in groupby(parts, key=lambda part: part.weight):
        if text := "".join(part.text for part in same):
            if not abs(weight) <= MAX_EMPHASIS:  # so put that NaN is refused
                reason = f"{quoted(text)} weighs {weight:.3g}, and nothing may weigh more than ±{MAX_EMPHASIS:g}"
                raise InvalidInput(reason, hint=_LITERALLY)
            found.append(Words(text, weight))
    return tuple(found)

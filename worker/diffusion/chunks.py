"""Prompts as chunks of tokens: as many as a text encoder takes at once.

A prompt of more tokens than that is encoded chunk by chunk, as A1111 does it. A chunk ends early at a comma that is
among its last 20 tokens, so that what belongs together is encoded together; and at every BREAK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import CLIPTokenizer

from farm.errors import InvalidInput
from farm.jobs.emphasis import Section, sections
from farm.jobs.faults import quoted
from farm.jobs.report import Token
from farm.jobs.spec import MAX_CHUNKS, Reading
from worker.diffusion.inversion import Embedding, LearntWords

_COMMA = ",</w>"
_EARLY = 20
"""By how many tokens a chunk may end early for the sake of a comma."""

Chunk = tuple[Token, ...]
Unit = tuple[Token, ...]
"""What is not parted: a token, or all vectors of an embedding."""


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt's chunks, at least one, without marks and padding; and the words that a plain reading cut off."""

    chunks: tuple[Chunk, ...]
    cut: tuple[str, ...] = ()

    @property
    def tokens(self) -> tuple[Token, ...]:
        return tuple(token for chunk in self.chunks for token in chunk)


@dataclass(frozen=True)
class PromptReader:
    """Reads prompts with a model's tokenizer into chunks of at most `room` tokens; a plain reading knows no `words`."""

    tokenizer: CLIPTokenizer
    room: int
    words: LearntWords = field(default_factory=LearntWords)

    def read(self, prompt: str, reading: Reading) -> ReadPrompt:
        """Raises `InvalidInput` for a prompt of more than `MAX_CHUNKS` chunks, and one that names an embedding which
        is not for this model."""
        if reading == "plain":
            return self._plain(prompt)
        units = [self._units(section) for section in sections(prompt)]
        if len(units) > 1 and not units[-1]:  # a BREAK at the end ends the chunk that there is
            units.pop()
        chunks = tuple(chunk for section in units for chunk in in_chunks(section, self.room))
        if len(chunks) > MAX_CHUNKS:
            raise InvalidInput(
                f"the prompt {quoted(prompt)} takes {len(chunks)} chunks of {self.room} tokens",
                hint=f"at most {MAX_CHUNKS} are encoded; shorten it, or use fewer BREAKs",
            )
        return ReadPrompt(chunks)

    def _plain(self, prompt: str) -> ReadPrompt:
        """The first tokens of a prompt, and the words from the first one that is not all among them to its end."""
        every = self.tokenizer(
            prompt, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False
        )
        tokens = self._tokens(every.input_ids[: self.room], weight=1.0)
        spans = every.offset_mapping
        if len(spans) <= self.room:
            return ReadPrompt((tokens,))
        first_lost = spans[self.room][0]
        # A word of which only the end is lost counts as lost.
        word_start = max((k + 1 for k in range(first_lost) if prompt[k].isspace()), default=0)
        return ReadPrompt((tokens,), cut=tuple(prompt[word_start:].split()))

    def _units(self, section: Section) -> list[Unit]:
        units: list[Unit] = []
        for words in section:
            for part in self.words.parted(words.text):
                if isinstance(part, Embedding):
                    units.append(part.tokens(words.weight))
                else:
                    ids = self.tokenizer(part, add_special_tokens=False, truncation=False, verbose=False).input_ids
                    units += [(token,) for token in self._tokens(ids, words.weight)]
        return units

    def _tokens(self, ids: list[int], weight: float) -> tuple[Token, ...]:
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        return tuple(Token(id=number, piece=piece, weight=weight) for number, piece in zip(ids, pieces, strict=True))


def in_chunks(units: Sequence[Unit], room: int) -> list[Chunk]:
    """The units of a section in their order, in chunks of at most `room` tokens, at least one."""
    chunks: list[list[Token]] = [[]]
    for unit in units:
        chunk = chunks[-1]
        if len(chunk) == room and unit[0].piece != _COMMA:
            kept = _up_to_late_comma(chunk)
            chunks[-1:] = [chunk[:kept], chunk[kept:]]
        if len(chunks[-1]) + len(unit) > room:
            chunks.append([])
        chunks[-1] += unit
    return [tuple(chunk) for chunk in chunks]


def _up_to_late_comma(chunk: Sequence[Token]) -> int:
    """How many tokens of a full chunk stay when it ends at its last comma; all, if that would be too early."""
    earliest = max(0, len(chunk) - _EARLY)
    commas = (k for k in range(len(chunk) - 1, earliest - 1, -1) if chunk[k].piece == _COMMA)
    return next(commas, len(chunk) - 1) + 1

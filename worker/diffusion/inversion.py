"""Textual inversion: words that were learnt afterwards, as vectors that stand where tokens' embeddings do.

Gal et al. 2022, arXiv:2208.01618.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from farm.errors import InvalidInput
from farm.jobs.report import Token


@dataclass(frozen=True, eq=False)
class Embedding:
    """A word and its vectors, [count, width] in float32 on the CPU: as many tensors as its model has text encoders."""

    name: str
    vectors: tuple[Tensor, ...]

    @property
    def count(self) -> int:
        return len(self.vectors[0])

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(vectors.shape[1] for vectors in self.vectors)

    def tokens(self, weight: float) -> tuple[Token, ...]:
        """What stands in a prompt for the word."""
        return tuple(Token(piece=self.name, vector=number, weight=weight) for number in range(self.count))


class LearntWords:
    """The embeddings that a model's prompts may name: as a word, whatever its capitals, or as `<name>`."""

    def __init__(self, embeddings: Collection[Embedding] = (), widths: Sequence[int] = ()) -> None:
        """`widths` are those of the model's text encoders; embeddings of other ones are `refused`, by name."""
        self._known = {embedding.name.lower(): embedding for embedding in embeddings}
        self.refused = {
            embedding.name: f"its vectors have {_numbers(embedding.widths)}, and this model's take {_numbers(widths)}"
            for embedding in embeddings
            if embedding.widths != tuple(widths)
        }
        longest_first = sorted(self._known, key=len, reverse=True)
        names = "|".join(map(re.escape, longest_first))
        self._names = re.compile(rf"<(?P<marked>{names})>|(?<!\w)(?:{names})(?!\w)", re.IGNORECASE) if names else None

    def parted(self, text: str) -> Iterator[str | Embedding]:
        """The text, parted at the words that are embeddings. Raises `InvalidInput` for one that is refused."""
        at = 0
        for found in self._names.finditer(text) if self._names else ():
            yield text[at : found.start()]
            embedding = self._known[(found["marked"] or found[0]).lower()]
            if reason := self.refused.get(embedding.name):
                raise InvalidInput(f"the embedding '{embedding.name}' is not for this model: {reason}")
            yield embedding
            at = found.end()
        yield text[at:]

    def vector(self, token: Token, encoder: int) -> Tensor:
        """[width], what stands for a token of an embedding, in the text encoder of this number."""
        return self._known[token.piece.lower()].vectors[encoder][token.vector or 0]


def _numbers(widths: Sequence[int]) -> str:
    return f"{' and '.join(f'{width:,}' for width in widths)} numbers"

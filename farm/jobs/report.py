"""What a worker tells of how a picture came to be: what the encoder read, the noise levels, and what losses said.

It is part of every `result.json`. There it can be read by anybody, and may have been put by anybody, so it is bounded.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

from farm.jobs.spec import MAX_CHUNKS, MAX_LOSSES, MAX_PROMPTS, MAX_STEPS

_MAX_TOKENS = 10_000
_Word = Annotated[str, StringConstraints(max_length=4_000)]
_Numbers = Annotated[tuple[float, ...], Field(max_length=MAX_STEPS)]

LossValues = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=200)],
        Annotated[list[tuple[int, float]], Field(max_length=MAX_STEPS)],
    ],
    Field(max_length=MAX_LOSSES),
]
"""By loss, the steps at which it was due and what it was there, before its scale."""


class Token(BaseModel):
    """One token of a prompt: its number in the vocabulary, how the vocabulary writes it (`cat</w>`), and its weight.

    One without a number is a vector of the embedding `piece`, and `vector` says which, from 0.
    """

    model_config = ConfigDict(frozen=True)

    id: Annotated[int, Field(ge=0)] | None = None
    piece: _Word
    weight: float = 1.0
    vector: Annotated[int, Field(ge=0)] | None = None

    @model_serializer(mode="wrap")
    def _in_few_words(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """There are thousands in a result, and most weigh 1 and are of the vocabulary."""
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if value is not None and (name, value) != ("weight", 1.0)}


class PromptRead(BaseModel):
    """A prompt as the encoder saw it: its tokens without start, end and padding, how many of them are in each of its
    `chunks` (empty: nobody said so), and the words that were cut off."""

    model_config = ConfigDict(frozen=True)

    role: Literal["prompt", "negative"]
    weight: float
    tokens: Annotated[tuple[Token, ...], Field(max_length=_MAX_TOKENS)]
    chunks: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=MAX_CHUNKS)] = ()
    cut: Annotated[tuple[_Word, ...], Field(max_length=4_000)] = ()

    @property
    def by_chunk(self) -> tuple[tuple[Token, ...], ...]:
        """The tokens, chunk by chunk; all together where nobody said how they were parted."""
        if sum(self.chunks) != len(self.tokens):
            return (self.tokens,)
        ends = list(accumulate(self.chunks))
        return tuple(self.tokens[end - size : end] for size, end in zip(self.chunks, ends, strict=True))


class ScheduleUsed(BaseModel):
    """Timesteps and noise levels (as σ/α) of all steps, those before a late start too, and how they are spaced.

    `spacing` is `karras`, `exponential`, `beta` or `sgm_uniform` for noise levels spaced so, else how diffusers spaces
    timesteps: `linspace`, `leading` or `trailing`.
    """

    model_config = ConfigDict(frozen=True)

    spacing: _Word
    timesteps: _Numbers
    sigmas: _Numbers


class RenderReport(BaseModel):
    """All of it. Results of earlier versions have none of it."""

    model_config = ConfigDict(frozen=True)

    prompts: Annotated[tuple[PromptRead, ...], Field(max_length=MAX_PROMPTS + 1)] = ()
    """Those of the mix, in order, and the negative prompt."""
    schedule: ScheduleUsed | None = None
    losses: LossValues = {}

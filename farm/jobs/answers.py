"""What studies answer: one value each, beside the pictures and arrays that some of them make.

An answer lies in the bucket, where anybody can read it and may have put it, so it is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from farm.errors import ObjectDamaged
from farm.jobs.faults import invalid
from farm.jobs.report import Token
from farm.jobs.schedule import ScheduleTold
from farm.jobs.spec import MAX_NOISE_STEPS, MAX_PROMPTS, Encode, Mode, PromptText, SamplerName

MAX_ANSWER_BYTES = 4 * 2**20
_MAX_TOKENS = 1_000
_MAX_CHANNELS = 64
_Words = Annotated[tuple[Annotated[str, StringConstraints(max_length=4_000)], ...], Field(max_length=4_000)]
_Cosine = Annotated[float, Field(ge=-1.001, le=1.001)]
_Whole = Annotated[int, Field(ge=0, lt=2**53)]


class Answer(BaseModel):
    """A part of an answer. What a newer worker says besides is left out."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Norms(Answer):
    """Of one position's vectors: the token's embedding, the position's, and what the encoder makes of their sum."""

    token: float
    position: float
    output: float


class TokenRead(Token):
    """One of the positions that the encoder reads, from 0, all of them: start, text, end, and padding."""

    position: _Whole
    role: Literal["start", "text", "end", "padding"]
    norms: Norms


class Tokens(Answer):
    """A prompt as the encoder reads it, and the words that it does not see. `width` is that of every vector."""

    study: Literal["tokens"] = "tokens"
    prompt: PromptText
    tokens: Annotated[tuple[TokenRead, ...], Field(max_length=_MAX_TOKENS)]
    cut: _Words
    width: _Whole

    @property
    def padding(self) -> int:
        """How many positions at the end hold no more than the padding."""
        return sum(token.role == "padding" for token in self.tokens)


class Similar(Answer):
    """The cosine of each pair of prompts' pooled embeddings, and the words of each that the encoder does not see."""

    study: Literal["similar"] = "similar"
    prompts: Annotated[tuple[PromptText, ...], Field(max_length=MAX_PROMPTS)]
    cosines: Annotated[
        tuple[Annotated[tuple[_Cosine, ...], Field(max_length=MAX_PROMPTS)], ...], Field(max_length=MAX_PROMPTS)
    ]
    cut: Annotated[tuple[_Words, ...], Field(max_length=MAX_PROMPTS)]

    @model_validator(mode="after")
    def _is_square(self) -> Similar:
        if {len(self.prompts)} != {len(self.cosines), *map(len, self.cosines), len(self.cut)}:
            raise ValueError("the cosines are not a matrix of its prompts")
        return self


class Channel(Answer):
    """One channel of the latents, in the UNet's scale. As a grey picture, `low` is black and `high` is white."""

    low: float
    high: float
    mean: float
    deviation: float


class Noised(Answer):
    """The latents with a step's noise, decoded: `alpha`·latents + `sigma`·noise. PSNR is to the picture, in dB."""

    step: _Whole
    timestep: float
    alpha: float
    sigma: float
    psnr: float | None


class Roundtrip(Answer):
    """A picture through the autoencoder and back.

    `pixels` is its width and height as it was encoded, `latents` the channels, height and width of what it became;
    `numbers` how many there are before and after. PSNR is of the decoded picture to it, in dB; None where no pixel
    differs. The picture of the difference has |a − b| times `amplified`.
    """

    study: Literal["roundtrip"] = "roundtrip"
    encode: Encode
    pixels: tuple[_Whole, _Whole]
    latents: tuple[_Whole, _Whole, _Whole]
    numbers: tuple[_Whole, _Whole]
    psnr: float | None
    amplified: float
    channels: Annotated[tuple[Channel, ...], Field(max_length=_MAX_CHANNELS)]
    sampler: SamplerName
    steps: _Whole
    noised: Annotated[tuple[Noised, ...], Field(max_length=MAX_NOISE_STEPS)] = ()

    @property
    def ratio(self) -> float:
        """How many times fewer numbers the latents have than the picture."""
        before, after = self.numbers
        return before / max(1, after)


class Schedule(Answer):
    """What a sampler visits of the model's noise levels, and how its steps combine what is at hand."""

    study: Literal["schedule"] = "schedule"
    value: ScheduleTold


_ANSWERS: Mapping[Mode, type[Answer]] = {
    "tokens": Tokens,
    "similar": Similar,
    "roundtrip": Roundtrip,
    "schedule": Schedule,
}


def read_answer(data: bytes, study: Mode, *, key: str) -> Any:
    """The answer to a study: `Tokens`, `Similar`, `Roundtrip` or `Schedule`.

    Raises `ObjectDamaged` naming `key` if it is none that this version can read.
    """
    try:
        return _ANSWERS[study].model_validate_json(data)
    except ValidationError as error:
        raise ObjectDamaged(f"{key} does not answer '{study}' as this version reads it: {invalid(error)}") from error

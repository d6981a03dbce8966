"""What a picture shows: prompts with their weights, against a negative prompt, and how their text is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, StringConstraints, model_validator

from farm.errors import InvalidInput
from farm.jobs import emphasis
from farm.jobs.wire import Grown, Wire

MAX_PROMPT_CHARACTERS = 4_000
MAX_PROMPTS = 16
MAX_WEIGHT = 100.0
MAX_CLIP_SKIP = 12
MAX_CHUNKS = 80
"""Of 75 tokens. 4,000 characters are 4,000 tokens at the most in English, in chunks that commas end 20 tokens early."""

MixPath = Literal["linear", "spherical"]
Reading = Literal["weighted", "plain"]

MIX_PATHS: tuple[MixPath, ...] = get_args(MixPath)
READINGS: tuple[Reading, ...] = get_args(Reading)

PromptText = Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARACTERS)]
ClipSkip = Annotated[int, Field(ge=1, le=MAX_CLIP_SKIP)]


class WeightedPrompt(Wire):
    """One prompt of a mix. Weights of a spec's prompts sum to one."""

    text: PromptText
    weight: Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT)] = 1.0


class Conditioning(Grown):
    """What the picture shows: Σ weight·embedding(text), against the negative prompt.

    By the `spherical` path the shares of two prompts are those of the angle between their embeddings, which only the
    worker knows: it goes along the arc from one to the other, not along the chord.

    A `weighted` reading of the texts knows weights, BREAK and embeddings (see `farm.jobs.emphasis`) and drops no word;
    a `plain` one is diffusers': every sign is a letter, and what the encoder does not take at once is cut off. Specs of
    earlier versions do not say, and were read so. `clip_skip` counts the text encoder's layers from its end, as A1111
    does; 1 is the model's own.
    """

    gained: ClassVar[Mapping[str, Any]] = {"path": "linear", "reading": "plain", "clip_skip": 1}

    prompts: Annotated[tuple[WeightedPrompt, ...], Field(min_length=1, max_length=MAX_PROMPTS)]
    negative: PromptText = ""
    path: MixPath = "linear"
    reading: Reading = "plain"
    clip_skip: ClipSkip = 1

    @model_validator(mode="after")
    def _an_arc_has_two_ends(self) -> Self:
        if self.path == "spherical" and len(self.prompts) != 2:
            raise ValueError(f"the spherical path goes between two prompts, not {len(self.prompts)}")
        return self

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        if self.reading == "weighted":
            for text in (*(prompt.text for prompt in self.prompts), self.negative):
                try:
                    sections = emphasis.sections(text)
                except InvalidInput as error:
                    raise ValueError(str(error)) from error
                if len(sections) > MAX_CHUNKS:  # of 75 tokens at the most, but no fewer than these
                    raise ValueError(f"a prompt of {len(sections)} chunks, by its BREAKs, is longer than {MAX_CHUNKS}")
        return self

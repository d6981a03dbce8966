"""What a program asks of OpenAI, read as a request to the farm. What is not known is ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from farm.errors import InvalidInput
from farm.jobs.spec import MAX_PROMPT_CHARACTERS
from farm.jobs.wanted import DEFAULT_STEPS
from farm.web.openai.encoding import Encoding, Format
from farm.web.reading import Lenient
from farm.web.served import Served

MOST_PICTURES = 10
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
_STEPS: Mapping[str, int] = {"low": 15, "medium": 30, "high": 50, "hd": 50, "xhigh": 75, "max": 100}
"""What a quality is in steps, where none are asked for."""
Quality = Literal["auto", "standard", "low", "medium", "high", "hd", "xhigh", "max"]
_STRENGTHS: Mapping[str, float] = {"high": 0.5, "low": 0.75}
"""How much of a picture is made anew, by how true to it one is to be."""
_ALL = 1.0

NAMES = {
    "negative": "negative_prompt",
    "count": "n",
    "init": "image",
    "width": "size",
    "height": "size",
}
"""What OpenAI's clients call fields of the farm's."""

Number = Annotated[float, Field(allow_inf_nan=False)]


class Generation(Lenient):
    """Pictures of a prompt; the last fields are the farm's own. A field that is null counts as one that is missing."""

    model_config = ConfigDict(
        extra="ignore", json_schema_extra={"examples": [{"prompt": "an otter", "size": "512x512", "seed": 7}]}
    )

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
    model: str = ""
    n: Annotated[int, Field(ge=1, le=MOST_PICTURES)] = 1
    size: str = "auto"
    quality: Quality = "auto"
    background: Literal["auto", "opaque"] = "auto"
    output_format: Format = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] = 100
    response_format: Literal["b64_json", "url"] = "b64_json"
    stream: bool = False
    partial_images: Annotated[int, Field(ge=0, le=3)] = 0

    seed: int | None = None
    steps: int | None = None
    negative_prompt: str = ""
    sampler: str | None = None
    schedule: str | None = None
    guidance: Number | None = None

    @property
    def encoding(self) -> Encoding:
        """How the pictures are to be written."""
        return Encoding(self.output_format, self.output_compression)

    def fields(self, served: Served) -> dict[str, Any]:
        """The fields of a `JobRequest` for it. Raises `InvalidInput` for what the farm cannot do."""
        if self.stream and self.response_format == "url":
            raise InvalidInput("a stream brings the pictures themselves", field="response_format", hint="use b64_json")
        asked = {
            "prompt": self.prompt,
            "negative": self.negative_prompt,
            "model": served.find(self.model) or served.default,
            "count": self.n,
            "steps": _STEPS.get(self.quality, DEFAULT_STEPS) if self.steps is None else self.steps,
            "seed": self.seed,
            "sampler": self.sampler,
            "schedule": self.schedule,
            "guidance": self.guidance,
            **self._size(),
        }
        return {name: value for name, value in asked.items() if value is not None}

    def _size(self) -> dict[str, int]:
        """Width and height; nothing where they are left to the model."""
        if self.size in ("auto", ""):
            return {}
        match = _SIZE.fullmatch(self.size)
        if match is None:
            raise InvalidInput(f"{self.size!r:.20} is no size", field="size", hint="such as 512x512, or auto")
        return {"width": int(match[1]), "height": int(match[2])}


class Edit(Generation):
    """Pictures that begin with another. `image` is a file of the form, and so is a `mask`, by which a part of it is
    made anew: and all of that, unless something else is asked for."""

    strength: Number | None = None
    input_fidelity: Literal["high", "low"] | None = None

    def fields(self, served: Served, *, masked: bool = False) -> dict[str, Any]:
        how: dict[str, Any] = {"init": {"upload": "image"}, "fit": "crop" if self._size() else "init"}
        if masked:
            how["mask"] = {"upload": "mask"}
        usual = _STRENGTHS[self.input_fidelity] if self.input_fidelity else _ALL if masked else _STRENGTHS["low"]
        how["strength"] = usual if self.strength is None else self.strength
        return {**super().fields(served), "mode": "img2img", **how}

"""LoRAs in a job: what is added to the weights of its model, for this job alone, and how strongly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, StringConstraints

from farm import keys
from farm.errors import InvalidInput
from farm.jobs.wire import Grown

MAX_LORAS = 8
MAX_STRENGTH = 100.0


def _names_a_lora(value: str) -> str:
    try:
        return keys.lora_name(value)
    except InvalidInput as error:
        raise ValueError(str(error)) from error


LoraName = Annotated[str, AfterValidator(_names_a_lora)]
Strength = Annotated[float, Field(ge=-MAX_STRENGTH, le=MAX_STRENGTH)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ShortHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
"""By which A1111 and the sites where LoRAs are shared know one; it is not the beginning of its SHA-256."""


NamedBy = Literal["field", "tag"]


class LoraUse(Grown):
    """A LoRA that the farm keeps, and how strongly it acts on the UNet and on the text encoders: ±100, 0 not at all.

    `sha256` is that of its file, so that a job means the same bytes whatever the farm has under that name later. None
    is a name that nobody has looked up yet: as a job is submitted, the farm's file is put in its place. `by` says who
    named it: the job itself, or a `tag` of a prompt and nothing else. That goes with its prompt if another is written.
    """

    gained: ClassVar[Mapping[str, Any]] = {"by": "field"}

    name: LoraName
    sha256: Sha256 | None = None
    short_hash: ShortHash | None = None
    unet: Strength = 1.0
    text: Strength = 1.0
    by: NamedBy = "field"

    @property
    def strength(self) -> str:
        """`0.8`, or where the two are unlike `unet 0.8, text 0.5`."""
        return f"{self.unet:g}" if self.unet == self.text else f"unet {self.unet:g}, text {self.text:g}"

    @property
    def option(self) -> str:
        """`detail:0.8` or `detail:unet=0.8,text=0.5`: what `--lora` is given for it."""
        alike = self.unet == self.text
        return f"{self.name}:{self.unet!r}" if alike else f"{self.name}:unet={self.unet!r},text={self.text!r}"

    def __str__(self) -> str:
        return f"{self.name} {self.strength}"


def added_up(uses: Iterable[LoraUse]) -> tuple[LoraUse, ...]:
    """The same with every name once, with the sum of its strengths. Raises `InvalidInput` beyond ±100."""
    found: dict[str, LoraUse] = {}
    for use in uses:
        known = found.get(use.name)
        found[use.name] = use if known is None else _sum(known, use)
    return tuple(found.values())


def _sum(one: LoraUse, other: LoraUse) -> LoraUse:
    if one.sha256 and other.sha256 and one.sha256 != other.sha256:
        raise InvalidInput(f"'{one.name}' is named twice, with two files", field="loras")
    unet, text = one.unet + other.unet, one.text + other.text
    if max(abs(unet), abs(text)) > MAX_STRENGTH:
        most = max(unet, text, key=abs)
        raise InvalidInput(f"the weights of '{one.name}' come to {most:g}, beyond ±{MAX_STRENGTH:g}", field="loras")
    pinned = one if one.sha256 else other
    by = "tag" if one.by == other.by == "tag" else "field"
    known = {"sha256": pinned.sha256, "short_hash": pinned.short_hash}
    return one.model_copy(update={"unet": unet, "text": text, "by": by, **known})

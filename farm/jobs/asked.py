"""The parts of a request that have fields of their own, as a person writes them: a further prompt, a loss, a LoRA."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from farm.jobs.conditioning import PromptText
from farm.jobs.loras import LoraName, LoraUse, NamedBy, Sha256, Strength
from farm.jobs.losses import LossDeclaration, find
from farm.jobs.spec import Every, LossArguments, LossScale, LossTerm
from farm.jobs.wire import Wire
from farm.jobs.writing import clean

Written = Annotated[PromptText, BeforeValidator(clean)]


class Asked(Wire):
    """A value that a person wrote. A field without a value, as YAML has it for `negative:`, is one not given."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, fields: Any) -> Any:
        return (
            {name: value for name, value in fields.items() if value is not None} if isinstance(fields, dict) else fields
        )


class MixTerm(Asked):
    """A further prompt and its share of the mix, 0 < weight < 1."""

    prompt: Written
    weight: Annotated[float, Field(gt=0, lt=1)]


class LossRequest(Asked):
    """A loss by name; arguments and scale left out are the loss's own."""

    name: Annotated[str, StringConstraints(max_length=64)]
    arguments: LossArguments = Field(default={})
    scale: LossScale | None = None
    every: Every = 5

    def term(self, declarations: Iterable[LossDeclaration]) -> LossTerm:
        """The loss that is meant, with all its arguments. Raises `InvalidInput` if none of `declarations` is it."""
        declaration = find(self.name, declarations)
        return LossTerm(
            name=declaration.name,
            arguments=declaration.complete(self.arguments),
            scale=self.scale,
            every=self.every,
        )


class LoraRequest(Asked):
    """A LoRA by the name that the farm has for it, and how strongly it acts, on UNet and text encoders alike or apart.

    `sha256` says which file is meant, if it is not the one that the farm has under that name now. `by` is `tag` for one
    that only a prompt named, of a job that is asked for again.
    """

    name: LoraName
    weight: Strength = 1.0
    unet: Strength | None = None
    text: Strength | None = None
    sha256: Sha256 | None = None
    by: NamedBy = "field"

    @model_validator(mode="after")
    def _says_each_weight_once(self) -> Self:
        if "weight" in self.model_fields_set and self.unet is not None and self.text is not None:
            raise ValueError("give the weight, or those of unet and text, not all three")
        return self

    @property
    def use(self) -> LoraUse:
        """What is meant."""
        unet, text = (self.weight if one is None else one for one in (self.unet, self.text))
        return LoraUse(name=self.name, sha256=self.sha256, unet=unet, text=text, by=self.by)

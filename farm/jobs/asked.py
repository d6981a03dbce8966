"""The parts of a request that have fields of their own, as a person writes them: a further prompt, a loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from farm.jobs.conditioning import PromptText
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

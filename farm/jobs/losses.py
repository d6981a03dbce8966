"""What a guidance loss is called and which numbers it takes: the half of a loss that needs no torch.

The mathematics is in `worker.diffusion.losses`. A third party adds a loss by an entry point of the group
`farm.losses` in the worker's environment; workers announce theirs, so that clients can check arguments.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from farm.errors import InvalidInput

NAME = r"^[a-z][a-z0-9_-]{0,63}$"
MAX_ARGUMENTS = 16
MAX_SCALE = 1e6
_MAX_HELP_CHARACTERS = 500


@dataclass(frozen=True)
class Argument:
    """One number that a loss takes: its default and its inclusive range. Raises `ValueError` if it makes no sense."""

    name: str
    default: float
    minimum: float
    maximum: float
    help: str

    def __post_init__(self) -> None:
        _check_words(self.name, self.help)
        finite = all(map(math.isfinite, (self.default, self.minimum, self.maximum)))
        if not finite or not self.minimum <= self.default <= self.maximum:
            raise ValueError(f"the default of '{self.name}' is not within its range")


@dataclass(frozen=True)
class LossDeclaration:
    """A loss by name, with its arguments, and the scale that it has unless another is given; models may multiply it.

    Workers announce theirs to every client, so what nobody could use or show is refused: raises `ValueError`.
    """

    name: str
    help: str
    arguments: tuple[Argument, ...]
    default_scale: float

    def __post_init__(self) -> None:
        _check_words(self.name, self.help)
        if len(self.arguments) > MAX_ARGUMENTS:
            raise ValueError(f"'{self.name}' takes more than {MAX_ARGUMENTS} arguments")
        if not abs(self.default_scale) <= MAX_SCALE:
            raise ValueError(f"the scale of '{self.name}' is not within ±{MAX_SCALE:g}")

    def complete(self, given: Mapping[str, float]) -> dict[str, float]:
        """All arguments, `given` ones checked and the others at their defaults. Raises `InvalidInput`."""
        known = {argument.name: argument for argument in self.arguments}
        for name in given:
            if name not in known:
                raise InvalidInput(
                    f"loss '{self.name}' has no argument {name!r:.80}", field="loss", hint=f"it takes {_listed(known)}"
                )
        return {name: _checked(self.name, argument, given.get(name)) for name, argument in known.items()}


def _check_words(name: str, help: str) -> None:
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{name!r:.80} is not a name: a letter, then letters, digits, - or _, all lower case")
    if len(help) > _MAX_HELP_CHARACTERS or not help.isprintable():
        raise ValueError(f"the help of '{name}' is not one line of up to {_MAX_HELP_CHARACTERS} characters")


def _checked(loss: str, argument: Argument, value: float | None) -> float:
    if value is None:
        return argument.default
    if not math.isfinite(value) or not argument.minimum <= value <= argument.maximum:
        raise InvalidInput(
            f"'{argument.name}' of loss '{loss}' is {value:g}, outside {argument.minimum:g} to {argument.maximum:g}",
            field="loss",
        )
    return float(value)


def _unit(name: str, default: float, help: str) -> Argument:
    return Argument(name, default, 0.0, 1.0, help)


BUILTIN: tuple[LossDeclaration, ...] = (
    LossDeclaration(
        "blue",
        "mean distance of the blue channel from a target: pulls the picture towards blue",
        (_unit("target", 0.9, "wanted value of the blue channel"),),
        default_scale=200.0,
    ),
    LossDeclaration(
        "color",
        "mean distance of every pixel from one RGB colour",
        (
            _unit("red", 0.5, "wanted red"),
            _unit("green", 0.5, "wanted green"),
            _unit("blue", 0.5, "wanted blue"),
        ),
        default_scale=200.0,
    ),
    LossDeclaration(
        "brightness",
        "distance of the mean luma from a target",
        (_unit("target", 0.8, "wanted mean luma, 0 black to 1 white"),),
        default_scale=200.0,
    ),
    LossDeclaration(
        "contrast",
        "distance of the luma's standard deviation from a target",
        (Argument("target", 0.3, 0.0, 0.5, "wanted standard deviation of luma"),),
        default_scale=200.0,
    ),
    LossDeclaration(
        "saturation",
        "distance of the mean saturation (largest minus smallest channel) from a target",
        (_unit("target", 0.6, "wanted mean saturation, 0 gray to 1 vivid"),),
        default_scale=200.0,
    ),
    LossDeclaration(
        "symmetry",
        "mean distance of the picture from its mirror image",
        (
            _unit("horizontal", 1.0, "weight of the left-right mirror"),
            _unit("vertical", 0.0, "weight of the top-bottom mirror"),
        ),
        default_scale=200.0,
    ),
    LossDeclaration(
        "sharpness",
        "distance of the mean gradient between neighbouring pixels from a target",
        (_unit("target", 0.1, "wanted mean absolute difference of neighbours"),),
        default_scale=200.0,
    ),
)


BUILTIN_NAMES = frozenset(declaration.name for declaration in BUILTIN)


def find(name: str, declarations: Iterable[LossDeclaration] = BUILTIN) -> LossDeclaration:
    """The declaration called `name`. Raises `InvalidInput` naming near matches and all known losses."""
    known = {declaration.name: declaration for declaration in declarations}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known losses: {_listed(known)}"
    raise InvalidInput(f"there is no loss {name!r:.80}", field="loss", hint=hint)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))

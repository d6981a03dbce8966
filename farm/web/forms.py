"""What can be filled in to submit jobs. The site only shows it: it is made of the command's own declarations, above."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from farm.jobs.losses import LossDeclaration
from farm.jobs.spec import JobSpec

Kind = Literal["text", "word", "whole", "number", "choice", "switch", "file"]
Values = Mapping[str, str | bool | Sequence[str]]
"""What is filled in, by the names of fields, as it would be written on a command line."""


@dataclass(frozen=True)
class Choice:
    """A value that can be chosen, and what it means."""

    value: str
    help: str = ""


@dataclass(frozen=True)
class Field:
    """An argument or an option of the command. With `many` it may be given several times.

    `usual` is what it is if nothing is filled in. Numbers are from `least` to `most`, and multiples of `step`.
    """

    name: str
    option: str
    kind: Kind
    help: str
    usual: str = ""
    example: str = ""
    choices: tuple[Choice, ...] = ()
    many: bool = False
    required: bool = False
    least: float | None = None
    most: float | None = None
    step: float | None = None


@dataclass(frozen=True)
class Group:
    """Fields that belong together; without a title they are what one begins with."""

    title: str
    fields: Sequence[Field]


@dataclass(frozen=True)
class Mode:
    """A way to submit: what it is for, and its fields."""

    name: str
    help: str
    groups: Sequence[Group]


@dataclass(frozen=True)
class Read:
    """What is filled in: how many jobs it makes, and the requests of the API.

    A picture is named by its field, as the file of a form that is sent with them.
    """

    jobs: int
    requests: Sequence[Mapping[str, Any]]


class Forms(Protocol):
    """The forms that there are."""

    @property
    def modes(self) -> Sequence[Mode]: ...

    def command(self, mode: str, values: Values) -> str:
        """The command line that does the same, right or wrong. Raises `InvalidInput` for what no form has."""

    def read(self, mode: str, values: Values, *, losses: Iterable[LossDeclaration], most: int) -> Read:
        """What is filled in. Raises `InvalidInput` naming the option at fault, also for more jobs than `most`."""

    def filled(self, spec: JobSpec, labels: Mapping[str, str]) -> tuple[str, Values]:
        """The mode, and what to fill in, for the very same job again."""

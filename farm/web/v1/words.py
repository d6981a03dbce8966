"""What is to be done about an error, in words of the API: parameters where the command has options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from farm.errors import WrongState

_PARAMETERS = {"--replace": "replace=true", "--force": "force=true"}


@contextmanager
def in_words_of_the_api() -> Iterator[None]:
    """Raise a `WrongState` of the block again, with a hint that names parameters."""
    try:
        yield
    except WrongState as error:
        hint = error.hint
        for option, parameter in _PARAMETERS.items():
            hint = hint and hint.replace(option, parameter)
        raise type(error)(error.message, hint=hint) from error

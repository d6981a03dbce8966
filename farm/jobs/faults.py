"""What is wrong with a value that somebody wrote, in one line that names the field."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from farm.errors import InvalidInput


def invalid(error: ValidationError) -> InvalidInput:
    """The first fault that pydantic found, as one line that names the field."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return InvalidInput(said(first), field=where or None)


_SHAPES = {
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "a mapping of names to values"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
}
"""What pydantic says in Python's words."""


def said(fault: Any) -> str:
    """What is wrong by one entry of pydantic's `errors()`, in the words that people are told."""
    if fault["type"] == "value_error":
        return str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "too_long":
        return f"there are more than {fault['ctx']['max_length']}"
    if fault["type"] == "too_short":
        return f"there must be at least {fault['ctx']['min_length']}"
    if fault["type"] in _SHAPES:
        return f"{quoted(fault['input'])} should be {_SHAPES[fault['type']]}"
    message = str(fault["msg"])
    message = message[0].lower() + message[1:]
    value = fault["input"]
    return f"{quoted(value)}: {message}" if isinstance(value, (str, int, float, bool)) else message


_MOST_QUOTED = 60


def quoted(value: Any) -> str:
    """The beginning of a value as Python writes it, with nothing in it that a terminal would act on."""
    try:
        shown = repr(value)
        return shown if len(shown) <= _MOST_QUOTED else f"{shown[: _MOST_QUOTED - 1]}…"
    except ValueError:  # Python does not write whole numbers of many thousand digits
        return "a number with thousands of digits"

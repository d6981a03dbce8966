"""What people write for the fields of a request, as the values that are meant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from farm.jobs.conditioning import MAX_PROMPT_CHARACTERS, MAX_PROMPTS
from farm.jobs.faults import quoted
from farm.jobs.samplers import read_sampler, read_schedule_name
from farm.jobs.spec import MAX_SEED

RANDOM_SEED = -1
"""What other tools take for "any seed"."""

# All but tabs and the ends of lines; no picture is made of them, and a terminal acts on some.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def clean(value: Any) -> Any:
    """Text without control characters, its lines ending in `\\n` alone. Raises `ValueError` if it is not text.

    Half characters are what Python makes of bytes that are not UTF-8, and JSON of half an emoji.
    """
    if isinstance(value, (int, float)):
        raise ValueError(f"{quoted(value)} is a number, but should be text; put it in quotes if it is meant")
    if isinstance(value, dict):
        raise ValueError(f"{quoted(value)} should be text; what begins with a brace needs quotes")
    if not isinstance(value, str):
        raise ValueError(f"{quoted(value)} should be text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{quoted(value)} is not UTF-8 text from character {error.start + 1} on") from error
    return _CONTROL_CHARACTERS.sub(" ", value.replace("\r\n", "\n").replace("\r", "\n"))


def as_prompts(value: Any) -> tuple[str, ...]:
    """One prompt, or several, as a tuple."""
    prompts = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise ValueError(f"there are {len(prompts)}; at most {MAX_PROMPTS} are taken, and at least one")
    for prompt in prompts:
        if isinstance(prompt, str) and len(prompt) > MAX_PROMPT_CHARACTERS:
            raise ValueError(f"{quoted(prompt)} has {len(prompt):,} characters, more than {MAX_PROMPT_CHARACTERS:,}")
    return tuple(clean(prompt) for prompt in prompts)


ALPHA: Literal["alpha"] = "alpha"
"""For a mask: what is transparent in the init picture itself. A file of that name is `./alpha`."""
_SIDES = ("left", "top", "right", "bottom")


def as_mask(value: Any) -> Path | bytes | Literal["alpha"]:
    """The path of a mask's file, or its bytes, or the word for the init picture's own transparency."""
    return ALPHA if value == ALPHA else as_init(value)


def as_outpaint(value: Any) -> Any:
    """`left=128,top=64` as a mapping of sides to pixels."""
    if not isinstance(value, str):
        return value
    sides: dict[str, str] = {}
    for part in value.split(","):
        side, equals, pixels = (piece.strip() for piece in part.partition("="))
        if side not in _SIDES or not equals or side in sides:
            raise ValueError(f"{quoted(value)} is not SIDE=PIXELS,… with the sides {', '.join(_SIDES)}")
        sides[side] = pixels
    return sides


def as_init(value: Any) -> Path | bytes:
    """The path of a picture's file, or its bytes."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, (str, Path)):
        raise ValueError(f"{quoted(value)} should be the path of a picture")
    if value == "":
        raise ValueError("'' cannot be the name of a file")
    return Path(value)


def random_if_asked(seed: Any) -> Any:
    if isinstance(seed, int) and seed < RANDOM_SEED:
        raise ValueError(f"must be 0 to {MAX_SEED}, or {RANDOM_SEED} for a random one")
    return None if seed in (RANDOM_SEED, str(RANDOM_SEED)) else seed


def as_sampler(value: Any) -> Any:
    """A sampler by the farm's own name. Raises `InvalidInput` for a word that names none."""
    return read_sampler(value).sampler if isinstance(value, str) else value


def as_schedule(value: Any) -> Any:
    """A schedule by the farm's own name. Raises `InvalidInput` for a word that names none."""
    return read_schedule_name(value) if isinstance(value, str) else value


def with_schedule(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same with the schedule that the sampler's name says. Raises `ValueError` if another is asked for as well."""
    sampler, asked = fields.get("sampler"), fields.get("schedule")
    said = read_sampler(sampler).schedule if isinstance(sampler, str) else None
    if said is None:
        return fields
    if isinstance(asked, str) and read_schedule_name(asked) != said:
        raise ValueError(f"{quoted(sampler)} says the schedule '{said}', and --schedule says '{asked:.20}'")
    return {**fields, "schedule": said}


def as_labels(value: Any) -> Any:
    """Labels, the values of which may be written as numbers."""
    if not isinstance(value, dict):
        return value
    return {name: clean(_as_written(text)) for name, text in value.items() if text is not None}


def _as_written(value: Any) -> Any:
    """A number or a boolean as the text that stands for it in a batch file."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else value

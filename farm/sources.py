"""How the source of a model is written: where it is, and options after it, each behind a `#` or an `&`.

`/models/mine.safetensors#vae=/models/better.safetensors#prediction=v` has two. Who starts workers reads it as the
workers do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

from farm.errors import InvalidInput

CONFIG, VAE, PREDICTION, ZERO_SNR = "config", "vae", "prediction", "ztsnr"
OPTIONS: Mapping[str, str] = {CONFIG: "DIRECTORY", VAE: "FILE", PREDICTION: "v or epsilon", ZERO_SNR: ""}
"""What is given with each; nothing with the last."""
PREDICTIONS = ("epsilon", "v")
"""What a model can be said to predict."""
PATHS = (CONFIG, VAE)
"""Options that name something on this machine."""

_NAME = r"[A-Za-z_]+(?==|[#&]|$)"
_KNOWN = "|".join(f"{name}=" if what else f"{name}(?:[#&]|$)" for name, what in OPTIONS.items())
_FIRST, _NEXT = re.compile(f"#(?={_NAME})|&(?={_KNOWN})"), re.compile(f"[#&](?={_NAME})")
"""A path may well have an `&` in it (`salt&pepper`), so options begin behind one only with a name that there is."""


def split(source: str) -> tuple[str, dict[str, str]]:
    """Where a model is, and the options given with it. A path that is there as it is written has none.

    Raises `InvalidInput` for an option that is unknown, given twice, or without what belongs to it.
    """
    found = _FIRST.search(source)
    if found is None or _is_here(source):
        return source, {}
    options: dict[str, str] = {}
    for option in _NEXT.split(source[found.end() :]):
        name, equals, value = option.partition("=")
        _check(source, name, value if equals else None)
        if name in options:
            raise InvalidInput(f"'{source}' says '{name}' twice", field="model", hint="say it once")
        options[name] = value
    return source[: found.start()], options


def join(where: str, options: Mapping[str, str]) -> str:
    """What `split` reads."""
    return where + "".join(f"#{name}={value}" if OPTIONS[name] else f"#{name}" for name, value in options.items())


def check_words(options: Mapping[str, str]) -> None:
    """Raise `InvalidInput` for an option with a word that says nothing."""
    said = options.get(PREDICTION)
    if said is not None and said not in PREDICTIONS:
        raise InvalidInput(f"a model cannot predict '{said}'", field="model", hint=f"write {PREDICTION}=v or =epsilon")


def _check(source: str, name: str, value: str | None) -> None:
    """Raise `InvalidInput` for an option that cannot be; `value` is None without an equals sign."""
    if name not in OPTIONS:
        near = difflib.get_close_matches(name, OPTIONS, n=1)
        known = ", ".join(join("", {known: what}) for known, what in OPTIONS.items())
        raise InvalidInput(
            f"'{source}' has the option '{name}', which no source has",
            field="model",
            hint=f"did you mean '{near[0]}'?" if near else f"there are {known}",
        )
    if OPTIONS[name] and not value:
        raise InvalidInput(
            f"'{source}' says nothing with '{name}'", field="model", hint=f"write #{name}={OPTIONS[name]}"
        )
    if not OPTIONS[name] and value is not None:
        raise InvalidInput(f"'{source}' says something with '{name}'", field="model", hint=f"write #{name} alone")


def _is_here(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long a name, ~nobody, a null byte
        return False

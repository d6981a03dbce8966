"""The small languages inside options: `NAME:KEY=VALUE,…`, `PROMPT:WEIGHT`, `NAME:WEIGHT`, `KEY=VALUE`, `A,B,C`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import click

from farm.errors import InvalidInput
from farm.jobs.faults import quoted
from farm.jobs.numbers import number

T = TypeVar("T")

LORA_EXAMPLE = "such as --lora detail:0.8, or --lora detail:unet=0.8,text=0.5"
INLINE_EXAMPLE = "--loss color:red=0.1,blue=0.9,scale=100,every=2"


class Seconds(click.FloatRange):
    """A time of 0 seconds or more; NaN and infinity, which no comparison keeps out, are refused too."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{seconds} is not a number of seconds.", param, ctx)
        return seconds


def losses(
    wanted: Sequence[str], arguments: Sequence[str], scale: float | None, every: int | None
) -> list[dict[str, Any]]:
    """The losses of `--loss` with their inline arguments, or with `--loss-arg`, `--loss-scale` and `--loss-every`.

    The latter three belong to the one loss there is. Raises `InvalidInput` when there is none, or several.
    """
    parsed = [loss(text) for text in wanted]
    apart = {"--loss-arg": arguments or None, "--loss-scale": scale, "--loss-every": every}
    given = [option for option, value in apart.items() if value is not None]
    if given and len(parsed) != 1:
        reason = f"belongs to one --loss, and there are {len(parsed)}" if parsed else "needs a --loss NAME"
        raise InvalidInput(reason, field=given[0], hint=f"write it inline: {INLINE_EXAMPLE}" if parsed else None)
    if given:
        parsed[0]["arguments"] |= each_once((_number_pair(text, "--loss-arg") for text in arguments), "--loss-arg")
        parsed[0] |= {key: value for key, value in (("scale", scale), ("every", every)) if value is not None}
    return parsed


def loss(text: str) -> dict[str, Any]:
    """`color:red=0.1,scale=100,every=2` as the fields of a loss request. Raises `InvalidInput`."""
    name, _, inline = text.partition(":")
    numbers = each_once((_number_pair(pair, "--loss") for pair in inline.split(",") if pair.strip()), "--loss")
    options: dict[str, Any] = {key: numbers.pop(key) for key in ("scale", "every") if key in numbers}
    return {"name": name.strip(), "arguments": numbers, **options}


def mix_term(text: str) -> dict[str, Any]:
    """`a cat:0.3` as a prompt and its share; the last colon separates. Raises `InvalidInput`."""
    prompt, colon, weight = text.rpartition(":")
    if not colon or not prompt.strip():
        raise InvalidInput(f"{text!r:.60} is not PROMPT:WEIGHT", field="--mix-with", hint='such as "a cat:0.3"')
    return {"prompt": prompt.strip(), "weight": _number(weight, "--mix-with", of=f"the weight of {prompt!r:.40}")}


def lora(text: str) -> dict[str, Any]:
    """`detail`, `detail:0.8` or `detail:unet=0.8,text=0.5` as the fields of a LoRA's request. Raises `InvalidInput`."""
    name, colon, weights = text.partition(":")
    if not colon:
        return {"name": name.strip()}
    if "=" not in weights:
        return {"name": name.strip(), "weight": _number(weights, "--lora", of=f"the weight of {name!r:.40}")}
    numbers = each_once((_number_pair(pair, "--lora") for pair in weights.split(",") if pair.strip()), "--lora")
    if others := numbers.keys() - {"unet", "text"}:
        raise InvalidInput(f"a LoRA has no {min(others)!r:.40}", field="--lora", hint=LORA_EXAMPLE)
    return {"name": name.strip(), **numbers}


def labels(texts: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE` texts as a mapping. Raises `InvalidInput`."""
    return each_once((_pair(text, "--label") for text in texts), "--label")


def weights(text: str) -> tuple[float, ...]:
    """`0.2,0.8` as numbers. Raises `InvalidInput`."""
    return tuple(_number(part, "--weights", of="a weight") for part in text.split(","))


def each_once(pairs: Iterable[tuple[str, T]], option: str) -> dict[str, T]:
    """The pairs as a mapping. Raises `InvalidInput` naming the option for a key that is there twice."""
    found: dict[str, T] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidInput(f"{key} is there twice, as {quoted(found[key])} and {quoted(value)}", field=option)
        found[key] = value
    return found


def _number_pair(text: str, option: str) -> tuple[str, float]:
    key, value = _pair(text, option)
    return key, _number(value, option, of=key)


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InvalidInput(f"{text!r:.60} is not KEY=VALUE", field=option)
    return key.strip(), value.strip()


def _number(text: str, option: str, *, of: str) -> float:
    try:
        return number(text)
    except ValueError:
        raise InvalidInput(f"{of} is {text.strip()!r:.40}, which is not a number", field=option) from None

r"""Tags in prompts by which A1111 names LoRAs: `<lora:name:0.8>`, `<lora:name:TEXT:UNET>`, `<lora:name:te=0:unet=1>`.

A tag is no part of the text: it is taken out before that is read. `<lyco:…>` is the same. Words that look like one are
written with a backslash, `<\lora:name:1>`, which says nothing to whoever reads the words, here and in A1111. See
https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/extensions-builtin/Lora/extra_networks_lora.py
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from farm.errors import InvalidInput
from farm.jobs.conditioning import Reading
from farm.jobs.faults import invalid, quoted
from farm.jobs.loras import LoraUse
from farm.jobs.numbers import number

_NAMES = ("lora", "lyco")
_TAG = re.compile(r"<(?:lora|lyco):([^>]+)>")
_ANY_TAG = re.compile(r"<(?=\w+:[^>]+>)")
"""What A1111 takes out of a prompt, whatever the kind."""
_NEARLY = re.compile(r"<\s*(?:lora|lyco)\b(?!-)(?P<inside>[^<>]*)>?", re.IGNORECASE)
"""What is no tag, and looks as if it should be one: in capitals, with blanks, with another sign or without the last."""
_MISSPELT = re.compile(r"<(?P<name>\w{3,6}):(?P<inside>[^<>]+)>")
_ALIKE = 0.7
"""Of how alike two words are, from 0 to 1: as `loras`, `lroa` and `loha` are to `lora`."""
_BETWEEN = re.compile(r"[\s:：=,]+")
_OTHERWISE = re.compile(
    r"""
    (?<![\\\w-]) (?<!\\[\[({]) (?: (?P<bracket> [\[({] | &lt; ) \s* )?
    (?:lora|lyco) \s*[:：]\s* (?P<name> (?! [-+.\d]+ \s* (?: [\])}] | &gt; | $ ) ) [^\s:：,<>()\[\]{}&]+ )
    (?: \s*[:：]\s* (?P<number> [-+.\d]+ ) )? (?: \s* (?: [\])}] | &gt; ) )?
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""The same in brackets of another kind, or in none. `(lora:0.8)` is a word with a weight."""
_LITERALLY = r"write <\lora:…> for the words as such, or use --plain-prompt"


def taken_out(prompt: str) -> tuple[str, tuple[LoraUse, ...]]:
    """A prompt without its tags, and the LoRAs that they name. Raises `InvalidInput` for a tag that cannot be read."""
    found = tuple(_read(tag.group(), tag.group(1)) for tag in _TAG.finditer(prompt))
    return (_TAG.sub("", prompt).strip() if found else prompt), found


def nearly(prompt: str) -> Iterator[tuple[str, str]]:
    """What is read as words, and looks like a tag; and the tag that may be meant."""
    without_tags = _TAG.sub("", prompt)
    for found in _NEARLY.finditer(without_tags):
        name, *more = [part for part in _BETWEEN.split(found["inside"]) if part] or [""]
        if name or found["inside"].strip():
            closed = found.group().endswith(">")
            said = found.group() if closed else found.group().split(name)[0] + name
            yield said, _meant(name, *more[:1] or "1")
    for found in _MISSPELT.finditer(without_tags):
        name = found["name"].lower()
        if name not in _NAMES and difflib.get_close_matches(name, _NAMES, 1, _ALIKE):
            yield found.group(), _meant(*found["inside"].split(":", 1))
    for found in _OTHERWISE.finditer(_NEARLY.sub("", without_tags)):
        if found["bracket"] or found["number"]:
            yield found.group(), _meant(found["name"], found["number"] or "1")


def _meant(name: str, weight: str = "1") -> str:
    try:
        return written([_read("", f"{name}:{weight}")])
    except InvalidInput:
        return "<lora:NAME:1>"


def named_in(prompt: str) -> Iterator[str]:
    """The tags in a text."""
    return (tag.group() for tag in _TAG.finditer(prompt))


def inert(text: str) -> str:
    """Text in which nobody takes words for a tag."""
    return _ANY_TAG.sub(r"<\\", text)


def in_words(text: str, reading: Reading) -> str:
    """A prompt of a spec as people have to write it: what looks like a tag there is words."""
    return text if reading == "plain" else inert(text)


def written(uses: Iterable[LoraUse]) -> str:
    """Tags by which A1111 names these LoRAs."""
    return "".join(f"<lora:{use.name}:{_numbers(use)}>" for use in uses)


def _numbers(use: LoraUse) -> str:
    return _exactly(use.text) if use.text == use.unet else f"{_exactly(use.text)}:{_exactly(use.unet)}"


def _exactly(weight: float) -> str:
    return f"{weight:g}" if float(f"{weight:g}") == weight else repr(weight)


def _read(tag: str, inside: str) -> LoraUse:
    """The first number is of the text encoders, and of the UNet too unless that has one of its own."""
    positional: list[str] = []
    named: dict[str, str] = {}
    for part in inside.split(":"):
        name, equals, value = part.partition("=")
        if equals:
            named[name.strip()] = value
        else:
            positional.append(part)
    if not positional or len(positional) > 3 or not named.keys() <= {"te", "unet"}:
        raise _refused(tag, "is not <lora:NAME:WEIGHT>")
    name, *numbers = positional
    text = named.get("te", numbers[0] if numbers else "1")
    unet = named.get("unet", numbers[1] if len(numbers) > 1 else text)
    try:
        return LoraUse(name=name.strip(), text=number(text), unet=number(unet), by="tag")
    except ValidationError as error:
        raise _refused(tag, str(invalid(error))) from error
    except ValueError as error:
        raise _refused(tag, "has a weight that is not a number") from error


def _refused(tag: str, reason: str) -> InvalidInput:
    return InvalidInput(f"{quoted(tag)} {reason}", hint=_LITERALLY)

"""What is written into the gallery's box, as the index is asked it: `otter "red hat" -dog model:emoji after:2026-11`.

A bare word is looked for in prompts and labels, by its beginning. What has exactly one value in a job, such as its
seed, is a *facet*: one token of the full text, so that any combination of words and facets is one search.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from farm.errors import InvalidInput
from farm.jobs.faults import quoted
from farm.jobs.samplers import read_sampler, read_schedule_name
from farm.jobs.spec import MODES
from farm.web.index import places
from farm.web.index.entry import Entry
from farm.words import one_line

FIELD = "q"
MOST_CHARACTERS = 500
_MOST_TERMS = 24
_TERM = re.compile(r'(-)?(?:([A-Za-z]+):)?((?:"[^"]*"?|[^\s"])+)')
_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{2}))?(?:-([0-9]{2}))?")
_BATCH = re.compile(r"[0-9a-hjkmnp-tv-z]{4,16}(-[0-9]{1,6})?")
_SIZE = re.compile(r"([0-9]{1,5})[x×]([0-9]{1,5})", re.IGNORECASE)
_WHOLE = ("seed", "steps")
_ALL = "all"
"""The facet that every job has."""

HINTS: Mapping[str, str] = {
    "label": "label:project=otters, or label:project for any value",
    "model": "model:emoji",
    "sampler": "sampler:lms, by any of its names",
    "schedule": "schedule:karras",
    "seed": "seed:7",
    "steps": "steps:30",
    "size": "size:512x512",
    "mode": "mode:img2img",
    "loss": "loss:blue",
    "lora": "lora:NAME",
    "negative": "negative:blurry, a word of the negative prompt",
    "batch": "batch:0kz3, by its beginning; a job's id too",
    "after": "after:2026-11, that month and later",
    "before": "before:2026-11-30, earlier than that day",
}
"""What can be said of a picture besides words, each with an example."""


@dataclass(frozen=True)
class Query:
    """A search: an expression of FTS5 (None: everything), and the first and last place that count."""

    match: str | None = None
    oldest: int = 0
    newest: int = places.LAST


def read(text: str) -> Query:
    """The search that is meant. Raises `InvalidInput` for a value that no job has."""
    if len(text) > MOST_CHARACTERS:
        raise InvalidInput(f"it has {len(text):,} characters, more than {MOST_CHARACTERS}", field=FIELD)
    wanted: list[str] = []
    unwanted: list[str] = []
    oldest, newest = 0, places.LAST
    for sign, name, value, is_phrase in _terms(one_line(text)):
        if name == "after":
            oldest = max(oldest, places.first_of(_day(value)))
        elif name == "before":
            newest = min(newest, places.first_of(_day(value)) - 1)
        elif found := _expression(name, value, is_phrase):
            (unwanted if sign else wanted).append(found)
    if len(wanted) + len(unwanted) > _MOST_TERMS:
        raise InvalidInput(f"more than {_MOST_TERMS} words are looked for", field=FIELD)
    if unwanted and not wanted:
        wanted = [_facet(_ALL)]
    match = " AND ".join(wanted) if wanted else None
    if unwanted:
        match = f"({match}) NOT ({' OR '.join(unwanted)})"
    return Query(match, oldest, newest)


def facets_of(entry: Entry) -> str:
    """The facets of a job, as tokens of the full text."""
    found = [(name, str(getattr(entry, name))) for name in ("model", "sampler", "schedule", "seed", "steps", "mode")]
    found += [("size", f"{entry.width}x{entry.height}")]
    found += [*(("loss", loss) for loss in entry.losses), *(("lora", lora) for lora in entry.loras)]
    for name, value in entry.labels.items():
        found += [("label", name), ("label", f"{name}={value}")]
    return " ".join([_ALL, f"batch{entry.job}", *(_token(name, value) for name, value in found)])


def _terms(text: str) -> Iterator[tuple[str, str | None, str, bool]]:
    """What is written, part by part: its sign, its name if it has one that is known, its value, whether in quotes."""
    for sign, name, value in _TERM.findall(text):
        if not name and value.endswith(":") and (said := value[:-1].lower()) in HINTS:
            raise _without_value(said)
        known = name.lower() or None
        if known is not None and known not in HINTS:
            raise InvalidInput(
                f"nothing is known as {quoted(name)}:",
                field=FIELD,
                hint=f'known: {", ".join(HINTS)}; in quotes it is looked for as it is: "{name}:{value[:40]}"',
            )
        yield sign, known, value.replace('"', "").strip(), '"' in value


def _expression(name: str | None, value: str, is_phrase: bool) -> str | None:
    """The expression of FTS5 for a part; None for one that says nothing, such as a bracket."""
    if name is None or name == "negative":
        columns = "{prompt labels}" if name is None else "negative"
        if not any(map(str.isalnum, value)):
            return None
        return f"{columns} : {_quoted(value)}{'' if is_phrase else ' *'}"
    if not value:
        raise _without_value(name)
    if name == "batch":
        if not _BATCH.fullmatch(value.lower()):
            raise InvalidInput(f"{quoted(value)} begins no batch", field=FIELD, hint=f"such as {HINTS[name]}")
        return f"{_facet(f'batch{value.lower()}')} *"
    if name in _WHOLE and not (value.isascii() and value.isdecimal()):
        raise InvalidInput(f"{name}: {quoted(value)} is not a whole number", field=FIELD, hint=f"such as {HINTS[name]}")
    return _facet(_token(name, _READ.get(name, str)(value)))


def _without_value(name: str) -> InvalidInput:
    return InvalidInput(f"{name}: has no value", field=FIELD, hint=f"such as {HINTS[name]}")


def _whole(value: str) -> str:
    return str(int(value)) if len(value) < 30 else value


def _size(value: str) -> str:
    if (found := _SIZE.fullmatch(value)) is None:
        raise InvalidInput(f"{quoted(value)} is not a size", field=FIELD, hint=f"such as {HINTS['size']}")
    return f"{int(found[1])}x{int(found[2])}"


def _mode(value: str) -> str:
    if value.lower() not in MODES:
        raise InvalidInput(f"there is no mode {quoted(value)}", field=FIELD, hint=f"known: {', '.join(MODES)}")
    return value.lower()


def _sampler(value: str) -> str:
    return _here(lambda: read_sampler(value).sampler)


def _schedule(value: str) -> str:
    return _here(lambda: read_schedule_name(value))


def _here(read_name: Callable[[], str]) -> str:
    try:
        return read_name()
    except InvalidInput as error:
        raise InvalidInput(error.reason, field=FIELD, hint=error.hint) from error


_READ: Mapping[str, Callable[[str], str]] = {
    **{"seed": _whole, "steps": _whole, "size": _size, "mode": _mode, "sampler": _sampler, "schedule": _schedule}
}


def _day(value: str) -> datetime:
    """The beginning of the day, month or year that is written. Raises `InvalidInput`."""
    found = _DATE.fullmatch(value)
    try:
        if found is None:
            raise ValueError
        year, month, day = (int(part or 1) for part in found.groups())
        return datetime(year, month, day, tzinfo=UTC)
    except ValueError:
        raise InvalidInput(
            f"{quoted(value)} is not a date", field=FIELD, hint="such as 2026-11-30, or 2026-11"
        ) from None


def _token(name: str, value: str) -> str:
    """A facet as one token, whatever is in its value."""
    return "f" + hashlib.blake2s(f"{name}\0{value.casefold()}".encode("utf-8", "replace"), digest_size=8).hexdigest()


def _facet(token: str) -> str:
    return f"facets : {_quoted(token)}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'

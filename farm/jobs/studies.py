"""What a study reads of a request, and what becomes of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farm.jobs.spec import Mode, reads_no_prompt

STUDY_PRIORITY = 9
"""A study is short, and somebody waits for it: it goes ahead of pictures."""

_READ_BY_EVERY_STUDY = frozenset(("mode", "model", "priority", "time_limit", "labels"))
READ_BY: Mapping[Mode, frozenset[str]] = {
    "tokens": _READ_BY_EVERY_STUDY | {"prompt"},
    "similar": _READ_BY_EVERY_STUDY | {"prompt"},
    "schedule": _READ_BY_EVERY_STUDY | {"sampler", "schedule", "eta", "steps"},
    "roundtrip": _READ_BY_EVERY_STUDY
    | {"init", "fit", "encode", "width", "height", "noise_steps"}
    | {"sampler", "schedule", "eta", "steps", "seed", "count"},
}
"""The fields of a request that each study has a use for; pictures have one for all but `noise_steps`."""


def as_read(mode: Mode, fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request as the study reads them, what it does not read filled in.

    `defaults` are those of all fields there are. Raises `ValueError` naming a field that is given and not read.
    """
    for name, value in fields.items():
        if name in defaults and name not in READ_BY[mode] and value not in (None, defaults[name], "", [], {}, ()):
            raise ValueError(f"{mode} has no use for '{name}'")
    unread: dict[str, Any] = {"reading": "plain"} | ({"prompt": ""} if reads_no_prompt(mode) else {})
    unread |= {"steps": 1} if "steps" not in READ_BY[mode] else {}
    unread |= {"seed": 0} if "seed" not in READ_BY[mode] else {}
    given = {name: value for name, value in fields.items() if value is not None}
    return {"priority": STUDY_PRIORITY, **given, **unread}

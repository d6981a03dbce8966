"""Messages that no client of ours would write."""

from __future__ import annotations

from typing import Any

BODIES: dict[str, Any] = {
    "no arguments": [[], {}, {}],
    "too many arguments": [["a", "b"], {}, {}],
    "a number": [[7], {}, {}],
    "a nested list": [[[["x"]]], {}, {}],
    "an id that climbs": [["../../etc/passwd"], {}, {}],
    "an id with a line break": [["0000000000000000-0000\n"], {}, {}],
    "a job that is not there": [["0000000000000000-0000"], {}, {}],
    "a very long id": [["0" * 1_000_000], {}, {}],
    "unknown keywords": [[], {"job": "x", "command": "rm"}, {}],
    "not a list": {"what": "ever"},
    "nothing": None,
}
"""What a message in Celery's form may have for a body, as JSON."""

ENTRIES = (
    *("garbage", "", "[]", "7", "null", '{"body": 1}', "[" * 100_000, '{"properties": {}}'),
    # What kombu's JSON turns into objects, or stumbles over.
    *('{"__type__": [], "__value__": 1}', '{"__type__": "datetime", "__value__": 5}'),
    *('{"__type__": "bytes", "__value__": 5}', '{"__type__": "decimal", "__value__": "x"}'),
)
"""Entries of a queue that are no message in Celery's form."""

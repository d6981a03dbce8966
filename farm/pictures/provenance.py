"""What a picture says of how it was made: the whole spec, in a text of the PNG."""

from __future__ import annotations

from farm.errors import InvalidInput
from farm.jobs.spec import JobSpec
from farm.pictures.metadata import read_text

SPEC_KEY = "render-farm"
"""The PNG text in which workers write a picture's spec."""


def spec_in(data: bytes) -> JobSpec | None:
    """The spec of a picture, or None if it says none that this version can read: another farm's, or no PNG."""
    text = read_text(data, SPEC_KEY)
    try:
        return JobSpec.from_json(text) if text else None
    except InvalidInput:
        return None

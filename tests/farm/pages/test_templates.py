"""What all templates of pages have in common."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from farm.pages.templates import environment


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.314, "0.31 s"), (59.4, "59.4 s"), (119.6, "2 min 0 s"), (200, "3 min 20 s"), (7_499.7, "2 h 5 min")],
)
def test_how_long_something_took_is_told(seconds: float, told: str) -> None:
    made = environment("farm.web.pages", "templates")
    assert made.from_string("{{ value | seconds }}").render(value=seconds) == told


def test_words_of_strangers_are_harmless_and_what_is_missing_is_told() -> None:
    made = environment("farm.pages", "web")
    assert made.from_string("{{ value }}").render(value="<b>\x1b[31m\n") == "&lt;b&gt; [31m "
    with pytest.raises(UndefinedError):
        made.from_string("{{ value }}").render()

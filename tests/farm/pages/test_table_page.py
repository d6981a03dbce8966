"""The HTML page of a sheet with axes: its structure, and that it asks nobody and runs nothing but its own."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from farm.errors import InvalidInput
from farm.pages import table as page
from farm.pages.table import written
from farm.pictures.table import Cell, Page, Table

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' onclick=alert(3) \x1b[2J\u202e$policy ${x}"
VOID = {"meta", "img"}


def png(colour: str = "teal") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def cell(words: str = "otter") -> Cell:
    return Cell(None, name=f"{words}.png", title=words, detail=words, data=png())


def table(words: str = "otter", *, pages: int = 1) -> Table:
    rows = [[cell(words), Cell(note=f"failed: {words}")], [cell(words), cell(words)]]
    return Table(words, words, [f"x {words}", "x 2"], [f"y {words}", "y 2"], [Page(words, rows)] * pages)


class Outline(HTMLParser):
    """The elements of a page with their attributes, the words in it, and what was left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_each_cell_is_a_button_with_its_picture_or_says_why_not() -> None:
    outline = Outline(written(table(pages=2)))
    assert outline.open == []
    buttons = [one for one in outline.all("button") if one.get("class") == "cell"]
    assert len(buttons) == 6 and len(outline.all("table")) == 2
    assert buttons[0] == {
        "type": "button",
        "class": "cell",
        "data-place": "x otter, y otter, otter",
        "data-title": "otter",
        "data-detail": "otter",
        "data-name": "otter.png",
    }
    assert outline.words.count("failed: otter") == 2
    assert {one["scope"] for one in outline.all("th")} == {"row", "col"}
    assert all(one.get("alt") is not None for one in outline.all("img"))
    shown = [one["src"] or "" for one in outline.all("img") if "src" in one]
    assert {base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in shown} == {png()}


def test_it_can_be_used_without_a_mouse() -> None:
    text = written(table())
    outline = Outline(text)
    assert outline.all("html") == [{"lang": "en"}]
    assert outline.all("dialog") == [{"aria-labelledby": "place"}]
    (region,) = (one for one in outline.all("div") if one.get("role") == "region")
    assert (region["tabindex"], region["aria-label"]) == ("0", "otter")
    assert "showModal()" in text and 'addEventListener("keydown"' in text and ":focus-visible" in text
    assert "Page Up" not in text and "Page Up" in written(table(pages=2))


def test_hostile_words_make_no_element_and_steer_nothing() -> None:
    friendly, hostile = written(table(pages=2)), written(table(HOSTILE, pages=2))
    assert [(tag, list(given)) for tag, given in Outline(hostile).elements] == [
        (tag, list(given)) for tag, given in Outline(friendly).elements
    ]
    assert "\x1b" not in hostile and "\u202e" not in hostile
    assert "$policy ${x}" in "".join(Outline(hostile).words)


def test_it_loads_nothing_and_allows_only_its_own_script_and_style() -> None:
    text = written(table(HOSTILE))
    outline = Outline(text)
    for tag, given in outline.elements:
        addresses = [
            given[name] or "" for name in ("src", "href", "action", "data", "srcset", "style") if name in given
        ]
        assert all(address.startswith("data:image/") for address in addresses), tag
        assert not any(name.startswith("on") for name in given)
    (policy,) = (one["content"] or "" for one in outline.all("meta") if "http-equiv" in one)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("img-src") == rules.pop("media-src") == "data:"
    for name in ("script", "style"):
        (body,) = re.findall(f"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert rules.pop(f"{name}-src") == f"'sha256-{digest}'"
    assert set(rules.values()) == {"'none'"}
    assert "innerHTML" not in text and "http:" not in text and "https:" not in text


def test_more_than_a_browser_opens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_PICTURE_BYTES", 3 * len(png()) - 1)
    with pytest.raises(InvalidInput, match=r"the pictures have 0 MiB, and a page takes 0 \(make pages of fewer jobs\)"):
        written(table())


def test_a_sheet_without_a_prompt_in_common_has_a_title() -> None:
    nameless = Table("", "", ["a"], [""], [Page("", [[cell()]])])
    assert "A sheet of pictures" in Outline(written(nameless)).words

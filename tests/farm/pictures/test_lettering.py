"""Captions in any script: which font has a sign, how lines break, and what stands left of what."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from PIL import Image, features

from farm.pictures import lettering as letters
from farm.pictures.fonts import Face, Fonts
from farm.pictures.lettering import Lettering, Line

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
"""Has Latin, Greek, Cyrillic, Hebrew and Arabic letters, and is wherever these tests are."""
EMOJI = Fonts().with_sign("🦦", as_emoji=True)
EVERY_SIGN = "".join(map(chr, range(0x4E00, 0x4E00 + 4_000)))

with_emoji = pytest.mark.skipif(EMOJI is None or not EMOJI.is_of_emoji, reason="no font of emoji is installed")
with_raqm = pytest.mark.skipif(not features.check("raqm"), reason="this Pillow is without Raqm")


def lettering(*folders: Path) -> Lettering:
    return Lettering(Fonts(folders))


def lines(text: str, by: Lettering, *, width: int = 256, most: int = 3) -> list[str]:
    """The lines, as they are read from left to right."""
    broken = by.lines(text, 17, width=width, most=most)
    assert all(line.width <= width for line in broken)
    return ["".join(run.text for run in line.runs) for line in broken]


def drawn(line: Line, by: Lettering) -> Image.Image:
    page = Image.new("RGB", (300, 40), "white")
    by.draw(page, line, 10, 8, 17, (0, 0, 0))
    return page


def test_a_font_is_known_by_its_table() -> None:
    dejavu = Face(DEJAVU / "DejaVuSans.ttf")
    assert all(map(dejavu.has, "aéßΩЖאع→"))
    assert not any(map(dejavu.has, "中あ한ก🦦"))
    assert Face().has("a") and Face().has("…") and not Face().has("é")


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x01\x00\x00", b"ttcf" + b"\xff" * 60, b"\x00\x01\x00\x00" + b"\xff" * 8]
)
def test_what_is_no_font_has_no_signs(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "Broken.ttf").write_bytes(content)
    assert Fonts([tmp_path]).with_sign("é") is None


def test_pillows_own_font_writes_what_it_has_and_another_the_rest() -> None:
    by = lettering(DEJAVU)
    (line,) = by.lines("an é Ж", 17, width=256, most=1)
    assert [(run.text, run.face is by.fonts.own) for run in line.runs] == [("an ", True), ("é Ж", False)]
    assert by.missing == set()


def test_plain_faces_go_before_peculiar_ones() -> None:
    face = Fonts([DEJAVU]).with_sign("Ж")
    assert face is not None and face.at(17) is not None
    assert face._path == DEJAVU / "DejaVuSans.ttf"


def test_a_plain_face_is_known_by_its_name(tmp_path: Path) -> None:
    """Those that come with Ghostscript stand before it in the alphabet, and have few words in their names."""
    for name in ("C059-BdIta", "C059-Roman", "P052-Roman", "URWBookman-Demi", "LiberationSansNarrow", "MySans", "Zed"):
        shutil.copy(DEJAVU / "DejaVuSans.ttf", tmp_path / f"{name}.ttf")
    chosen = []
    while face := Fonts([tmp_path]).with_sign("Ж"):
        assert face._path is not None
        chosen.append(face._path.stem)
        face._path.unlink()
    assert chosen[0] == "MySans"
    assert set(chosen[1:4]) == {"C059-Roman", "P052-Roman", "Zed"}


def test_a_selector_of_a_variant_is_no_sign() -> None:
    by = lettering(DEJAVU)
    assert lines("Ж\U000e0100", by) == ["Ж\U000e0100"]
    assert by.missing == set()


def test_what_no_font_has_is_told() -> None:
    by = lettering()
    assert lines("水獺 an otter é", by) == ["水獺 an otter é"]
    assert by.missing == {"水", "獺", "é"}


def test_lines_break_at_spaces_and_beside_signs_that_stand_alone() -> None:
    assert lines("an otter in the river by night", lettering(), width=100) == ["an otter in ", "the river by ", "night"]
    broken = lines("水獺の絵" * 20, lettering(), width=120)
    assert len(broken) == 3 and broken[-1].endswith("…")


def test_a_word_wider_than_a_line_is_broken() -> None:
    first, second, third = lines("otter" * 800, lettering())
    assert first + second + third.rstrip("…") == ("otter" * 800)[: len(first + second + third) - 1]
    assert third.endswith("…")


def test_nothing_is_no_line() -> None:
    assert lines("", lettering()) == lines(" \n\t", lettering()) == []


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("an otter", ["an otter"]),
        ("an ثعلب otter", ["an ", "ثعلب", " otter"]),
        ("ثعلب otter 12 الماء", [" الماء", "otter 12", "ثعلب "]),
        ("ثعلب 12 الماء", ["ثعلب 12 الماء"]),
        ("an ثعلب 12", ["an ", "ثعلب 12"]),
        ("an ثعلب (الماء)", ["an ", "ثعلب (الماء)"]),
        ("an ثعلب (otter) x", ["an ", "ثعلب", " (otter) x"]),
        ("ثعلب (otter) 12", ["12", ") ", "otter", "ثعلب ("]),
        ("ثعلب (otter [الماء])", [" [الماء])", "otter", "ثعلب ("]),
        ("ثعلب (otter", ["otter", "ثعلب ("]),
    ],
)
def test_what_is_read_from_the_right_stands_at_the_right(text: str, seen: list[str]) -> None:
    by = lettering(DEJAVU)
    (line,) = by.lines(text, 17, width=600, most=1)
    parts: list[str] = []
    directions: list[bool] = []
    for run in line.runs:
        if directions and directions[-1] == run.rightwards:
            parts[-1] = parts[-1] + run.text if run.rightwards else run.text + parts[-1]
        else:
            parts.append(run.text)
            directions.append(run.rightwards)
    assert parts == seen
    assert line.rightwards == (text[0] == "a")


@with_raqm
def test_arabic_letters_are_joined() -> None:
    by = lettering(DEJAVU)
    (joined,) = by.lines("ثعلب", 17, width=256, most=1)
    apart = [line.width for letter in "ثعلب" for line in by.lines(letter, 17, width=256, most=1)]
    assert joined.width < sum(apart) - 2


def test_without_raqm_letters_still_stand_from_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.pictures.lettering._shapes", lambda: False)
    by = lettering(DEJAVU)
    (line,) = by.lines("אבג", 17, width=256, most=1)
    assert drawn(line, by).getbbox() is not None
    assert line.width > 0


@with_emoji
@pytest.mark.parametrize("text", ["🦦", "👩\u200d💻", "❤\ufe0f", "🇩🇪"])
def test_an_emoji_is_one_picture_in_colour(text: str) -> None:
    by = Lettering()
    (line,) = by.lines(text, 17, width=256, most=1)
    assert by.missing == set()
    assert 12 < line.width < (30 if features.check("raqm") else 60)
    colours = drawn(line, by).getcolors(10_000) or []
    assert any(max(colour) - min(colour) > 60 for _, colour in colours if isinstance(colour, tuple))


@with_emoji
def test_a_space_beside_an_emoji_is_as_wide_as_any() -> None:
    by = Lettering()
    (spaced,), (close,) = by.lines("🦦 🦦", 17, width=256, most=1), by.lines("🦦🦦", 17, width=256, most=1)
    assert spaced.width - close.width < 8


@pytest.mark.parametrize(
    "text",
    ["otter" * 800, "🦦" * 4_000, "x " * 2_000, "e" + "\u0301" * 3_999, "ع" * 4_000, "👩\u200d" * 2_000, EVERY_SIGN],
    ids=["a word", "emoji", "words", "marks", "arabic", "joiners", "every sign"],
)
def test_no_caption_takes_long(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured more often than there is room for, each time a few signs."""
    measured: list[int] = []
    measure = letters._length

    def length(text: str, *rest: Any, **options: Any) -> float:
        measured.append(len(text))
        return measure(text, *rest, **options)

    monkeypatch.setattr(letters, "_length", length)
    Lettering().lines(text, 17, width=256, most=3)
    assert len(measured) < 400
    assert sum(measured) < 6_000

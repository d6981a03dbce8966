"""The fonts of this machine: which there are, and which of them has a character (here a *sign*).

Pillow brings a font for ASCII, but cannot say which signs a font has; so fonts' tables are read here, each at most once
and only when a sign is wanted that the fonts before it do not have.
"""

from __future__ import annotations

import io
import os
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO

from PIL import ImageFont

_SUFFIXES = (".ttf", ".otf", ".ttc")
_BEST_TABLES = ((3, 10), (0, 6), (0, 4), (3, 1), (0, 3))
"""Platform and encoding of the tables that map Unicode, those of all planes first."""
_BITMAP_SIZES = (109, 136, 160, 128, 96, 72, 64)
"""Pixels at which colour fonts of pictures can be had: Noto's and Apple's among them."""
_PECULIAR = (
    *("bold", "italic", "oblique", "bdita", "black", "demi", "light", "thin"),
    *("mono", "condensed", "narrow", "serif", "kufi", "math"),
)
_LAST_RESORT = "lastresort"
"""Apple's font that has a box for every sign."""


class Face:
    """A font, at any size: a file of this machine, or with no path the one that Pillow brings."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    @property
    def is_of_emoji(self) -> bool:
        return self._path is not None and "emoji" in self._path.stem.lower()

    def has(self, sign: str) -> bool:
        """Whether there is a glyph of the sign."""
        starts, ends = self._ranges
        place = bisect_right(starts, ord(sign)) - 1
        return place >= 0 and ord(sign) <= ends[place]

    @lru_cache(maxsize=128)  # noqa: B019 - faces live as long as the process, or as a test
    def at(self, size: int) -> tuple[ImageFont.FreeTypeFont, float] | None:
        """The font at `size` pixels, or at a size that it has and what to scale that by; None if it is not a font."""
        if self._path is None:
            return ImageFont.truetype(_pillows_own(), size), 1.0
        for there in (size, *_BITMAP_SIZES):
            try:
                return ImageFont.truetype(str(self._path), there), size / there
            except OSError:
                continue
        return None

    @cached_property
    def _ranges(self) -> tuple[list[int], list[int]]:
        """The code points that there are glyphs of: first ones and last ones of ranges in order."""
        try:
            with self._opened() as file:
                ranges = sorted(_ranges_of(file))
        except (OSError, struct.error):
            return [], []  # a damaged font has no signs
        return [first for first, _ in ranges], [last for _, last in ranges]

    def _opened(self) -> BinaryIO:
        return _pillows_own() if self._path is None else self._path.open("rb")


class Fonts:
    """Pillow's own font and those in `folders`, the plainest first. Each is found and read when it is wanted."""

    def __init__(self, folders: Iterable[Path] | None = None) -> None:
        self._folders = folders
        self._own = Face()
        self._found: dict[tuple[str, bool], Face | None] = {}

    @property
    def own(self) -> Face:
        """The font that is always there."""
        return self._own

    def with_sign(self, sign: str, *, as_emoji: bool = False) -> Face | None:
        """The first font that has the sign, of those with pictures of it if `as_emoji`; None if no font has it."""
        wanted = sign, as_emoji
        if wanted not in self._found:
            self._found[wanted] = self._look_for(sign, as_emoji=as_emoji)
        return self._found[wanted]

    def _look_for(self, sign: str, *, as_emoji: bool) -> Face | None:
        if not as_emoji and self._own.has(sign):
            return self._own
        of_emoji, of_text = self._others
        for face in (*of_emoji, *of_text) if as_emoji else (*of_text, *of_emoji):
            if face.has(sign) and face.at(_BITMAP_SIZES[0]) is not None:
                return face
        return self._own if self._own.has(sign) else None

    @cached_property
    def _others(self) -> tuple[list[Face], list[Face]]:
        """The fonts of emoji, and the others."""
        paths = sorted(_files(_folders() if self._folders is None else self._folders), key=_peculiarity)
        faces = [Face(path) for path in paths if _LAST_RESORT not in path.stem.lower()]
        return [face for face in faces if face.is_of_emoji], [face for face in faces if not face.is_of_emoji]


def _pillows_own() -> io.BytesIO:
    font = ImageFont.load_default(10)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow's wheels have FreeType"
    return io.BytesIO(font.font_bytes)


def _folders() -> Iterator[Path]:
    """Where Linux and macOS keep fonts."""
    home = Path.home()
    data = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    yield from (Path(folder) / "fonts" for folder in data.split(":"))
    yield from (Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / "fonts", home / ".fonts")
    yield from (Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts")


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for parent, _, names in os.walk(folder):
            yield from (Path(parent) / name for name in names if name.lower().endswith(_SUFFIXES))


def _peculiarity(path: Path) -> tuple[int, bool, bool, str]:
    """Plain upright sans serifs first, of Noto before others, for they look alike in all scripts."""
    name = path.stem.lower()
    peculiar = sum(word in name for word in _PECULIAR)
    return peculiar, not name.startswith("notosans"), "sans" not in name, name


def _ranges_of(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """First and last code points from the `cmap` table of a TrueType or OpenType font, or of a collection's first."""
    start = 0
    if file.read(4) == b"ttcf":
        (start,) = struct.unpack(">8xI", file.read(12))
    file.seek(start + 4)
    (tables,) = struct.unpack(">H6x", file.read(8))
    directory: dict[bytes, int] = dict(struct.unpack(">4s4xI4x", file.read(16)) for _ in range(tables))
    if b"cmap" not in directory:
        return
    begin = directory[b"cmap"]
    file.seek(begin)
    (number,) = struct.unpack(">2xH", file.read(4))
    kinds = {}
    for platform, encoding, place in (struct.unpack(">HHI", file.read(8)) for _ in range(number)):
        kinds[platform, encoding] = begin + place
    for kind in _BEST_TABLES:
        if kind in kinds:
            file.seek(kinds[kind])
            (form,) = struct.unpack(">H", file.read(2))
            yield from _segments(file) if form == 4 else _groups(file) if form == 12 else ()
            return


def _segments(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Of a table of format 4: the basic plane."""
    (twice,) = struct.unpack(">4xH6x", file.read(12))
    form = f">{twice // 2}H"
    lasts = struct.unpack(form, file.read(twice))
    file.read(2)
    firsts = struct.unpack(form, file.read(twice))
    yield from ((first, last) for first, last in zip(firsts, lasts, strict=True) if first != 0xFFFF)


def _groups(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Of a table of format 12: all planes."""
    (number,) = struct.unpack(">10xI", file.read(14))
    yield from ((first, last) for first, last, _ in struct.iter_unpack(">III", file.read(12 * number)))

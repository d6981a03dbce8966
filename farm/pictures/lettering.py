"""Lines of text in any script: broken to a width, with a font for each run, both directions, and emoji in colour.

Each run is shaped by Raqm where Pillow has it. What stands left of what in a line of both directions follows the first
level of Unicode's bidirectional algorithm; Raqm sees to what is inside a run.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from PIL import Image, ImageDraw, features

from farm.pictures.fonts import Face, Fonts
from farm.words import one_line

_MOST_CLUSTERS = 300
"""No caption has room for more; the rest of a long text is not even looked at."""
_MOST_IN_EMOJI, _MOST_IN_CLUSTER = 16, 5
"""Families have many members; marks piled upon a letter would grow into the picture above."""
_JOINER, _AS_EMOJI, _KEYCAP = "\u200d", "\ufe0f", "\u20e3"
_SELECTORS = frozenset(map(chr, (0x200C, 0x200D, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
_SKINS = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
_FLAGS = frozenset(map(chr, range(0x1F1E6, 0x1F200)))
_ELLIPSIS = "…"
_CLOSED_BY = {pair[0]: pair[1] for pair in ["()", "[]", "{}", "（）", "［］", "「」", "『』", "【】", "《》", "〈〉"]}


@dataclass(frozen=True)
class Cluster:
    """What stands together: a sign with its marks, or the parts of one emoji."""

    text: str
    face: Face
    rightwards: bool | None
    """Whether it is read from the left, or from the right; None if that depends on its neighbours."""

    @property
    def stands_alone(self) -> bool:
        """Whether a line may be broken beside it, as in Chinese and Japanese."""
        return unicodedata.east_asian_width(self.text[0]) in "WF"


@dataclass(frozen=True)
class Run:
    """Neighbours of one font and one direction, and how wide they are."""

    text: str
    face: Face
    rightwards: bool
    width: float


@dataclass(frozen=True)
class Line:
    """Runs from left to right."""

    runs: Sequence[Run]
    rightwards: bool
    """Whether its text begins at the left."""

    @property
    def width(self) -> float:
        return sum(run.width for run in self.runs)


@dataclass
class Lettering:
    """Writes with `fonts`, and keeps in `missing` the signs that none of them has."""

    fonts: Fonts = field(default_factory=Fonts)
    missing: set[str] = field(default_factory=set)
    _widths: dict[tuple[str, Face, int], float] = field(default_factory=dict)

    def lines(self, text: str, size: int, *, width: int, most: int) -> list[Line]:
        """The text in lines of at most `width` pixels at `size`; what is beyond `most` lines ends in an ellipsis."""
        clusters = list(self._clusters(" ".join(one_line(text).split())))
        base = next((one.rightwards for one in clusters if one.rightwards is not None), True)
        broken = self._broken(clusters, size, width=width, most=most)
        return [self._set(line, size, base) for line in broken]

    def draw(
        self, page: Image.Image, line: Line, left: float, top: float, size: int, colour: tuple[int, int, int]
    ) -> None:
        """Put the line onto an RGB page. `top` is where its tallest letters begin."""
        own = self.fonts.own.at(size)
        assert own is not None, "Pillow's own font is there at every size"
        baseline = top + own[0].getmetrics()[0]
        for run in line.runs:
            _draw(page, run, left, baseline, size, colour)
            left += run.width

    def _clusters(self, text: str) -> Iterator[Cluster]:
        before: Face | None = None
        for number, cluster in enumerate(_split(text)):
            if number == _MOST_CLUSTERS:
                return
            face = self._face(cluster, before)
            yield Cluster(cluster, face, _direction(cluster))
            before = face

    def _face(self, cluster: str, before: Face | None) -> Face:
        signs = [sign for sign in cluster if sign not in _SELECTORS]
        if not signs:
            return before or self.fonts.own
        as_emoji = _is_emoji(cluster)
        if before and not (as_emoji or before.is_of_emoji) and not signs[0].isalnum() and all(map(before.has, signs)):
            return before  # spaces and full stops look as the words before them do
        faces = [self.fonts.with_sign(sign, as_emoji=as_emoji) for sign in signs]
        self.missing.update(sign for sign, face in zip(signs, faces, strict=True) if face is None)
        found = [face for face in faces if face is not None]
        whole = (face for face in found if all(map(face.has, signs)))
        return next(whole, found[0] if found else self.fonts.own)

    def _broken(self, clusters: Sequence[Cluster], size: int, *, width: int, most: int) -> list[list[Cluster]]:
        lines: list[list[Cluster]] = []
        line: list[Cluster] = []
        room = float(width)
        words = list(_words(clusters))
        for word in words:
            whole = sum(self._width(one, size) for one in word)
            if line and whole > room and (whole <= width or line[-1].text == " "):
                lines.append(line)
                line, room = [], float(width)
            for one in word:
                wide = self._width(one, size)
                if wide > room and line:
                    lines.append(line)
                    line, room = [], float(width)
                if line or one.text != " ":
                    line.append(one)
                    room -= wide
            if len(lines) >= most:
                return self._shortened(lines[:most], size, width)
        return [*lines, line] if line else lines

    def _shortened(self, lines: list[list[Cluster]], size: int, width: int) -> list[list[Cluster]]:
        *_, last = lines
        end = Cluster(_ELLIPSIS, self.fonts.own, None)
        while last and (last[-1].text == " " or sum(self._width(one, size) for one in (*last, end)) > width):
            last.pop()
        last.append(end)
        return lines

    def _width(self, cluster: Cluster, size: int) -> float:
        key = cluster.text, cluster.face, size
        if key not in self._widths:
            self._widths[key] = _length(cluster.text, cluster.face, size, rightwards=cluster.rightwards is not False)
        return self._widths[key]

    def _set(self, line: Sequence[Cluster], size: int, base: bool) -> Line:
        """The line's runs as they stand from left to right."""
        runs: list[Run] = []
        for rightwards, part in _directed(line, base):
            here = [
                Run(text, face, rightwards, _length(text, face, size, rightwards=rightwards))
                for face, same in groupby(part, key=lambda one: one.face)
                for text in ("".join(one.text for one in same),)
            ]
            here = here if rightwards else here[::-1]
            runs = [*runs, *here] if base else [*here, *runs]
        return Line(runs, base)


def _split(text: str) -> Iterator[str]:
    """The clusters of a text; of one that goes on and on, the beginning."""
    cluster = ""
    for sign in text:
        if cluster and not _belongs(sign, cluster):
            yield cluster
            cluster = ""
        if len(cluster) < (_MOST_IN_EMOJI if cluster and _is_picture(cluster[0]) else _MOST_IN_CLUSTER):
            cluster += sign
    if cluster:
        yield cluster


def _belongs(sign: str, cluster: str) -> bool:
    if sign in _SELECTORS or sign in _SKINS or unicodedata.category(sign)[0] == "M":
        return cluster != " "
    if sign in _FLAGS:
        return len(cluster) == 1 and cluster in _FLAGS
    return cluster[-1] == _JOINER and _is_picture(sign)


def _is_picture(sign: str) -> bool:
    return unicodedata.category(sign) == "So" or sign in _SKINS


def _is_emoji(cluster: str) -> bool:
    if _AS_EMOJI in cluster or _KEYCAP in cluster or cluster[0] in _FLAGS:
        return True
    return _is_picture(cluster[0]) and unicodedata.east_asian_width(cluster[0]) == "W"


def _direction(cluster: str) -> bool | None:
    kind = unicodedata.bidirectional(cluster[0])
    return True if kind == "L" else False if kind in ("R", "AL", "AN") else None


def _words(clusters: Sequence[Cluster]) -> Iterator[list[Cluster]]:
    """What is not broken unless it is wider than a line; spaces are words of their own."""
    word: list[Cluster] = []
    for one in clusters:
        if one.text == " " or one.stands_alone:
            yield from ([word] if word else [])
            yield [one]
            word = []
        else:
            word.append(one)
    yield from ([word] if word else [])


def _directed(line: Sequence[Cluster], base: bool) -> Iterator[tuple[bool, list[Cluster]]]:
    """The line in parts of one direction, as they are read.

    Digits take the direction of the words before them, brackets one for both; whatever else has none that of both its
    neighbours, or `base`.
    """
    directions: list[bool | None] = []
    words = base
    for one in line:
        words = words if one.rightwards is None else one.rightwards
        directions.append(words if one.text.isdigit() else one.rightwards)
    for opening, closing in _pairs(line):
        directions[opening] = directions[closing] = _of_brackets(directions, opening, closing, base)
    before = _nearest(directions, base)
    after = _nearest(directions[::-1], base)[::-1]
    resolved = (here if here == there else base for here, there in zip(before, after, strict=True))
    for rightwards, part in groupby(zip(resolved, line, strict=True), key=lambda pair: pair[0]):
        yield rightwards, [one for _, one in part]


def _pairs(line: Sequence[Cluster]) -> list[tuple[int, int]]:
    """The places of brackets that belong together, by where they open (rule BD16 of UAX #9)."""
    pairs, open_ones = [], list[int]()
    for place, one in enumerate(line):
        if one.text in _CLOSED_BY:
            open_ones.append(place)
        for opening in reversed(open_ones):
            if _CLOSED_BY[line[opening].text] == one.text:
                del open_ones[open_ones.index(opening) :]
                pairs.append((opening, place))
                break
    return sorted(pairs)


def _of_brackets(directions: Sequence[bool | None], opening: int, closing: int, base: bool) -> bool | None:
    """`base` if anything in them has it; else, if there are words in them, that of what is before them (rule N0)."""
    inside = set(directions[opening + 1 : closing]) - {None}
    before = next((direction for direction in reversed(directions[:opening]) if direction is not None), base)
    return base if base in inside else before if inside else None


def _nearest(directions: Sequence[bool | None], base: bool) -> list[bool]:
    """Each direction, or the last one before it, or `base`."""
    nearest, found = base, []
    for direction in directions:
        nearest = nearest if direction is None else direction
        found.append(nearest)
    return found


def _length(text: str, face: Face, size: int, *, rightwards: bool) -> float:
    sized = face.at(size)
    assert sized is not None, "faces that cannot be read are not chosen"
    font, scale = sized
    return scale * font.getlength(_ordered(text, rightwards), direction=_asked(rightwards))


def _draw(page: Image.Image, run: Run, left: float, baseline: float, size: int, colour: tuple[int, int, int]) -> None:
    sized = run.face.at(size)
    assert sized is not None, "faces that cannot be read are not chosen"
    font, scale = sized
    text, direction = _ordered(run.text, run.rightwards), _asked(run.rightwards)
    if scale == 1.0 and not run.face.is_of_emoji:
        ImageDraw.Draw(page).text((left, baseline), text, fill=colour, font=font, anchor="ls", direction=direction)
        return
    box = font.getbbox(text, anchor="ls", direction=direction)
    width, height = max(1, round(box[2] - box[0])), max(1, round(box[3] - box[1]))
    drawn = Image.new("RGBA", (width, height))
    pen = ImageDraw.Draw(drawn)
    pen.text((-box[0], -box[1]), text, fill=colour, font=font, anchor="ls", direction=direction, embedded_color=True)
    small = drawn.resize(
        (max(1, round(scale * width)), max(1, round(scale * height))), Image.Resampling.LANCZOS, reducing_gap=2.0
    )
    page.paste(small, (round(left + scale * box[0]), round(baseline + scale * box[1])), small)


def _shapes() -> bool:
    return bool(features.check("raqm"))


def _asked(rightwards: bool) -> str | None:
    return ("ltr" if rightwards else "rtl") if _shapes() else None


def _ordered(text: str, rightwards: bool) -> str:
    """As it is to be given to Pillow, which without Raqm puts signs side by side as they come."""
    return text if rightwards or _shapes() else "".join(reversed(list(_split(text))))

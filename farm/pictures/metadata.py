"""What a picture file holds besides its picture: workflows, comments, thumbnails, XMP, further pictures.

Pillow reads all of that before the first pixel, and calls a file damaged where a text is longer than it likes, a
checksum in a comment is wrong, or a list of further pictures makes no sense. So it is taken out first. What remains is
the picture, the way it is to be turned (EXIF) and its colour profile.

PNG: https://www.w3.org/TR/png-3/#5DataRep; JPEG: ITU-T T.81, annex B.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

MAX_PROFILE_BYTES = 8 * 2**20
"""Profiles of cameras and printers have up to about 2 MiB."""
MAX_TEXT_BYTES = 4 * 2**20
_MAX_EXIF_BYTES = 2**20
_MAX_KEYWORD = 79

_PNG = b"\x89PNG\r\n\x1a\n"
_CHECKSUM = 4
_DECODED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_JPEG = b"\xff\xd8\xff"
_START_OF_SCAN = 0xDA
_ALONE = {0x01, *range(0xD0, 0xDA)}
"""Markers without a length after them."""
_COMMENT, _APP0, _APP14, _APP15 = 0xFE, 0xE0, 0xEE, 0xEF


@dataclass(frozen=True)
class Stripped:
    """A file that holds a picture and little else. `profile`: a PNG's colour profile, taken out and decompressed.

    `profile_fault` says why there is none although the PNG has one. Other formats keep theirs inside.
    """

    data: bytes
    profile: bytes | None = None
    profile_fault: str | None = None


def strip(data: bytes) -> Stripped:
    """The picture in a PNG or JPEG file; other bytes, and what follows the first nonsense, as they are.

    Raises `ValueError` if a part of a PNG's picture is not as its checksum says: decoders make garbage of it unasked.
    """
    if data.startswith(_PNG):
        return _stripped_png(data)
    if data.startswith(_JPEG):
        return Stripped(b"".join(_jpeg_parts(data)))
    return Stripped(data)


def read_text(data: bytes, keyword: str) -> str | None:
    """The international text (`iTXt`) of a PNG under `keyword`, or None if there is none that can be read."""
    if not data.startswith(_PNG):
        return None
    for chunk in _chunks(data):
        if chunk.kind == b"iTXt" and chunk.is_whole and chunk.body.startswith(keyword.encode("latin-1") + b"\0"):
            return _text_in(chunk.body[len(keyword) + 1 :])
    return None


def read_texts(data: bytes) -> dict[str, str]:
    """The texts of a PNG by their keywords, the first of each, up to 4 MiB of them in all; none of other files.

    They are anybody's words. What cannot be read is left out.
    """
    texts: dict[str, str] = {}
    left = MAX_TEXT_BYTES
    for chunk in _chunks(data) if data.startswith(_PNG) else ():
        name, zero, rest = chunk.body.partition(b"\0")
        if chunk.kind not in _TEXTS or not chunk.is_whole or not zero or len(name) > _MAX_KEYWORD:
            continue
        text = _TEXTS[chunk.kind](rest)
        if text is not None and len(text) <= left:
            texts.setdefault(name.decode("latin-1"), text)
            left -= len(text)
    return texts


def _compressed_text_in(rest: bytes) -> str | None:
    """What follows the keyword of a `zTXt`: how it is compressed, of which there is one way, and the text."""
    reader = zlib.decompressobj()
    try:
        text = reader.decompress(rest[1:], MAX_TEXT_BYTES)
    except zlib.error:
        return None
    return None if reader.unconsumed_tail or rest[:1] != b"\0" else text.decode("latin-1")


def _text_in(body: bytes) -> str | None:
    """What follows the keyword: whether and how it is compressed, a language, the keyword in that language, a text."""
    _, zero, rest = body[2:].partition(b"\0")
    _, second, text = rest.partition(b"\0")
    if not (zero and second) or body[0] > 1:
        return None
    reader = zlib.decompressobj()
    try:
        written = reader.decompress(text, MAX_TEXT_BYTES) if body[0] else text
        return None if reader.unconsumed_tail else written.decode()
    except (zlib.error, UnicodeDecodeError):
        return None


_TEXTS: Mapping[bytes, Callable[[bytes], str | None]] = {
    b"tEXt": lambda rest: rest.decode("latin-1"),
    b"zTXt": _compressed_text_in,
    b"iTXt": _text_in,
}
"""What reads the texts of a PNG from what follows their keyword, by kind."""


@dataclass(frozen=True)
class _Chunk:
    """A piece of a PNG. `written` is all of it, from its length to its checksum, and `body` what it says."""

    kind: bytes
    written: bytes
    body: bytes

    @property
    def is_whole(self) -> bool:
        return zlib.crc32(self.kind + self.body) == int.from_bytes(self.written[-_CHECKSUM:], "big")


def _stripped_png(data: bytes) -> Stripped:
    profile, fault = None, None
    kept = [_PNG]
    for chunk in _chunks(data):
        is_of_the_picture = chunk.kind[:1].isupper() or chunk.kind == b"tRNS"
        if chunk.kind in _DECODED and not chunk.is_whole:
            raise ValueError(f"a part of it ({chunk.kind.decode()}) is cut short, or was changed")
        if is_of_the_picture or (chunk.kind == b"eXIf" and chunk.is_whole and len(chunk.body) <= _MAX_EXIF_BYTES):
            kept.append(chunk.written)
        elif chunk.kind == b"iCCP":
            profile, fault = _profile_in(chunk)
    return Stripped(b"".join(kept), profile, fault)


def _chunks(data: bytes) -> Iterator[_Chunk]:
    at = len(_PNG)
    kind = b""
    while at < len(data) and kind != b"IEND":
        kind = data[at + 4 : at + 8]
        end = at + 8 + int.from_bytes(data[at : at + 4], "big") + _CHECKSUM
        yield _Chunk(kind, data[at:end], data[at + 8 : end - _CHECKSUM])
        at = end


def _profile_in(chunk: _Chunk) -> tuple[bytes | None, str | None]:
    """The profile in an `iCCP` chunk (a name, a zero, a method of compression, the compressed bytes), or its fault."""
    _, _, compressed = chunk.body.partition(b"\0")
    reader = zlib.decompressobj()
    try:
        profile = reader.decompress(compressed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None, "is damaged"
    if reader.unconsumed_tail:
        return None, f"has more than {MAX_PROFILE_BYTES // 2**20} MiB"
    return (profile, None) if chunk.is_whole and reader.eof else (None, "is damaged")


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """The file in parts, less the segments that are of no use; from the first scan on there is only picture."""
    yield data[:2]
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker in _ALONE or marker == _START_OF_SCAN:
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if _is_of_use(marker, data[at + 4 : end]):
            yield data[at:end]
        at = end
    yield data[at:]


def _is_of_use(marker: int, body: bytes) -> bool:
    if not (_APP0 <= marker <= _APP15 or marker == _COMMENT):
        return True
    # The decoder reads off APP0 (JFIF) and APP14 (Adobe) how the colours are coded.
    return marker in (_APP0, _APP14) or body.startswith((b"Exif\0\0", b"ICC_PROFILE\0"))

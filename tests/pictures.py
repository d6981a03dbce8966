"""Picture files that are hard to come by: ones that are not what they say, and ones with colour profiles."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]

# Columns of XYZ (D50) of red, green and blue, as the profiles of these spaces have them.
SRGB_PRIMARIES = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
DISPLAY_P3_PRIMARIES = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB_PRIMARIES = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def enormous_png() -> bytes:
    """A PNG of a few bytes that says it is 100,000 pixels wide and high."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(png: bytes, *chunks: bytes, before: bytes = b"IDAT") -> bytes:
    """The PNG with chunks put in before its first one of a kind."""
    at = png.index(before) - 4
    return png[:at] + b"".join(chunks) + png[at:]


def encoded(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def srgb_to_linear(values: Floats) -> Floats:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: Floats) -> Floats:
    values = values.clip(0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def adobe_to_linear(values: Floats) -> Floats:
    return np.asarray(values ** (563 / 256))


def seen_in_srgb(
    color: Sequence[int], primaries: Sequence[Sequence[float]], to_linear: Callable[[Floats], Floats]
) -> tuple[int, ...]:
    """The sRGB of a colour of a space with these primaries: by the matrices of the two, and no library."""
    linear = to_linear(np.array(color) / 255)
    xyz = np.array(primaries).T @ linear
    in_srgb = linear_to_srgb(np.linalg.inv(np.array(SRGB_PRIMARIES).T) @ xyz)
    return tuple(int(value) for value in (255 * in_srgb).round())


def rgb_profile(primaries: Sequence[Sequence[float]], to_linear: Callable[[Floats], Floats]) -> bytes:
    """A colour profile of a screen (ICC.1:2001-04): three primaries and one curve."""
    curve = _curve(to_linear)
    tags = {
        b"wtpt": _xyz((0.9642, 1.0, 0.8249)),
        **{name: _xyz(primary) for name, primary in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    return _profile(b"RGB ", tags)


def grey_profile(to_linear: Callable[[Floats], Floats]) -> bytes:
    """A colour profile of grey."""
    return _profile(b"GRAY", {b"wtpt": _xyz((0.9642, 1.0, 0.8249)), b"kTRC": _curve(to_linear)})


def _curve(to_linear: Callable[[Floats], Floats]) -> bytes:
    points = (65_535 * to_linear(np.linspace(0, 1, 1024))).round().astype(">u2")
    return struct.pack(">4sII", b"curv", 0, len(points)) + points.tobytes()


def _xyz(values: Sequence[float]) -> bytes:
    return struct.pack(">4sI3i", b"XYZ ", 0, *(round(value * 65_536) for value in values))


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    description = b"a profile of a test"
    described = struct.pack(">4sII", b"desc", 0, len(description) + 1) + description + bytes(1 + 8 + 3 + 67)
    tags = {b"desc": described, b"cprt": b"text" + bytes(4) + b"none\0", **tags}
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content
    whole = struct.pack(">I", len(tags)) + table + body
    date = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    header = struct.pack(">I4sI4s4s4s", 128 + len(whole), bytes(4), 0x02400000, b"mntr", space, b"XYZ ") + date
    header += b"acsp" + bytes(24) + struct.pack(">I", 0) + struct.pack(">3i", 63_190, 65_536, 54_061)
    return header + bytes(128 - len(header)) + whole

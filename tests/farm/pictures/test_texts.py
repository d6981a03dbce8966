"""The texts of PNGs, which are anybody's words."""

from __future__ import annotations

import io
import struct
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from farm.pictures.metadata import MAX_TEXT_BYTES, read_texts


def png(info: PngInfo) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def test_texts_of_every_kind_are_read_and_the_first_of_a_name_counts() -> None:
    info = PngInfo()
    info.add_text("plain", "a café")
    info.add_text("packed", "b " * 1_000, zip=True)
    info.add_itxt("international", "c 🦦", zip=True)
    info.add_text("plain", "another")
    assert read_texts(png(info)) == {"plain": "a café", "packed": "b " * 1_000, "international": "c 🦦"}


def test_what_cannot_be_read_or_is_too_long_is_left_out() -> None:
    info = PngInfo()
    for name, body in (
        (b"tEXt", b"no zero"),
        (b"tEXt", b"k" * 80 + b"\0long keyword"),
        (b"zTXt", b"bomb\0\0" + zlib.compress(bytes(MAX_TEXT_BYTES + 1))),
        (b"zTXt", b"damaged\0\0not zlib"),
        (b"zTXt", b"method\0\1" + zlib.compress(b"x")),
        (b"iTXt", b"cut\0"),
        (b"iTXt", b"bytes\0\0\0\0\0\xff"),
    ):
        info.add(name, body)
    info.add_text("kept", "it")
    data = png(info)
    assert read_texts(data) == {"kept": "it"}
    assert read_texts(data.replace(b"kept\0it", b"kept\0is")) == {}, "its checksum is another's"
    assert read_texts(b"GIF89a") == {}


def test_all_of_them_together_have_a_bound() -> None:
    info = PngInfo()
    for name in "abc":
        info.add_text(name, name * (MAX_TEXT_BYTES // 2), zip=True)
    assert [*read_texts(png(info))] == ["a", "b"]


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([b"tEXt", b"zTXt", b"iTXt"]), st.binary(max_size=40))), st.binary(max_size=9))
def test_no_bytes_make_it_fail(chunks: list[tuple[bytes, bytes]], rest: bytes) -> None:
    made = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    read_texts(b"\x89PNG\r\n\x1a\n" + b"".join(made) + rest)

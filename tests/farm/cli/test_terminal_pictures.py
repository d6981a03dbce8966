"""Pictures in a terminal, which is asked what it can show: here the test is the terminal, and answers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from PIL import Image

from farm.cli.view.terminal_pictures import check_terminal
from farm.errors import InvalidInput

_ATTRIBUTES, _GRAPHICS = re.compile(rb"\x1b\[c"), re.compile(rb"\x1b_Gi=(\d+)[^\x1b]*a=q[^\x1b]*\x1b\\")
_SIXEL, _KITTY, _HALF = b"\x1bP", b"\x1b_G", "▀".encode()

_SCRIPT = """if True:
    import sys
    from pathlib import Path
    from farm.cli.view.terminal_pictures import show_here
    show_here(Path(sys.argv[1]))
"""


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.linear_gradient("L").resize((64, 48)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def shown(picture: Path, *, attributes: bytes | None, graphics: bool, pixels: tuple[int, int] = (1_000, 800)) -> bytes:
    """What is written to a terminal of these abilities."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, *pixels))
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(picture)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "LINES": "40", "COLUMNS": "100"},
        )
    finally:
        os.close(theirs)
    written, answered = bytearray(), set[str]()
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
        while part := os.read(ours, 2**16):
            written += part
            if attributes and "attributes" not in answered and _ATTRIBUTES.search(written):
                answered.add("attributes")
                os.write(ours, attributes)
            if graphics and "graphics" not in answered and (asked := _GRAPHICS.search(written)):
                answered.add("graphics")
                os.write(ours, b"\x1b_Gi=" + asked[1] + b";OK\x1b\\")
    os.close(ours)
    assert process.wait(60) == 0
    return bytes(written)


def test_a_terminal_of_sixels_is_given_sixels(picture: Path) -> None:
    written = shown(picture, attributes=b"\x1b[?62;4;22c", graphics=False)
    assert _SIXEL in written and _HALF not in written


def test_a_terminal_of_kittys_kind_is_given_the_picture(picture: Path) -> None:
    written = shown(picture, attributes=b"\x1b[?62;22c", graphics=True)
    assert written.count(_KITTY) > 1 and _SIXEL not in written


@pytest.mark.long
@pytest.mark.parametrize("pixels", [(1_000, 800), (0, 0)], ids=["", "which does not even say how large it is"])
def test_any_other_is_given_half_blocks(picture: Path, pixels: tuple[int, int]) -> None:
    written = shown(picture, attributes=None, graphics=False, pixels=pixels)
    assert written.count(_HALF) == 64 * 24, "two pixels a character"
    assert b"Traceback" not in written


def test_without_a_terminal_it_is_refused() -> None:
    with pytest.raises(InvalidInput, match="there is no terminal to draw into"):
        check_terminal()

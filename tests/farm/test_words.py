"""Words of strangers: what is taken out of lines, JSON and logs, and what may stay."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from farm.host.loglines import LogFormatter
from farm.words import inert, one_line, shell_words

ROOT = Path(__file__).parents[2]
STEERING = [
    *("\x00", "\x07", "\b", "\t", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9b"),
    *("\u00ad", "\u061c", "\u180e", "\u200b", "\u200e", "\u2028", "\u202e", "\u2060", "\u2064", "\u2066", "\ufeff"),
    *("\ufff9", "\ud800", "\ue000", "\U000e0001", "\U000e0041", "\U000e007f", "\U0010ffff"),
]


@pytest.mark.parametrize("sign", STEERING, ids=ascii)
def test_what_steers_a_terminal_or_cannot_be_seen_is_a_space_in_lines(sign: str) -> None:
    assert one_line(f"an {sign} otter{sign}") == "an   otter "


@pytest.mark.parametrize("sign", sorted({*STEERING, "\u200c", "\u200d"} - {"\n"}), ids=ascii)
def test_it_is_escaped_in_json_and_read_back(sign: str) -> None:
    document = json.dumps({"prompt": f"an {sign} otter"}, indent=2, ensure_ascii=False)
    shown = inert(document)
    assert all(one.isprintable() or one == "\n" for one in shown)
    assert json.loads(shown) == {"prompt": f"an {sign} otter"}


def test_plain_words_of_any_script_stay() -> None:
    for text in ("an otter", "a [red] fox", "水獺の絵", "ثعلب الماء", "é ß ñ", "🦦"):
        assert one_line(text) == inert(text) == text


@pytest.mark.parametrize("text", ["👩\u200d💻 coding", "می\u200cخواهم", "क्\u200dष"])
def test_joiners_hold_emoji_and_letters_together(text: str) -> None:
    assert one_line(text) == text


@pytest.mark.parametrize(
    "text", ["\u200dotter", "ot\u200dter", "otter\u200d", "水\u200d", "水 \u200d獺", "水\u200d\u200d獺"]
)
def test_joiners_that_join_nothing_go(text: str) -> None:
    assert one_line(text) == text.replace("\u200d", " ")


def logged(message: str, *arguments: object, trouble: BaseException | None = None) -> list[str]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LogFormatter("%(levelname)s %(message)s"))
    log = logging.Logger("a test")
    log.addHandler(handler)
    log.error(message, *arguments, exc_info=trouble)
    return stream.getvalue().splitlines()


def test_a_record_is_one_inert_line() -> None:
    assert logged("the spec %s is damaged", "x\x1b[2J\nERROR all is lost\r\u2028") == [
        "ERROR the spec x [2J ERROR all is lost   is damaged"
    ]


def test_a_traceback_follows_indented_and_inert() -> None:
    try:
        raise ValueError("\x1b[2J\nERROR all is lost")
    except ValueError as error:
        first, *rest = logged("a step failed", trouble=error)
    assert first == "ERROR a step failed"
    assert "    ERROR all is lost" in rest and any("test_words.py" in line for line in rest)
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


def test_the_stack_of_a_record_too() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "here", None, None, sinfo="Stack\nERROR forged")
    assert LogFormatter().format(record) == "here\n    Stack\n    ERROR forged"


def test_every_process_logs_by_this_formatter() -> None:
    sources = [path for package in ("farm", "worker") for path in (ROOT / package).rglob("*.py")]
    other = {f"logging.{name}" for name in ("basicConfig", "StreamHandler", "FileHandler", "Formatter")}
    found = [path.name for path in sources if other & set(re.findall(r"[\w.]+", path.read_text(encoding="utf-8")))]
    assert len(sources) > 100
    assert [name for name in found if name != "loglines.py"] == []


def test_a_process_that_logs_to_stderr_writes_inert_lines() -> None:
    script = (
        "import logging; from farm.host import loglines;"
        "loglines.log_to_stderr(logging.INFO, '%(levelname)s %(message)s');"
        r"logging.getLogger('any').info('job %s', 'x\x1b[2J\nERROR all is lost'); logging.getLogger('any').debug('no')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True, timeout=60)
    assert done.stderr == "INFO job x [2J ERROR all is lost\n"


@pytest.mark.parametrize("shell", ["bash"])
@pytest.mark.parametrize(
    "word",
    [
        "",
        "plain",
        "an otter",
        "it's",
        "back\\slash",
        "un\u202egood\u202c 7",
        "a\nb\tc",
        "\u200bhidden' \\1",
        "عر\u200cبي",
        "🦦👩\u200d🎨",
    ],
)
def test_a_shown_command_says_what_was_meant_and_hides_nothing(word: str, shell: str) -> None:
    shown = shell_words(["printf", "%s", word])
    assert shown == one_line(shown)
    done = subprocess.run([shell, "-c", shown], stdout=subprocess.PIPE, check=True, timeout=30)
    assert done.stdout.decode() == word

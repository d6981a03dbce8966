"""Streams as real processes have them: of any encoding, full, closed, or a pipe that nobody reads any more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PROMPT = "水獺 naïve 🦦"

with_a_full_device = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "farm", *arguments]


def environment(tmp_path: Path, **others: str) -> dict[str, str]:
    """Of no farm, and of no locale but the one given."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FARM_", "PYTHON", "LC_", "LANG", "COLUMNS"))
    }
    return own | {"FARM_HOME": str(tmp_path / "no farm")} | others


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["ascii", "gbk", "utf-8"])
def test_json_is_read_back_whatever_the_encoding_of_stdout(encoding: str, tmp_path: Path) -> None:
    said = subprocess.run(
        command("submit", "txt2img", PROMPT, "--dry-run"),
        env=environment(tmp_path, PYTHONIOENCODING=encoding, PYTHONUTF8="1"),
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    assert json.loads(said)["jobs"][0]["spec"]["conditioning"]["prompts"][0]["text"] == PROMPT
    assert (PROMPT.encode() in said) == (encoding == "utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk"])
def test_what_a_terminal_cannot_show_is_replaced(encoding: str, tmp_path: Path) -> None:
    imports = "from farm.cli import streams; from farm.cli.view import output"
    script = f"{imports}; streams.settle(); output.say({PROMPT!r}); output.note({PROMPT!r})"
    said = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(tmp_path, PYTHONIOENCODING=encoding, PYTHONUTF8="1"),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert said.stdout.decode(encoding) == PROMPT.encode(encoding, "replace").decode(encoding) + "\n"
    assert said.stderr.decode(encoding) == PROMPT.encode(encoding, "backslashreplace").decode(encoding) + "\n"


def test_files_are_read_in_a_locale_that_is_not_of_utf_8(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from farm.settings import Settings; from farm.ledger.ledger import Ledger;"
        "Ledger(Settings(redis_url='redis://127.0.0.1:1/0', s3_endpoint=None, s3_bucket='x')).close()"
    )
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning:farm", "-c", script],
        env=environment(tmp_path, **NO_UTF8),
        capture_output=True,
        timeout=60,
        encoding="utf-8",
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
@with_a_full_device
@pytest.mark.parametrize(
    ("arguments", "unbuffered"), [(("losses",), ""), (("losses",), "1"), (("losses", "--json"), ""), (("--help",), "")]
)
def test_a_full_disk_under_stdout_is_one_line(arguments: tuple[str, ...], unbuffered: str, tmp_path: Path) -> None:
    with FULL.open("w", encoding="utf-8") as full:
        done = subprocess.run(
            command(*arguments),
            env=environment(tmp_path, PYTHONUNBUFFERED=unbuffered),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            encoding="utf-8",
        )
    assert done.stderr == "farm: the output cannot be written: No space left on device\n"
    assert done.returncode == 1


@with_a_full_device
def test_a_full_disk_under_stderr_is_an_exit_code(tmp_path: Path) -> None:
    with FULL.open("w", encoding="utf-8") as full:
        done = subprocess.run(
            command("list"), env=environment(tmp_path), stdout=subprocess.PIPE, stderr=full, timeout=60
        )
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize("arguments", [("losses",), ("--help",)], ids=" ".join)
def test_a_reader_that_has_gone_is_no_news(arguments: tuple[str, ...], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            command(*arguments), env=environment(tmp_path), stdout=pipe, stderr=subprocess.PIPE, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "code", "closed"), [("losses", 0, ">&-"), ("list", 1, "2>&-"), ("losses", 0, ">&- 2>&-")]
)
def test_closed_streams_lead_nowhere(arguments: str, code: int, closed: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -m farm {arguments} {closed}', sys.executable],
        env=environment(tmp_path),
        capture_output=True,
        timeout=60,
        encoding="utf-8",
    )
    assert done.returncode == code
    assert "Traceback" not in done.stdout + done.stderr

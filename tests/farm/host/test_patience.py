"""Whoever waits for a server that says nothing is told."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.client import FarmClient
from farm.host import patience
from tests.waiting import eventually

SOON = 0.05
"""Seconds until it is told."""


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_each_server_that_the_main_thread_waits_for_is_told_once() -> None:
    told: list[str] = []
    patience.tell_of_silence(told.append, within=SOON)
    with patience.asking("one"):
        eventually(lambda: told == ["one has not answered for 0.05 s; waiting for it (Ctrl-C ends that)"], "it is told")
    with patience.asking("one"), patience.asking("another"):
        eventually(lambda: len(told) == 2, "the other one is told")
    assert told[1].startswith("another has not answered")


def test_other_threads_wait_for_themselves() -> None:
    def ask() -> None:
        patience.asked("theirs")
        seen.append(patience._waits)

    seen: list[object] = []
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(30)
    assert seen == [None]


@pytest.mark.parametrize(
    ("variables", "server"),
    [
        ({"FARM_REDIS_URL": "redis://127.0.0.1:{port}/0"}, "Redis at 127.0.0.1:{port}/0"),
        ({"FARM_REDIS_URL": "{redis}", "FARM_S3_ENDPOINT": "http://127.0.0.1:{port}"}, "S3 at http://127.0.0.1:{port}"),
    ],
)
def test_a_command_says_whom_it_waits_for(
    variables: dict[str, str],
    server: str,
    silent: int,
    client: FarmClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redis = client.settings.redis_url
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(port=silent, redis=redis))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    script = f"""
from farm.cli.main import main
from farm.host import patience
patience.PATIENCE_SECONDS = {SOON}
main()
"""
    command = [sys.executable, "-c", script, "models"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, encoding="utf-8") as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith(f"{server.format(port=silent)} has not answered for 0.05 s")
        waiting.send_signal(signal.SIGINT)
        try:
            assert "farm: interrupted" in waiting.communicate(timeout=60)[1]
        finally:
            waiting.kill()

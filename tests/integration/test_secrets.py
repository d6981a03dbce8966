"""Passwords and keys stay where they belong, whatever fails: a real farm, and then a look everywhere."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from farm import stack
from farm.client import FarmClient
from farm.errors import FarmError
from farm.settings import Settings
from farm.stack import credentials, servers
from farm.stack.layout import Layout, write_json
from tests import launching
from tests.environments import of_a_shell
from tests.waiting import eventually

SECRETS = {
    "redis_password": "EveryoneKnowsThisRedisPassword",
    "s3_access_key": "EVERYONEKNOWSTHISACCESSKEY",
    "s3_secret_key": "EveryoneKnowsThisSecretKey",
    "internal_key": "EveryoneKnowsThisInternalKey",
}
MISTYPED = {"redis": "ThisMistypedRedisPassword", "s3": "ThisMistypedSecretKey"}
ALL = (*SECRETS.values(), *MISTYPED.values())


@dataclass
class Watched:
    """A farm whose commands are run and listened to."""

    home: Path
    where: Settings
    environment: dict[str, str]
    said: list[str] = field(default_factory=list)

    def run(self, *command: str, code: int, **variables: str) -> str:
        return self._heard(launching.farm(*command, environment=self.environment | variables, folder=self.home), code)

    def run_worker(self, *, code: int, **variables: str) -> None:
        """A worker that is expected to end by itself."""
        environment = self.environment | variables
        self._heard(launching.run(("--device", "cpu"), environment=environment, folder=self.home), code)

    def _heard(self, done: subprocess.CompletedProcess[str], code: int) -> str:
        self.said += [done.stdout, done.stderr]
        assert done.returncode == code, f"{done.args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def kill(self, name: str) -> None:
        """Kill a server, which the supervisor starts again."""
        status = stack.status(self.home)
        assert status is not None
        [pid] = [child.pid for child in status.children if child.name == name and child.pid]
        os.kill(pid, signal.SIGKILL)

        def is_back() -> bool:
            now = stack.status(self.home)
            return now is not None and any(c.name == name and c.pid not in (None, pid) for c in now.children)

        eventually(is_back, f"{name} is started again")
        eventually(self._answer, "both servers answer")

    def _answer(self) -> bool:
        with contextlib.suppress(FarmError), FarmClient(self.where) as farm:
            farm.ledger.counts()
            farm.storage.put("probes/answers", b"yes", "text/plain")
            return True
        return False


@pytest.fixture
def watched(tmp_path: Path, tiny_model: Path) -> Iterator[Watched]:
    home = tmp_path / "home"
    layout = Layout(home)
    layout.create()
    write_json(layout.credentials, {**SECRETS, "ports": {}})
    try:
        environment = of_a_shell(home)
        where = launching.start_detached(home, 1, f"tiny={tiny_model}", environment=environment)
        yield Watched(home, where, environment)
    finally:
        stack.stop(home)
        if made := credentials.kept(layout.credentials):
            servers.clear_sockets(made.ports.values())


def test_no_secret_is_told_anywhere(watched: Watched) -> None:
    with command_lines() as commands:
        use_everything(watched)
        fail_in_every_way(watched)
        records, objects = everything_stored(watched.where)

    previewed = {
        "command lines": "\n".join(commands),
        "records of Redis": "\n".join(records),
        "objects": "\n".join(objects),
        "output": "\n".join(watched.said),
        **{
            f"log of {log.stem}": log.read_text(errors="replace", encoding="utf-8")
            for log in Layout(watched.home).logs.iterdir()
        },
    }
    assert all(previewed.values()), [name for name, text in previewed.items() if not text]
    found = [(name, secret) for name, text in previewed.items() for secret in ALL if secret in text]
    assert not found


def use_everything(watched: Watched) -> None:
    submit = ("submit", "txt2img", "a cat", "--model", "tiny", "--steps", "4")
    watched.run(*submit, "--trace", "video", "--label", "who=me", "--out", "renders", code=0)
    [status] = json.loads(watched.run("list", "--json", code=0))
    watched.run("fetch", status["id"], "--all", "--out", "all of it", code=0)
    watched.run(*submit, "--time-limit", "0.001", "--wait", code=3)
    [failed] = json.loads(watched.run("list", "--state", "failed", "--json", code=0))
    show = ("status", failed["id"], "--log")
    eventually(lambda: "  log        attempt 1, by " in watched.run(*show, code=0), "its log is there")
    for command in ("workers", "models", "list", "losses", "recover", "doctor"):
        watched.run(command, code=0)
    watched.run(*submit[:-2], "--steps", "0", code=2)


def fail_in_every_way(watched: Watched) -> None:
    """Wrong passwords and keys, servers that are not there, and servers that die under the worker."""
    named = {
        "FARM_REDIS_URL": watched.where.redis_url,
        "FARM_S3_ENDPOINT": watched.where.s3_endpoint or "",
        "AWS_ACCESS_KEY_ID": SECRETS["s3_access_key"],
        "AWS_SECRET_ACCESS_KEY": SECRETS["s3_secret_key"],
    }
    address = watched.where.redis_address
    submit = ("submit", "txt2img", "a cat", "--model", "tiny")
    failures: tuple[dict[str, str], ...] = (
        {"FARM_REDIS_URL": f"redis://:{MISTYPED['redis']}@{address}"},
        {"AWS_SECRET_ACCESS_KEY": MISTYPED["s3"]},
        {"AWS_ACCESS_KEY_ID": "NOSUCHKEY"},
        {"FARM_S3_ENDPOINT": "http://127.0.0.1:1"},
        {"FARM_REDIS_URL": f"redis://:{SECRETS['redis_password']}@127.0.0.1:1/0"},
    )
    for wrong in failures:
        watched.run(*submit, code=1, **named | wrong)
    for mistyped in failures[:2]:
        watched.run("doctor", code=1, **named | mistyped)
        watched.run_worker(code=1, **named | mistyped)
    for malformed in (f"redis://:{MISTYPED['redis']}#@{address}", f"redis://:{MISTYPED['redis']}@{address}?x=1"):
        watched.run("list", code=2, **named | {"FARM_REDIS_URL": malformed})
    endpoint = f"http://who:{MISTYPED['s3']}@127.0.0.1:1"
    watched.run("list", code=2, **named | {"FARM_S3_ENDPOINT": endpoint})

    watched.kill("redis")
    watched.run(*submit, "--steps", "4", "--wait", code=0)
    watched.kill("s3")
    watched.run(*submit, "--steps", "4", "--wait", code=0)


def everything_stored(where: Settings) -> tuple[list[str], list[str]]:
    """Every record of Redis and every object of the bucket, names and contents, as text."""
    with redis.Redis.from_url(where.redis_url, decode_responses=True) as client:
        kinds = {key: kind for key in client.scan_iter() if (kind := client.type(key)) != "none"}  # it has just lapsed
        assert {"hash", "zset", "stream", "string"} <= set(kinds.values())
        read = {
            "hash": client.hgetall,
            "zset": lambda key: client.zrange(key, 0, -1),
            "set": client.smembers,
            "list": lambda key: client.lrange(key, 0, -1),
            "stream": client.xrange,
            "string": client.get,
        }
        records = [f"{key} {read[kind](key)}" for key, kind in kinds.items()]
    with FarmClient(where) as farm:
        stored = [found.key for found in farm.storage.list("")]
        assert any(key.endswith("/trace.mp4") for key in stored)
        assert any(key.endswith("/log.json") for key in stored)
        return records, [f"{key} {farm.storage.get(key).decode('latin-1')}" for key in stored]


@contextlib.contextmanager
def command_lines() -> Iterator[set[str]]:
    """The command line of every process that is seen on this machine meanwhile."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):  # it has ended
                    seen.add(process.read_text(errors="replace", encoding="utf-8"))
            over.wait(0.2)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()

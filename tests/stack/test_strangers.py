"""Another user of this machine gets nothing from a running farm: by whatever port or socket, and in what language."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import trustme

from farm.bucket.storage import Storage
from farm.settings import Settings
from farm.stack import strangers
from tests.stack.doors import Door, doors_of
from tests.stack.farms import Farm

Running = tuple[Farm, Settings]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user"),
]

NOBODY = 65534
NAME, CONTENT = "a-name-that-nobody-is-told", "content that nobody is told"

REQUESTS = [
    # S3: list, read, write, remove; its users; what it says of itself
    *(("GET", path) for path in ("/", "/farm", "/farm?list-type=2", f"/farm/{NAME}", f"/farm/{NAME}?acl", "/farm?acl")),
    *(("GET", path) for path in ("/status", "/healthz", "/readyz", "/metrics", "/v1/config", "/debug/pprof/")),
    *(("GET", path) for path in ("/?Action=ListUsers&Version=2010-05-08", "/farm?location", "/farm?versions")),
    *(("PUT", path) for path in (f"/farm/{NAME}", "/farm/planted", "/planted", "/farm?acl", "/farm?policy")),
    *(("POST", path) for path in ("/farm", "/farm?delete", f"/farm/{NAME}?uploads", "/?Action=CreateUser&UserName=x")),
    *(("DELETE", path) for path in (f"/farm/{NAME}", "/farm", "/farm?policy")),
    # The filer
    *(("GET", path) for path in ("/buckets/", "/buckets/farm/", f"/buckets/farm/{NAME}", "/etc/", "/ui/index.html")),
    *(("PUT", path) for path in (f"/buckets/farm/{NAME}", "/buckets/farm/planted")),
    *(("DELETE", path) for path in (f"/buckets/farm/{NAME}", "/buckets/farm?recursive=true")),
    ("POST", "/.tus/buckets/farm/planted"),
    # The master and the volumes
    *(("GET", path) for path in ("/dir/lookup?fileId=1,0100000001&read=yes", "/dir/lookup?volumeId=1", "/dir/assign")),
    *(("GET", path) for path in ("/dir/status", "/vol/status", "/cluster/status", "/collection/info?collection=farm")),
    *(("GET", path) for path in ("/col/delete?collection=none", "/vol/vacuum", "/1,0100000001", "/stats/disk")),
    *(("POST", path) for path in ("/submit", "/1,0100000001", "/shutdown", "/quit")),
    # The admin server
    *(("GET", path) for path in ("/health", "/api/s3/buckets", "/api/config", "/api/users", "/files")),
]
COMMANDS = [
    ["PING"],
    ["INFO"],
    ["HELLO", "3"],
    ["KEYS", "*"],
    ["GET", NAME],
    ["SET", NAME, "x"],
    ["FLUSHALL"],
    ["CONFIG", "GET", "*"],
    ["CONFIG", "SET", "requirepass", ""],
    ["CLIENT", "LIST"],
    ["ACL", "LIST"],
    ["EVAL", "return 1", "0"],
    ["SAVE"],
    ["REPLICAOF", "127.0.0.1", "1"],
    ["DEBUG", "SEGFAULT"],
    ["SHUTDOWN", "NOSAVE"],
]

NOT_TLS = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
TLS_ALERT = re.compile(r"\x15\x03.\x00\x02..", re.DOTALL)


@pytest.fixture(scope="module")
def found(running: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[Door, dict[str, str]]:
    """What the stranger was answered at each door, by what they asked."""
    farm, settings = running
    Storage(settings).put(NAME, CONTENT.encode(), "text/plain")
    with redis.Redis.from_url(settings.redis_url) as client:
        client.set(NAME, CONTENT)
    certificate = tmp_path_factory.mktemp("stranger") / "own.pem"
    trustme.CA().issue_cert("127.0.0.1", common_name="farm").private_key_and_cert_chain_pem.write_to_path(
        str(certificate)
    )
    doors = sorted(doors_of(farm.status.pid), key=lambda door: (door.kind, door.port, door.address))
    assert not [door for door in doors if door.kind not in ("tcp", "unix")]
    task = {
        "uid": NOBODY,
        "doors": [[door.kind, door.address, door.port] for door in doors],
        "requests": REQUESTS,
        "commands": COMMANDS,
        "certificate": str(certificate),
    }
    script = Path(__file__).with_name("stranger.py")
    done = subprocess.run(
        [sys.executable, str(script)], input=json.dumps(task), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    return {
        door: {name: answer for where, name, answer in answers if where == (door.port or door.address)}
        for door in doors
    }


def test_every_door_was_tried(running: Running, found: dict[Door, dict[str, str]]) -> None:
    ports = {door.port for door in found if door.kind == "tcp"}
    named = {*_ports(running).values(), *(int(port) for port in _inner(running))}
    assert named == ports
    assert all(found.values())
    assert len([door for door in found if door.kind == "unix"]) >= 7


def test_the_inner_doors_say_nothing(running: Running, found: dict[Door, dict[str, str]]) -> None:
    """Nothing but that TLS is spoken there, whatever is asked, and with whatever certificate."""
    inner = {door: answers for door, answers in found.items() if door.port not in _ports(running).values()}
    said = [
        (door, asked, answer)
        for door, answers in inner.items()
        for asked, answer in answers.items()
        if answer and answer != NOT_TLS and not TLS_ALERT.fullmatch(answer)
    ]
    assert not said


def test_no_socket_opens(found: dict[Door, dict[str, str]]) -> None:
    sockets = {Path(door.address): answers for door, answers in found.items() if door.kind == "unix"}
    assert all(answers == {"open": ""} for answers in sockets.values())
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in sockets} == {0}, "whatever the umask"


def test_s3_refuses_whoever_does_not_sign(running: Running, found: dict[Door, dict[str, str]]) -> None:
    [answers] = [answers for door, answers in found.items() if door.port == _ports(running)["s3"]]
    let_in = {asked: answer for asked, answer in answers.items() if answer.startswith(("HTTP/1.1 2", "HTTP/1.1 3"))}
    assert let_in.keys() == {"GET /status", "GET /healthz", "GET /readyz"}
    assert all(answer.endswith("\r\n\r\n") for answer in let_in.values()), "that it lives, and nothing else"


def test_redis_refuses_whoever_has_no_password(running: Running, found: dict[Door, dict[str, str]]) -> None:
    [answers] = [answers for door, answers in found.items() if door.port == _ports(running)["redis"]]
    assert {" ".join(command) for command in COMMANDS} <= answers.keys()
    assert not {asked: answer for asked, answer in answers.items() if answer and not answer.startswith("-")}
    assert all(answers[" ".join(command)].startswith("-NOAUTH") for command in COMMANDS)


def test_nobody_was_told_a_name_and_nothing_is_lost(running: Running, found: dict[Door, dict[str, str]]) -> None:
    farm, settings = running
    told = [
        (door, asked)
        for door, answers in found.items()
        for asked, answer in answers.items()
        if CONTENT in answer or (NAME in answer and NAME not in asked)
    ]
    assert not told
    assert {child.restarts for child in farm.status.children} == {0}
    storage = Storage(settings)
    assert storage.get(NAME) == CONTENT.encode()
    assert "planted" not in [stored.key for stored in storage.list("")]
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as client:
        assert client.get(NAME) == CONTENT


def test_a_server_without_its_certificates_is_found_out(running: Running) -> None:
    farm, _ = running
    authority = farm.layout.s3 / "authority.pem"
    assert strangers.lets_in(_ports(running)["s3"], authority)
    assert not any(strangers.lets_in(port, authority) for port in _inner(running))


def _ports(running: Running) -> dict[str, int]:
    """Where passwords are asked for."""
    _, settings = running
    found = {"redis": urlsplit(settings.redis_url).port, "s3": urlsplit(settings.s3_endpoint or "").port}
    return {name: port for name, port in found.items() if port}


def _inner(running: Running) -> list[int]:
    kept = json.loads(running[0].layout.credentials.read_text())["ports"]
    return [port for name, port in kept.items() if name not in ("redis", "s3")]

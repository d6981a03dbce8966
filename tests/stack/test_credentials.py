"""What a farm keeps of its passwords and ports: read with care, and names of sockets that nobody can take before it."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from farm import stack
from farm.errors import StackError
from farm.stack import certificates, credentials, readiness, servers, strangers
from tests.stack.farms import Farm
from tests.tls import tls_in_front_of

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def kept(tmp_path: Path) -> dict[str, Any]:
    """The content of a file that was just made."""
    credentials.load(tmp_path / "credentials.json")
    content: dict[str, Any] = json.loads((tmp_path / "credentials.json").read_text())
    return content


def test_what_was_made_is_kept(kept: dict[str, Any], tmp_path: Path) -> None:
    again = credentials.load(tmp_path / "credentials.json")
    lasting = ("redis", "s3", "master", "volume", "filer")
    assert [again.ports[name] for name in lasting] == [kept["ports"][name] for name in lasting]
    assert (again.redis_password, again.s3_secret_key) == (kept["redis_password"], kept["s3_secret_key"])
    assert len(set(again.ports.values())) == len(again.ports)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_password", "long enough but\nbind 0.0.0.0"),
        ("redis_password", "long enough but with spaces"),
        ("redis_password", ""),
        ("redis_password", None),
        ("internal_key", 'longenoughbut"\n[x]'),
        ("s3_secret_key", ["a"] * 20),
        ("s3_access_key", "x" * 129),
        ("ports", []),
        ("ports", {"redis": "22001"}),
        ("ports", {"redis": 22001.5}),
        ("ports", {"redis": True}),
        ("ports", {"redis": 80}),
        ("ports", {"s3": 70_000}),
        ("more", "of it"),
    ],
)
def test_what_cannot_be_true_is_refused_and_not_quoted(
    kept: dict[str, Any], tmp_path: Path, name: str, value: Any
) -> None:
    file = tmp_path / "credentials.json"
    file.write_text(json.dumps({**kept, name: value}))
    with pytest.raises(StackError, match=r"credentials\.json is damaged") as caught:
        credentials.load(file)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("remove it")
    assert "bind" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"redis_password": "only"}', "[" * 100_000])
def test_a_damaged_file_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "credentials.json").write_text(text)
    with pytest.raises(StackError, match="is damaged"):
        credentials.load(tmp_path / "credentials.json")


@pytest.fixture
def squat() -> Iterator[Callable[[int], None]]:
    """Lets another user hold all sockets that are named after a port."""
    taken: list[Path] = []

    def take(port: int) -> None:
        for path in credentials.sockets(port):
            path.touch()
            os.chown(path, NOBODY, -1)
            taken.append(path)

    yield take
    for path in taken:
        path.unlink(missing_ok=True)


@root_only
def test_names_that_another_user_took_are_not_used(farm: Farm, squat: Callable[[int], None]) -> None:
    farm.start()
    first = _inner(farm)
    stack.stop(farm.home)
    for port in first:
        squat(port)
    assert not any(map(credentials.is_free, first))
    farm.start()
    assert not set(_inner(farm)) & set(first)


@root_only
def test_a_restart_speaks_to_no_socket_of_anothers(farm: Farm, squat: Callable[[int], None]) -> None:
    farm.layout.create()
    drawn = credentials.load(farm.layout.credentials)
    program = servers.s3_program(farm.layout, drawn)
    assert program.refuse is not None
    program.refuse()
    squat(drawn.ports["filer_grpc"])
    with pytest.raises(StackError, match=rf"-{drawn.ports['filer_grpc']}\.sock belongs to another user"):
        program.refuse()


def test_certificates_are_made_anew_and_their_authority_signs_no_other(tmp_path: Path) -> None:
    certificates.make(tmp_path)
    first = (tmp_path / certificates.CERTIFICATE).read_text()
    certificates.make(tmp_path)
    assert (tmp_path / certificates.CERTIFICATE).read_text() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["authority.pem", "inner.key", "inner.pem"]
    assert (tmp_path / certificates.KEY).stat().st_mode & 0o077 == 0


def _inner(farm: Farm) -> list[int]:
    kept = credentials.kept(farm.layout.credentials)
    assert kept is not None
    return servers.inner_ports(kept)


def test_a_server_that_lets_strangers_in_is_found_out(tmp_path: Path) -> None:
    """One without certificates, one that asks for none of its callers, one of a stranger's, and one as it should be."""
    certificates.make(tmp_path)
    authority, own = (
        tmp_path / certificates.AUTHORITY,
        (tmp_path / certificates.CERTIFICATE, tmp_path / certificates.KEY),
    )
    careless, careful, strange = (ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) for _ in range(3))
    for context in (careless, careful):
        context.load_cert_chain(*own)
    careful.verify_mode = ssl.CERT_REQUIRED
    careful.load_verify_locations(authority)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(strange)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server, ExitStack() as stack:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        plain = server.server_address[1]
        without, shut, anothers = (
            stack.enter_context(tls_in_front_of(plain, context)) for context in (careless, careful, strange)
        )
        assert not strangers.lets_in(shut, authority)
        for port in (plain, without, anothers):
            assert strangers.lets_in(port, authority)
            with pytest.raises(StackError, match=f"s3 would let every user of this machine in, at port {port}"):
                asyncio.run(readiness._shut("s3", [shut, port], authority))

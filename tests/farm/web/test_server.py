"""`farm web` as a process: what it prints, how it is come in by, what it refuses to do, and how it ends."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import trustme
from click.testing import CliRunner

from farm.cli.main import farm
from farm.client import FarmClient
from farm.settings import Settings
from farm.web.names import is_loopback
from farm.web.server import Serving, bound, configuration
from farm.web.tokens import Tokens
from tests import launching
from tests.environments import naming, of_a_shell
from tests.farm.web.conftest import BASE, Opening
from tests.waiting import eventually

SECONDS = 60


class Process:
    """A `farm web`, and what it said."""

    def __init__(self, environment: dict[str, str], folder: Path, *options: str) -> None:
        self._out, self._errors = folder / "out", folder / "errors"
        self.process = launching.begun(
            "web", "--port", "0", *options, environment=environment, log=self._out, errors=self._errors
        )
        eventually(self._serves, "it serves")
        self.said = _read(self._out)
        found = re.search(r"https?://\S+", self.said)
        assert found
        self.address = found[0].rstrip("/")

    @property
    def door(self) -> str:
        found = re.search(r"to come in, once: (\S+)", self.said)
        assert found, self.said
        return found[1]

    def end(self, number: signal.Signals) -> str:
        """Ask it to end; what it wrote to stderr."""
        self.process.send_signal(number)
        status, errors = self.process.wait(SECONDS), _read(self._errors)
        assert status == 0, errors
        assert _read(self._out) == f"{self.said}stopped\n"
        return errors

    def _serves(self) -> bool:
        assert self.process.poll() is None, _read(self._errors)
        return "Ctrl-C" in _read(self._out)


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


Start = Callable[..., Process]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def start(servers: Settings, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts `farm web` of the servers of the session."""
    started: list[Process] = []

    def run(*options: str, **variables: str) -> Process:
        environment = {**of_a_shell(home), **naming(servers), **variables}
        started.append(Process(environment, tmp_path_factory.mktemp("said"), *options))
        return started[-1]

    yield run
    for one in started:
        one.process.kill()
        one.process.wait(SECONDS)


def test_it_lets_a_browser_in_by_its_address_and_ends_when_it_is_asked_to(
    start: Start, home: Path, client: FarmClient
) -> None:
    serving = start()
    assert serving.address.startswith("http://127.0.0.1:")
    token = Tokens(home).add("ci", "view")
    with (
        httpx2.Client(follow_redirects=True) as browser,
        httpx2.stream(
            "GET", f"{serving.address}/api/v1/events", headers={"Authorization": f"Bearer {token}"}, timeout=SECONDS
        ) as stream,
    ):
        assert "Sign out" in browser.get(serving.door).text
        assert browser.get(f"{serving.address}/api/v1/jobs").json() == {"jobs": [], "next": None}
        assert stream.status_code == 200
        assert "server" not in stream.headers

        errors = serving.end(signal.SIGTERM)  # with a stream that is open

        assert list(stream.iter_lines())[:1] == ["retry: 2000"]
    code = serving.door.partition("code=")[2]
    assert "browser GET /api/v1/jobs 200" in errors
    assert code not in errors and token not in errors and "Traceback" not in errors


def test_ctrl_c_twice_ends_it_no_worse(start: Start) -> None:
    """The second one comes while it still waits for the body of a request."""
    serving = start("--no-auth")
    port = int(serving.address.rpartition(":")[2])
    head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        httpx2.get(f"{serving.address}/login")  # what was sent before has come
        serving.process.send_signal(signal.SIGINT)
        eventually(lambda: _is_refused(port), "nobody is let in any more")
        assert "Traceback" not in serving.end(signal.SIGINT)


def _is_refused(port: int) -> bool:
    with socket.socket() as knocking:
        return knocking.connect_ex(("127.0.0.1", port)) != 0


def _sends(port: int, size: int) -> socket.socket:
    """Somebody who has sent 2 MiB of a LoRA of `size` bytes."""
    sending = socket.create_connection(("127.0.0.1", port))
    head = f"PUT /api/v1/loras/x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {size}\r\n\r\n"
    sending.sendall(head.encode() + (2**24 - 1).to_bytes(8, "little") + bytes(2 * 2**20 - 8))
    return sending


def test_nothing_is_left_of_a_file_whose_sender_goes_away_or_whose_server_is_killed(start: Start, home: Path) -> None:
    serving, folder = start("--no-auth"), home / "web-uploads"
    port = int(serving.address.rpartition(":")[2])

    def sizes() -> list[int]:
        return [path.stat().st_size for path in folder.iterdir()] if folder.exists() else []

    def comes() -> bool:
        return [size >= 2**20 for size in sizes()] == [True]

    with _sends(port, 2**25):
        eventually(comes, "it comes")
    eventually(lambda: sizes() == [], "its sender has gone away")
    with _sends(port, 2**25):
        eventually(comes, "it comes")
        serving.process.kill()
        serving.process.wait(SECONDS)
    assert comes()
    start("--no-auth")
    eventually(lambda: sizes() == [], "the next one has swept it away")


def test_it_ends_while_a_file_comes_and_leaves_nothing_of_it(start: Start, home: Path) -> None:
    serving, folder = start("--no-auth"), home / "web-uploads"
    with _sends(int(serving.address.rpartition(":")[2]), 2**25):
        eventually(lambda: folder.exists() and [*folder.iterdir()], "it comes")
        assert "Traceback" not in serving.end(signal.SIGTERM)
    assert [*folder.iterdir()] == []


def test_how_large_a_model_may_be_is_said_by_the_environment(start: Start) -> None:
    serving = start("--no-auth", FARM_WEB_MODEL_GB="0.000001")
    told = httpx2.put(f"{serving.address}/api/v1/models/x", content=bytes(1_001))
    assert (told.status_code, told.json()["detail"]) == (413, "the body has more than 1,000 bytes")


def test_ctrl_c_ends_it_and_forwarded_headers_of_strangers_are_not_believed(start: Start) -> None:
    serving = start("--no-auth")
    assert "to come in" not in serving.said
    forged = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "10.0.0.1", "Origin": serving.address}
    assert httpx2.get(f"{serving.address}/api/v1/session", headers=forged).json()["role"] == "operate"
    errors = serving.end(signal.SIGINT)
    assert "--no-auth: every user and program of this machine" in errors


def test_it_listens_at_this_machine_s_other_address_too(start: Start) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    serving = start("--no-auth", "--host", "::1")
    assert serving.address.startswith("http://[::1]:")
    assert httpx2.get(f"{serving.address}/api/v1/session", headers={"Origin": serving.address}).status_code == 200
    serving.end(signal.SIGTERM)


def test_a_server_that_does_not_answer_does_not_keep_it_from_ending(start: Start, servers: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        serving = start("--no-auth", FARM_REDIS_URL=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.get(f"{serving.address}/api/v1/jobs", timeout=0.5)
        began = time.monotonic()
        serving.end(signal.SIGTERM)
        assert time.monotonic() - began < 20, "and not the half minute that Redis is waited for"


@pytest.mark.anyio
@pytest.mark.parametrize(("trusted", "is_believed"), [("127.0.0.1", True), ("127.0.0.0/8", True), ("10.0.0.1", False)])
async def test_forwarded_headers_are_believed_of_trusted_proxies_alone(
    trusted: str, is_believed: bool, nowhere: FarmClient, opened: Opening
) -> None:
    ask = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "10.9.8.7", "Origin": BASE.replace("http:", "https:")}
    async with opened(nowhere, open_to_all=True) as web:
        served = configuration(web.site.app, Serving(trusted=[trusted]))
        transport = httpx2.ASGITransport(app=served.app, client=("127.0.0.1", 1))  # type: ignore[arg-type]
        async with httpx2.AsyncClient(transport=transport, base_url=BASE) as http:
            assert (await http.get("/api/v1/session", headers=ask)).status_code == (200 if is_believed else 403)


def test_it_speaks_tls_and_its_cookie_is_for_that_alone(start: Start, tmp_path: Path, home: Path) -> None:
    Tokens(home).add("ci", "view")
    authority = trustme.CA()
    made = authority.issue_cert("farm.example.org", "127.0.0.1")
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    made.private_key_pem.write_to_path(tmp_path / "key.pem")
    options = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))

    serving = start("--bind", "0.0.0.0", "--name", "farm.example.org", *options)

    assert serving.address.startswith("https://farm.example.org:")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = serving.address.rpartition(":")[2]
    with httpx2.Client(verify=context, base_url=f"https://127.0.0.1:{port}") as http:
        answer = http.get("/login", params={"code": serving.door.partition("code=")[2]})
        assert "Secure" in answer.headers["Set-Cookie"]
        assert http.get("/", headers={"Host": "evil.example"}).status_code == 421
        assert http.get("/login", headers={"Host": f"farm.example.org:{port}"}).status_code == 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bind", "0.0.0.0"], "--bind: 0.0.0.0 can be reached from other machines, and there is no token"),
        (["--bind", "0.0.0.0", "--no-auth"], "--no-auth: would let everybody who reaches 0.0.0.0 do everything"),
        (["--host", "0.0.0.0"], "--host: '0.0.0.0' is not an address of this machine alone"),
        (["--host", "127.0.0.1", "--bind", "127.0.0.1"], "--host: says the same as --bind"),
        (["--trust", "not an address"], "--trust: 'not an address' is not an address"),
        (["--name", ""], "--name: '' is not a host's name"),
        (["--name", "farm.example.org", "--name", "a b"], "--name: 'a b' is not a host's name"),
        (["--tls-cert", "x"], "--tls-cert: goes with --tls-key"),
        (["--tls-cert", "x", "--tls-key", "y"], "--tls-cert: cannot be used with its key: No such file or directory"),
    ],
)
def test_what_would_be_unsafe_is_refused(
    options: list[str], said: str, servers: Settings, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    for name, value in {**naming(servers), "FARM_HOME": str(home)}.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(farm, ["web", *options])
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


def test_a_port_that_is_taken_is_said(servers: Settings, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    for name, value in {**naming(servers), "FARM_HOME": str(home)}.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(farm, ["web", "--port", str(port)])
    assert done.exit_code == 1
    assert f"cannot listen at 127.0.0.1, port {port}: Address already in use" in done.stderr
    assert "give another --port" in done.stderr


@pytest.mark.anyio
async def test_no_answer_waits_for_what_it_is_to_be_sent_with() -> None:
    nodelay: list[int] = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nodelay.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with bound("127.0.0.1", 0) as listening:
        async with await asyncio.start_server(accept, sock=listening):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            await reader.read()
            writer.close()
    assert nodelay[0]


def test_without_the_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from farm.stack import site

    monkeypatch.setattr(site, "find_spec", lambda name: None if name in ("fastapi", "python_multipart") else object())
    done = CliRunner().invoke(farm, ["web"])
    assert done.exit_code == 1
    assert "this installation cannot serve: fastapi, python-multipart missing" in done.stderr
    assert "pip install -c constraints.txt '.[web]'" in done.stderr


def test_what_only_this_machine_reaches_is_known() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "", "example.org", "localhost.example.org")))

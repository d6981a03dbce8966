"""Redis and S3 with passwords and TLS: a whole job over both, and what is said when either does not let us in.

The certificates are made here. SeaweedFS speaks TLS itself; in front of Redis is a proxy (see `tests.tls`).
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from PIL import Image

from farm.stack import credentials, readiness, servers
from farm.stack.layout import Layout
from farm.stack.process import Program
from tests import launching
from tests.environments import naming, of_a_shell
from tests.integration.conftest import Worker
from tests.launching import Forked
from tests.tls import tls_in_front_of
from tests.waiting import eventually

LOCAL = "127.0.0.1"


@dataclass
class SecureFarm:
    """Addresses and secrets of servers with TLS, and the environment in which commands find them."""

    environment: dict[str, str]
    redis_password: str
    strict_redis_port: int
    """Where a certificate is asked of the client too."""
    folder: Path
    tiny_model: Path

    def farm(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return launching.farm(*arguments, environment=self.environment | variables, folder=self.folder)

    def worker(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """A worker that is expected to end by itself."""
        arguments = ("--device", "cpu", "--model", f"tls={self.tiny_model}")
        return launching.run(arguments, environment=self.environment | variables, folder=self.folder)


@contextmanager
def running(program: Program) -> Iterator[None]:
    with program.log.open("wb") as log:
        process = subprocess.Popen(
            program.command, cwd=program.directory, env=program.environment, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.kill()
        process.wait(30)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOCAL, port), timeout=10):
        return True
    return False


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[SecureFarm]:
    folder = tmp_path_factory.mktemp("tls")
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    stranger.cert_pem.write_to_path(str(folder / "stranger.pem"))
    certificate = authority.issue_cert(LOCAL)
    (folder / "server.pem").write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(folder / "server.key"))
    own = authority.issue_cert("a machine of ours@example.org")
    own.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
    own.private_key_pem.write_to_path(str(folder / "client.key"))

    layout = Layout(folder / "home")
    layout.create()
    drawn = credentials.load(layout.credentials)
    redis, s3 = servers.redis_program(layout, drawn), servers.s3_program(layout, drawn)
    with (layout.s3 / "mini.options").open("a", encoding="utf-8") as options:
        options.write(f"s3.cert.file={folder / 'server.pem'}\ns3.key.file={folder / 'server.key'}\n")
    plain = servers.settings_for(drawn)
    with ExitStack() as stack:
        stack.enter_context(running(redis))
        stack.enter_context(running(s3))
        eventually(lambda: readiness._ping(plain), "Redis answers")
        eventually(lambda: listens(drawn.ports["s3"]), "the S3 server listens")
        open_context, strict_context = (ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) for _ in range(2))
        for context in (open_context, strict_context):
            certificate.configure_cert(context)
        authority.configure_trust(strict_context)
        strict_context.verify_mode = ssl.CERT_REQUIRED
        redis_port = urlsplit(plain.redis_url).port
        assert redis_port
        port, strict_port = (
            stack.enter_context(tls_in_front_of(redis_port, context)) for context in (open_context, strict_context)
        )
        farm = SecureFarm(
            environment={
                **of_a_shell(folder / "nothing here"),
                **naming(plain),
                "FARM_REDIS_URL": f"rediss://:{drawn.redis_password}@{LOCAL}:{port}/0",
                "FARM_REDIS_CA": str(folder / "authority.pem"),
                "FARM_S3_ENDPOINT": f"https://{LOCAL}:{drawn.ports['s3']}",
                "AWS_CA_BUNDLE": str(folder / "authority.pem"),
                "AWS_CONFIG_FILE": str(folder / "none"),
            },
            redis_password=drawn.redis_password,
            strict_redis_port=strict_port,
            folder=folder,
            tiny_model=tiny_model,
        )
        yield farm
    servers.clear_sockets(drawn.ports.values())


@pytest.fixture(scope="module")
def worker(secure: SecureFarm) -> Iterator[Worker]:
    """A worker process that knows the servers by TLS only."""
    log = secure.folder / "worker.log"
    arguments = ("--name", "secure", "--device", "cpu", "--model", f"tls={secure.tiny_model}")
    process = Forked(arguments, environment=secure.environment, log=log)
    worker = Worker("secure", process, log)

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text(encoding="utf-8")[-4_000:]
        return "ready on cpu" in log.read_text(encoding="utf-8")

    try:
        eventually(is_ready, "the worker is ready")
        yield worker
    finally:
        process.kill()
        process.wait(30)


@pytest.mark.usefixtures("worker")
def test_a_whole_job_goes_over_tls(secure: SecureFarm) -> None:
    told = secure.farm("submit", "txt2img", "a cat", "--model", "tls", "--steps", "4", "--out", "pictures", "--json")

    assert told.returncode == 0, told.stderr
    [job] = json.loads(told.stdout.splitlines()[0])["jobs"]
    with Image.open(secure.folder / "pictures" / f"{job}.png") as picture:
        assert picture.size == (64, 64)
    assert secure.redis_password not in (secure.folder / "worker.log").read_text(encoding="utf-8")


@pytest.mark.usefixtures("worker")
def test_doctor_finds_the_servers_well(secure: SecureFarm) -> None:
    checks = {check["name"]: check for check in json.loads(secure.farm("doctor", "--json").stdout)["checks"]}

    for name in ("redis", "redis access", "bucket", "workers"):
        assert checks[name]["verdict"] == "ok", checks[name]
    assert "secure-" in checks["workers"]["detail"]


def test_a_server_that_asks_for_our_certificate_gets_it(secure: SecureFarm) -> None:
    url = f"rediss://:{secure.redis_password}@{LOCAL}:{secure.strict_redis_port}/0"
    own = {"FARM_REDIS_CERT": str(secure.folder / "client.pem"), "FARM_REDIS_KEY": str(secure.folder / "client.key")}
    told = secure.farm("submit", "txt2img", "a cat", "--model", "nobody", "--json", FARM_REDIS_URL=url, **own)
    assert told.returncode == 0, told.stderr

    refused = secure.farm("list", FARM_REDIS_URL=url)
    assert refused.returncode == 1
    assert_told_in_short(refused, "Redis at 127.0.0.1:", secure)


REDIS_REFUSALS: dict[str, tuple[dict[str, str], str]] = {
    "an authority that is not ours": ({"FARM_REDIS_CA": "{folder}/stranger.pem"}, "is not trusted"),
    "no authority at all": ({"FARM_REDIS_CA": ""}, "is not trusted"),
    "a wrong password": ({"FARM_REDIS_URL": "rediss://:a-guess@{address}"}, "refuses the password"),
    "a name that the certificate lacks": (
        {"FARM_REDIS_URL": "rediss://:{password}@localhost:{port}/0"},
        "is not trusted: Hostname mismatch",
    ),
}
S3_REFUSALS: dict[str, tuple[dict[str, str], str]] = {
    "an authority that is not ours": ({"AWS_CA_BUNDLE": "{folder}/stranger.pem"}, "CERTIFICATE_VERIFY_FAILED"),
    "a wrong secret": ({"AWS_SECRET_ACCESS_KEY": "a-guess"}, "access denied ("),
    "an unknown key": ({"AWS_ACCESS_KEY_ID": "AGUESS"}, "access denied ("),
}


@pytest.mark.parametrize("case", REDIS_REFUSALS)
def test_redis_that_does_not_let_us_in_is_told_in_short(secure: SecureFarm, case: str) -> None:
    variables, message = filled(secure, *REDIS_REFUSALS[case])
    assert_told_in_short(secure.farm("list", **variables), message, secure)
    assert_told_in_short(secure.worker(**variables), message, secure)


@pytest.mark.parametrize("case", S3_REFUSALS)
def test_s3_that_does_not_let_us_in_is_told_in_short(secure: SecureFarm, case: str) -> None:
    variables, message = filled(secure, *S3_REFUSALS[case])
    assert_told_in_short(secure.farm("submit", "txt2img", "a cat", "--model", "nobody", **variables), message, secure)
    assert_told_in_short(secure.worker(**variables), message, secure)


def test_nothing_is_said_in_clear_to_a_server_with_tls(secure: SecureFarm) -> None:
    plain = secure.environment["FARM_REDIS_URL"].replace("rediss://", "redis://")
    refused = secure.farm("list", FARM_REDIS_URL=plain)
    assert refused.returncode == 2
    assert "FARM_REDIS_URL: is redis://, which sends everything in the clear" in refused.stderr
    assert_told_in_short(secure.farm("list", FARM_REDIS_URL=plain, FARM_REDIS_CA=""), "cannot be used", secure)


def filled(secure: SecureFarm, variables: dict[str, str], message: str) -> tuple[dict[str, str], str]:
    address = urlsplit(secure.environment["FARM_REDIS_URL"])
    words = {
        "folder": str(secure.folder),
        "password": secure.redis_password,
        "address": f"{LOCAL}:{address.port}/0",
        "port": str(address.port),
    }
    return {name: value.format(**words) for name, value in variables.items()}, message


def assert_told_in_short(done: subprocess.CompletedProcess[str], message: str, secure: SecureFarm) -> None:
    """One line that says what, at most one of what to do, no traceback, and no secret."""
    told = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert done.returncode == 1, done.stderr
    assert message in told[0], done.stderr
    assert len(told) <= 2, done.stderr
    for secret in (secure.redis_password, secure.environment["AWS_SECRET_ACCESS_KEY"], "a-guess"):
        assert secret not in done.stdout + done.stderr

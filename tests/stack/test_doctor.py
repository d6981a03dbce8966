"""`farm doctor`: what it says of a healthy farm, a broken one, and none."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from farm.bucket.storage import Storage
from farm.cli.commands.stack import doctor
from farm.client import FarmClient
from farm.client.models import add, remove
from farm.jobs.request import JobRequest
from farm.ledger.ledger import Ledger
from farm.settings import Settings
from farm.stack import machine, redis_checks, servers
from farm.stack.verdict import ok
from tests.ledgers import a_worker
from tests.models_on_disk import checkpoint, write_weights
from tests.stack.farms import Farm
from tests.waiting import eventually

Running = tuple[Farm, Settings]


@pytest.fixture(autouse=True)
def no_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking torch takes seconds; one test does."""
    if "asks_torch" not in request.fixturenames:
        monkeypatch.setattr("farm.stack.doctor.device", lambda: ok("device", "not asked"))


@pytest.fixture
def asks_torch() -> None: ...


def examine(environment: dict[str, str | None]) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code of `farm doctor --json`, and its checks by name."""
    clean = {"FARM_REDIS_URL": None, "FARM_S3_ENDPOINT": None, "FARM_S3_BUCKET": None}
    result = CliRunner().invoke(doctor, ["--json"], env={**clean, **environment})
    assert isinstance(result.exception, SystemExit | None), result.exception
    answer = json.loads(result.stdout)
    checks = {check["name"]: check for check in answer["checks"]}
    assert answer["ok"] == (result.exit_code == 0)
    assert all(check["mend"] for check in checks.values() if check["verdict"] != "ok"), checks
    return result.exit_code, checks


def test_a_local_farm_is_well(running: Running) -> None:
    farm, settings = running
    ledger = Ledger(settings)
    ledger.announce(a_worker("local-1"))
    ledger.reap(limit=0)
    code, checks = examine({"FARM_HOME": str(farm.home)})
    ledger.depart("local-1")
    ledger.close()
    assert code == 0
    assert {check["verdict"] for name, check in checks.items() if name != "disk"} == {"ok"}, checks
    assert checks["redis access"]["detail"] == "asks for a password"
    assert "put, get, list, presign, delete" in checks["bucket"]["detail"]
    assert "local-1 (cpu, ready)" in checks["workers"]["detail"]
    assert checks["models"]["detail"] == "served: emoji"
    assert checks["site"]["detail"] == "the farm runs without it: 'farm web' serves it"


def test_a_farm_without_workers_is_warned_of(running: Running) -> None:
    code, checks = examine({"FARM_HOME": str(running[0].home)})
    assert code == 0
    assert checks["workers"]["verdict"] == "warn"


def test_a_lost_ledger_is_told_from_a_new_farm(running: Running) -> None:
    farm, settings = running
    _, checks = examine({"FARM_HOME": str(farm.home)})
    assert (checks["jobs"]["verdict"], checks["jobs"]["detail"]) == ("ok", "none yet")

    storage = Storage(settings)
    storage.put("batches/0000000000000000.json", b"{}", "application/json")
    code, checks = examine({"FARM_HOME": str(farm.home)})
    storage.delete("batches/0000000000000000.json")
    assert code == 0
    assert checks["jobs"]["verdict"] == "warn"
    assert "farm recover" in checks["jobs"]["mend"]


def test_a_worker_that_takes_no_jobs_is_warned_of(running: Running) -> None:
    farm, settings = running
    ledger = Ledger(settings)
    ledger.announce(a_worker("local-1", paused="its disk is full"))
    _, checks = examine({"FARM_HOME": str(farm.home)})
    ledger.depart("local-1")
    ledger.close()
    assert (checks["workers"]["verdict"], checks["workers"]["detail"]) == (
        "warn",
        "local-1 takes no jobs: its disk is full",
    )


def test_of_a_drained_worker_it_is_said_how_it_takes_jobs_again(running: Running) -> None:
    farm, settings = running
    ledger = Ledger(settings)
    ledger.announce(a_worker("local-9-0a1b", drained=True, paused="drained by an operator"))
    _, checks = examine({"FARM_HOME": str(farm.home)})
    ledger.depart("local-9-0a1b")
    ledger.close()
    assert checks["workers"]["detail"] == "drained by an operator: local-9-0a1b"
    assert "'farm workers resume local-9'" in checks["workers"]["mend"]


def test_why_a_model_is_not_served_is_told_to_its_end(running: Running) -> None:
    farm, settings = running
    why = (
        f"the checkpoint /models/{'deep/' * 40}one.safetensors is a LoRA (merge it into its base model, and load that)"
    )
    ledger = Ledger(settings)
    ledger.announce(a_worker("local-1", refused={"one": why}))
    _, checks = examine({"FARM_HOME": str(farm.home)})
    ledger.depart("local-1")
    ledger.close()
    assert checks["workers"]["detail"] == f"local-1 does not serve one: {why}"


def test_a_model_that_the_farm_keeps_is_mended_in_the_farm(running: Running, tmp_path: Path) -> None:
    farm, settings = running
    why = "the checkpoint model.safetensors cannot be loaded"
    file = write_weights(tmp_path / "mine.safetensors", checkpoint())
    ledger, storage = Ledger(settings), Storage(settings)
    add(ledger, storage, "kept", str(file))
    with FarmClient(settings) as client:
        batch = client.submit([JobRequest(prompt="x", model="kept")]).batch
        _, unserved = examine({"FARM_HOME": str(farm.home)})
        ledger.announce(a_worker("local-1", refused={"kept": why}))
        _, alone = examine({"FARM_HOME": str(farm.home)})
        ledger.announce(a_worker("local-1", refused={"kept": why, "own": why}))
        _, both = examine({"FARM_HOME": str(farm.home)})
        client.cancel([batch])
    remove(ledger, storage, "kept", force=True)
    ledger.depart("local-1")
    ledger.close()
    mends = "'farm models add kept=SOURCE --replace', or 'farm models remove kept'"
    assert unserved["models"]["mend"].endswith("'farm worker --model kept' serves it; or cancel the jobs")
    assert alone["workers"]["mend"] == mends
    assert alone["models"]["mend"] == f"{mends}; or cancel the jobs"
    assert both["workers"]["mend"].startswith(f"{mends}; of a worker's own, mend the model")


def test_for_people_it_says_how_to_mend(running: Running) -> None:
    result = CliRunner().invoke(doctor, [], env={"FARM_HOME": str(running[0].home)})
    assert result.exit_code == 0
    assert "warn  workers: none alive" in result.stdout
    assert "      to mend: start one: 'farm worker'" in result.stdout


def test_servers_from_the_environment_and_a_dead_redis(running: Running, tmp_path: Path) -> None:
    _, settings = running
    environment = {**_environment(settings), "FARM_HOME": str(tmp_path)}
    code, checks = examine(environment)
    assert code == 0
    assert checks["farm"]["detail"] == f"servers named by the environment: Redis {settings.redis_address}"

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        code, checks = examine({**environment, "FARM_REDIS_URL": f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"})
    assert code == 1
    assert checks["redis"]["verdict"] == "fail"
    assert checks["bucket"]["verdict"] == "ok"
    assert "workers" not in checks


def test_wrong_passwords_are_told_apart(running: Running, tmp_path: Path) -> None:
    _, settings = running
    environment = {**_environment(settings), "FARM_HOME": str(tmp_path), "AWS_SECRET_ACCESS_KEY": "guess"}
    environment["FARM_REDIS_URL"] = f"redis://:guess@{settings.redis_address}"
    code, checks = examine(environment)
    assert code == 1
    assert "refuses the password" in checks["redis"]["detail"]
    assert "access denied" in checks["bucket"]["detail"]


@dataclass
class Bare:
    """A Redis of its own configuration."""

    folder: Path
    started: list[subprocess.Popen[bytes]]

    def __call__(self, *configuration: str) -> str:
        """Start one, and give its address."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        lines = (f"port {port}", f"dir {self.folder}", 'save ""', *configuration)
        (self.folder / "redis.conf").write_text("\n".join(lines), encoding="utf-8")
        command = [servers.find_redis(), str(self.folder / "redis.conf")]
        self.started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        eventually(lambda: _listens(port), "Redis listens")
        return f"127.0.0.1:{port}/0"


@pytest.fixture
def bare_redis(tmp_path: Path) -> Iterator[Bare]:
    bare = Bare(tmp_path, [])
    yield bare
    for process in bare.started:
        process.kill()
        process.wait(30)


HARMLESS = "user default on nopass -@all +ping +info +config|get +client|setinfo +client|setname"


@pytest.mark.parametrize(
    ("configuration", "password", "said"),
    [
        (("bind 127.0.0.1",), "", "open to every user of this machine"),
        (("bind 127.0.0.1", "protected-mode no"), "", "open to every user of this machine"),
        (("bind 0.0.0.0", HARMLESS), "", "open to every user of this machine"),  # protected-mode keeps others out
        (("bind 0.0.0.0", "protected-mode no", HARMLESS), "", "open: whoever reaches it can read and forge jobs"),
        (
            ("bind 0.0.0.0", "requirepass long"),
            ":long@",
            "asks for a password, but other machines reach it in the clear",
        ),
    ],
)
def test_an_open_redis_is_warned_of(
    running: Running, tmp_path: Path, bare_redis: Bare, configuration: tuple[str, ...], password: str, said: str
) -> None:
    address = bare_redis(*configuration)
    environment = {**_environment(running[1]), "FARM_HOME": str(tmp_path)}
    _, checks = examine({**environment, "FARM_REDIS_URL": f"redis://{password}{address}"})
    assert (checks["redis access"]["verdict"], checks["redis access"]["detail"]) == ("warn", said)
    assert "long" not in json.dumps(checks)


def test_a_redis_with_a_password_on_loopback_is_well(running: Running, tmp_path: Path, bare_redis: Bare) -> None:
    address = bare_redis("bind 127.0.0.1 -::1", "requirepass long")
    environment = {**_environment(running[1]), "FARM_HOME": str(tmp_path)}
    _, checks = examine({**environment, "FARM_REDIS_URL": f"redis://:long@{address}"})
    assert checks["redis access"] == {"name": "redis access", "verdict": "ok", "detail": "asks for a password"} | {
        "mend": None
    }


def test_a_redis_that_is_nearly_full_is_warned_of(running: Running, tmp_path: Path, bare_redis: Bare) -> None:
    address = bare_redis("bind 127.0.0.1", "requirepass long", "maxclients 20")
    port = int(address.removeprefix("127.0.0.1:").removesuffix("/0"))
    environment = {**_environment(running[1]), "FARM_HOME": str(tmp_path)}
    environment["FARM_REDIS_URL"] = f"redis://:long@{address}"
    with ExitStack() as idle:
        for _ in range(16):
            idle.enter_context(socket.create_connection(("127.0.0.1", port)))
        _, checks = examine(environment)
        assert checks["redis connections"]["verdict"] == "warn"
        assert "of 20 taken: beyond that nobody gets in" in checks["redis connections"]["detail"]
        assert "timeout 60" in checks["redis connections"]["mend"]

        for _ in range(4):
            idle.enter_context(socket.create_connection(("127.0.0.1", port)))
        code, checks = examine(environment)
        assert code == 1
        assert "max number of clients reached" in checks["redis"]["detail"]
        assert "timeout 60" in checks["redis"]["mend"]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_no_farm_and_a_dead_one(running: Running, tmp_path: Path, asks_torch: None) -> None:
    code, checks = examine({"FARM_HOME": str(tmp_path)})
    assert code == 1
    assert checks["farm"]["detail"] == "no farm found"
    assert {checks[name]["verdict"] for name in ("device", "packages")} <= {"ok", "warn"}

    (tmp_path / "farm.json").write_text(running[0].layout.state.read_text(encoding="utf-8"), encoding="utf-8")
    code, checks = examine({"FARM_HOME": str(tmp_path)})
    assert code == 1
    assert "is not running" in checks["farm"]["detail"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_version", lambda package: None if package == "celery" else "1.0")
    assert machine.packages().mend == "pip install celery"


def test_torch_is_asked_away_from_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A torch.py of theirs is not torch."""
    (tmp_path / "torch.py").write_text("raise SystemExit('the wrong torch')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    asked = "from importlib.util import find_spec; print(find_spec('torch').origin); raise SystemExit(1)"
    monkeypatch.setattr(machine, "_ASK_TORCH", asked)
    assert str(tmp_path) not in machine.device().detail


@pytest.mark.parametrize(("model", "option"), [("sd14", "--model sd14'"), ("mine", "--model mine=SOURCE'")])
def test_a_model_that_jobs_wait_for_is_named(running: Running, model: str, option: str) -> None:
    with FarmClient(running[1]) as client:
        batch = client.submit([JobRequest(prompt="x", model=model)]).batch
        _, checks = examine({"FARM_HOME": str(running[0].home)})
        client.cancel([batch])
    assert option in checks["models"]["mend"]


def _environment(settings: Settings) -> dict[str, str | None]:
    return {
        "FARM_REDIS_URL": settings.redis_url,
        "FARM_S3_ENDPOINT": settings.s3_endpoint,
        "AWS_ACCESS_KEY_ID": settings.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key,
    }


def test_a_redis_that_takes_no_writes_is_named(running: Running, tmp_path: Path) -> None:
    farm, settings = running
    ledger = Ledger(settings)
    ledger.redis.replicaof("127.0.0.1", "1")
    try:
        code, checks = examine({"FARM_HOME": str(farm.home)})
    finally:
        ledger.redis.replicaof("NO", "ONE")
        ledger.close()
    assert code == 1
    assert checks["redis writes"]["verdict"] == "fail"
    assert "is a replica of 127.0.0.1:1" in checks["redis writes"]["detail"]


def test_a_redis_that_cannot_write_to_its_disk_answers_and_takes_no_writes(running: Running) -> None:
    farm, settings = running
    ledger = Ledger(settings)
    redis = ledger.redis
    in_the_way = Path(redis.config_get("dir")["dir"]) / redis.config_get("dbfilename")["dbfilename"]
    kept = redis.config_get("save")["save"]
    in_the_way.mkdir()
    try:
        redis.config_set("save", "3600 1000000")
        redis.bgsave()
        eventually(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err", "it cannot save")
        code, checks = examine({"FARM_HOME": str(farm.home)})
    finally:
        in_the_way.rmdir()
        redis.config_set("save", kept)
        ledger.close()
    assert code == 1
    assert checks["redis"]["verdict"] == "ok"
    assert checks["redis writes"]["verdict"] == "fail"
    assert "takes no writes: MISCONF" in checks["redis writes"]["detail"]
    assert "full disk" in checks["redis writes"]["mend"]


def test_a_clock_that_the_s3_server_will_not_believe_is_told(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = {"ok": 3.0, "warn": -120.0, "fail": 1000.0}
    for verdict, offset in offsets.items():
        monkeypatch.setattr("farm.bucket.storage.Storage.clock_offset", lambda _, offset=offset: offset)
        code, checks = examine({"FARM_HOME": str(running[0].home)})
        assert checks["clock"]["verdict"] == verdict
        assert code == int(verdict == "fail")
    assert checks["clock"]["detail"] == "this machine's is 1,000 s behind the S3 server's"


def test_the_s3_server_tells_the_time(running: Running) -> None:
    offset = Storage(running[1]).clock_offset()
    assert offset is not None and abs(offset) < 30


def test_jobs_that_nobody_takes_back_are_told(running: Running) -> None:
    farm, settings = running
    ledger = Ledger(settings)
    ledger.announce(a_worker("local-1"))
    ledger.redis.hset("farm:reaped", "last", 1)
    try:
        assert examine({"FARM_HOME": str(farm.home)})[1]["reaper"]["verdict"] == "ok", "it has only just begun"
        ledger.announce(a_worker("local-1", started=datetime.now(UTC) - timedelta(hours=1)))
        code, checks = examine({"FARM_HOME": str(farm.home)})
        assert (code, checks["reaper"]["verdict"]) == (1, "fail")
        ledger.reap(limit=0)
        ledger.redis.zadd("farm:leases", {"0" * 16 + "-0000": 1})
        assert examine({"FARM_HOME": str(farm.home)})[1]["reaper"]["verdict"] == "fail"
    finally:
        ledger.redis.delete("farm:leases")
        ledger.depart("local-1")
        ledger.close()


def test_quarantined_jobs_are_told(running: Running) -> None:
    farm, settings = running
    ledger = Ledger(settings)
    ledger.redis.hset("farm:quarantine", "0" * 16 + "-0000", "it has no state")
    _, checks = examine({"FARM_HOME": str(farm.home)})
    ledger.redis.delete("farm:quarantine")
    ledger.close()
    assert checks["jobs"]["verdict"] == "warn"
    assert "it has no state" in checks["jobs"]["detail"]


@pytest.mark.parametrize(
    ("version", "flags", "told"), [("7.0.15", ["off"], True), ("7.0.15", ["on"], False), ("6.2.1", ["off"], False)]
)
def test_a_default_user_that_costs_the_ledger_is_told(version: str, flags: list[str], told: bool) -> None:
    class Client:
        def info(self, _: str) -> dict[str, str]:
            return {"redis_version": version}

        def config_get(self, name: str) -> dict[str, str]:
            return {name: "yes"}

        def acl_getuser(self, _: str) -> dict[str, list[str]]:
            return {"flags": flags}

    client: Any = Client()
    checks = list(redis_checks._survival(redis_checks.Questions(client)))
    assert [check.verdict for check in checks] == ["warn"] * told

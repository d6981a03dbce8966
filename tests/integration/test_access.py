"""Users of Redis who have the rights that deploy/docs/operations.md grants, and no others."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from click.testing import CliRunner

from farm.cli.commands.stack import doctor
from farm.client import FarmClient
from farm.client.models import add, remove
from farm.client.recover import recover
from farm.errors import LedgerUnavailable
from farm.jobs.request import JobRequest
from farm.settings import Settings
from farm.stack.verdict import ok
from farm.web.access import Access
from farm.web.app import create
from farm.web.sessions import Sessions
from farm.web.tokens import Tokens
from tests import launching
from tests.environments import naming
from tests.farm.rendering import render
from tests.integration.conftest import Launcher, Worker
from tests.integration.test_lifecycle import in_the_middle
from tests.models_on_disk import write_folder
from tests.users import as_user
from tests.waiting import eventually

DOCUMENT = Path(__file__).parents[2] / "deploy" / "docs" / "operations.md"
GRANTS = dict(re.findall(r"^ACL SETUSER (farm-\w+) (.+)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE))
REQUEST: dict[str, Any] = {"prompt": "a cat", "model": "rights", "steps": 5, "seed": 1}


@pytest.fixture
def admin(where: Settings) -> Iterator[redis.Redis]:
    """Makes the users of the document, and removes them."""
    client = redis.Redis.from_url(where.redis_url, decode_responses=True)
    if tuple(map(int, client.info("server")["redis_version"].split(".")))[:2] < (7, 2):
        pytest.skip("before Redis 7.2 there are other commands, and it says less")
    for user, rights in GRANTS.items():
        client.execute_command("ACL", "SETUSER", user, *rights.split())
    client.acl_log_reset()
    yield client
    client.acl_deluser(*GRANTS)
    client.close()


@pytest.fixture
def launch_as(
    environment: dict[str, str], where: Settings, tiny_model: Path, tmp_path: Path, admin: redis.Redis
) -> Iterator[Callable[[str], Worker]]:
    own = {**environment, **naming(as_user(where, "farm-worker"))}
    launcher = Launcher(own, where, tiny_model, tmp_path)
    yield lambda name: launcher(name, model="rights")
    launcher.end()


def denied(admin: redis.Redis) -> set[tuple[str, str]]:
    """Who was denied what since this was last asked."""
    entries: Any = admin.acl_log()
    admin.acl_log_reset()
    return {(entry["username"], entry["object"]) for entry in entries}


def test_all_that_a_farm_does_is_done_with_the_rights_of_the_document(
    admin: redis.Redis, where: Settings, launch_as: Callable[[str], Worker], tmp_path: Path
) -> None:
    long_one = {"steps": 1000}  # no worker has told yet of losses that sleep
    admin.script_flush()  # as after a restart
    with FarmClient(as_user(where, "farm-client")) as client, FarmClient(as_user(where, "farm-reader")) as reader:
        queued, long, unwanted = (
            client.submit([JobRequest.parse({**REQUEST, **fields})]).jobs[0] for fields in ({}, long_one, long_one)
        )
        client.cancel([unwanted])
        with FarmClient(as_user(where, "farm-worker")) as dead:
            assert dead.ledger.demand(["rights"])["rights"].waiting == 2
            assert dead.ledger.claim(queued, "w1", lease=0.0)
        launch_as("rightful")
        assert [status.state for status in reader.watch([queued])][-1] == "done"
        assert reader.ledger.get(queued).attempt == 2
        in_the_middle(reader.ledger.get, long)
        eventually(lambda: client.previews([long]), "there is a preview")
        client.cancel([long])
        client.retry([long])
        in_the_middle(reader.ledger.get, long)
        client.cancel_all()
        assert [*reader.fetch(queued, tmp_path)]
        assert reader.workers() and reader.models() is not None and reader.list() and reader.status([queued])
        recover(client)
        assert client.ledger.try_lock("models", "another", seconds=0.5)  # which add waits for
        add(client.ledger, client.storage, "kept", str(write_folder(tmp_path / "model")))
        remove(client.ledger, client.storage, "kept")
        client.ledger.forget([queued])
    assert denied(admin) == set()


def test_the_site_submits_with_a_client_s_rights_and_shows_with_a_reader_s(
    admin: redis.Redis, where: Settings, client: FarmClient, tmp_path: Path
) -> None:
    tokens = Tokens(tmp_path / "home")
    headers = {"Authorization": f"Bearer {tokens.add('tests', 'submit')}"}
    request = {"requests": [{**REQUEST, "model": "nobodys", "count": 2}]}

    async def asked(user: str, *paths: str, **fields: Any) -> list[Any]:
        with FarmClient(as_user(where, user)) as own:
            site = create(own, Access(tokens, Sessions()))
            transport = httpx2.ASGITransport(app=site.app)
            async with (
                site.parts.running(),
                httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as http,
            ):
                answers = [await http.request("POST" if fields else "GET", path, **fields) for path in paths]
                assert {answer.status_code for answer in answers} <= {200, 201}, [answer.text for answer in answers]
                return answers

    key = {"Idempotency-Key": "rights"}
    twice = asyncio.run(asked("farm-client", "/api/v1/jobs", "/api/v1/jobs", json=request, headers=key))
    [first, second] = twice[0].json()["jobs"]
    assert twice[1].json()["jobs"] == [first, second]
    render(client, first)
    asyncio.run(asked("farm-client", "/api/v1/cancel", json={"names": [second]}))
    shown = (f"jobs/{first}", f"jobs/{first}/objects/image.png", "jobs?limit=1", f"events?name={first}", "models")
    told = asyncio.run(asked("farm-reader", *(f"/api/v1/{path}" for path in shown)))
    again = {"Last-Event-ID": re.findall(r"id: (\S+)", told[3].text)[-1]}
    headers |= again
    page = told[2].json()["next"]
    asyncio.run(asked("farm-reader", f"/api/v1/events?name={first}", f"/api/v1/jobs?limit=1&cursor={page}"))
    assert denied(admin) == set()


@pytest.mark.parametrize("user", GRANTS)
def test_the_doctor_says_in_one_line_what_it_may_not_ask(
    user: str, admin: redis.Redis, where: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, checks = examined(as_user(where, user), monkeypatch)

    assert code == 0
    assert checks["redis questions"]["detail"] == (
        "may not ask INFO, CONFIG GET, so these were not checked: version, appendonly, maxmemory-policy, connections"
    )
    assert ("redis writes" in checks and checks["redis writes"]["verdict"] == "warn") is (user == "farm-reader")
    assert {what for _, what in denied(admin)} <= {"info", "config|get", "set"}


@pytest.mark.parametrize("right", ["+scan", "+evalsha", "+zadd", "+lpush", "~farm*"])
def test_a_client_that_lacks_a_right_is_told_which(right: str, admin: redis.Redis, where: Settings) -> None:
    take_away(admin, "farm-client", right)
    with FarmClient(as_user(where, "farm-client")) as client:
        try:
            [said] = client.submit([JobRequest.parse({**REQUEST, "model": "nobodys"})]).warnings[1:]
        except LedgerUnavailable as error:
            said = str(error)
    assert f"denies this user {right}" in said
    assert f"ACL SETUSER {'USER' if right == '~farm*' else 'farm-client'} {right}" in said or "farm recover" in said


def test_a_doctor_that_lacks_a_right_says_which(
    admin: redis.Redis, where: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(admin, "farm-reader", "+zcard")
    code, checks = examined(as_user(where, "farm-reader"), monkeypatch)
    assert code == 1
    assert "denies this user +zcard" in checks["jobs"]["detail"]
    assert checks["jobs"]["mend"].startswith("grant it: ACL SETUSER farm-reader +zcard;")

    take_away(admin, "farm-client", "~farm*")
    code, checks = examined(as_user(where, "farm-client"), monkeypatch)
    assert code == 1
    assert "denies this user ~farm*" in checks["redis writes"]["detail"]


def test_a_worker_that_lacks_a_right_ends_and_says_which(
    admin: redis.Redis, where: Settings, environment: dict[str, str], client: FarmClient
) -> None:
    client.check_bucket()
    take_away(admin, "farm-worker", "+evalsha")
    own = {**environment, **naming(as_user(where, "farm-worker"))}
    ended = launching.run(("--device", "cpu"), environment=own)
    assert ended.returncode == 1
    assert "farm worker: Redis at " in ended.stderr
    assert "denies this user +evalsha\n  grant it: ACL SETUSER farm-worker +evalsha;" in ended.stderr
    assert "Traceback" not in ended.stderr


def take_away(admin: redis.Redis, user: str, right: str) -> None:
    less = "resetkeys" if right.startswith("~") else right.replace("+", "-")
    admin.execute_command("ACL", "SETUSER", user, *GRANTS[user].split(), less)


def examined(where: Settings, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Mapping[str, Mapping[str, Any]]]:
    """The exit code of `farm doctor`, and what it found, by name."""
    monkeypatch.setattr("farm.stack.doctor.device", lambda: ok("device", "not asked"))
    result = CliRunner().invoke(doctor, ["--json"], env=naming(where))
    return result.exit_code, {check["name"]: check for check in json.loads(result.stdout)["checks"]}

"""A ledger and its bucket belong together: who is refused, who agrees, and how one takes another."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner, Result

from farm import keys
from farm.bucket.storage import Storage
from farm.cli.main import farm
from farm.client import FarmClient, tie
from farm.errors import ObjectMissing, WrongBucket
from farm.jobs.request import JobRequest
from farm.ledger.ledger import Ledger
from farm.ledger.records import Tie
from farm.settings import Settings
from farm.stack.verdict import ok
from tests import launching
from tests.farm.rendering import render

OTTER = ("submit", "txt2img", "an otter", "--seed", "7")
NewBucket = Callable[[], Storage]


def a_name() -> str:
    return f"b{secrets.token_hex(6)}"


def remove(storage: Storage) -> None:
    for stored in list(storage.list("")):
        storage.delete(stored.key)
    storage._client.delete_bucket(Bucket=storage.bucket)


def is_there(storage: Storage) -> bool:
    try:
        storage._client.head_bucket(Bucket=storage.bucket)
    except ClientError:
        return False
    return True


@pytest.fixture
def new_bucket(servers: Settings) -> Iterator[NewBucket]:
    """Names of buckets that nobody has made yet; they are removed afterwards."""
    made: list[Storage] = []

    def make() -> Storage:
        made.append(Storage(replace(servers, s3_bucket=a_name(), s3_bucket_from="from FARM_S3_BUCKET", local=False)))
        return made[-1]

    yield make
    for storage in filter(is_there, made):
        remove(storage)


@pytest.fixture
def own(ledger: Ledger, new_bucket: NewBucket) -> Storage:
    """The bucket that `ledger` belongs to."""
    storage = new_bucket()
    tie.tie(ledger, storage)
    return storage


def id_in(storage: Storage) -> str:
    return str(json.loads(storage.get(keys.IDENTITY))["id"])


def test_the_first_bucket_is_made_and_taken(ledger: Ledger, new_bucket: NewBucket) -> None:
    storage = new_bucket()
    told = tie.tie(ledger, storage)
    assert told == Tie(storage.bucket, id_in(storage)) == ledger.tie()
    assert tie.tie(ledger, storage) == told


def test_another_bucket_is_refused_and_not_made(ledger: Ledger, own: Storage, new_bucket: NewBucket) -> None:
    other = new_bucket()
    for ask in (tie.tie, tie.check):
        with pytest.raises(WrongBucket) as refused:
            ask(ledger, other)
        assert f"belongs to the bucket '{own.bucket}', not to the bucket '{other.bucket}'" in refused.value.message
        assert "(from FARM_S3_BUCKET)" in refused.value.message
        assert ledger.address in refused.value.message
        assert "FARM_S3_BUCKET" in str(refused.value.hint)
    assert not is_there(other)
    assert ledger.tie() == Tie(own.bucket, id_in(own))


def test_another_bucket_that_is_there_keeps_its_id(ledger: Ledger, own: Storage, new_bucket: NewBucket) -> None:
    other = new_bucket()
    other.ensure_bucket()
    with pytest.raises(WrongBucket):
        tie.tie(ledger, other)
    assert list(other.list("")) == []
    assert own.exists(keys.IDENTITY)


def test_a_new_ledger_takes_a_bucket_with_the_id_it_has(ledger: Ledger, own: Storage) -> None:
    before = ledger.tie()
    ledger.redis.delete(ledger._key("bucket"))
    assert tie.tie(ledger, own) == before


@pytest.mark.parametrize("knows_conditions", [True, False])
def test_many_at_once_agree(
    ledger: Ledger, servers: Settings, new_bucket: NewBucket, knows_conditions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a server that ignores `If-None-Match`: all put an id of theirs, and then all read one back."""
    name = new_bucket().bucket
    storages = [Storage(replace(servers, s3_bucket=name)) for _ in range(6)]
    together = threading.Barrier(len(storages))

    def tied(storage: Storage) -> Tie:
        if not knows_conditions:
            put = storage._client.put_object

            def ignoring(*, IfNoneMatch: str = "", **asked: Any) -> Any:
                together.wait(30)
                answer = put(**asked)
                together.wait(30)
                return answer

            monkeypatch.setattr(storage._client, "put_object", ignoring)
        together.wait(30)
        return tie.tie(ledger, storage)

    with ThreadPoolExecutor(len(storages)) as pool:
        agreed = set(pool.map(tied, storages))
    assert agreed == {Tie(name, id_in(storages[0]))} == {ledger.tie()}


def test_an_id_that_another_replaced_meanwhile_is_put_back(
    ledger: Ledger, new_bucket: NewBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without conditional writes one may overwrite the id that another has just recorded: the ledger's counts."""
    storage = new_bucket()
    storage.ensure_bucket()
    first = Tie(storage.bucket, secrets.token_hex(16))
    put_new = storage.put_new

    def late(*asked: Any) -> None:
        ledger.set_tie(first)
        put_new(*asked)

    monkeypatch.setattr(storage, "put_new", late)
    assert tie.tie(ledger, storage) == first
    assert id_in(storage) == first.id


@pytest.mark.parametrize(("code", "left"), [("PreconditionFailed", b"first"), ("NotImplemented", b"second")])
def test_an_object_is_put_once_where_the_server_can(
    new_bucket: NewBucket, monkeypatch: pytest.MonkeyPatch, code: str, left: bytes
) -> None:
    storage = new_bucket()
    storage.ensure_bucket()
    storage.put_new("a", b"first", "text/plain")
    put = storage._client.put_object

    def answering(**asked: Any) -> Any:
        if asked.pop("IfNoneMatch", None):
            raise ClientError({"Error": {"Code": code}}, "PutObject")
        return put(**asked)

    if code == "NotImplemented":
        monkeypatch.setattr(storage._client, "put_object", answering)
    storage.put_new("a", b"second", "text/plain")
    assert storage.get("a") == left


def test_a_bucket_that_was_deleted_is_told_and_not_made_again(ledger: Ledger, own: Storage) -> None:
    remove(own)
    with pytest.raises(WrongBucket, match="is gone, or does not hold the id"):
        tie.tie(ledger, own)
    assert not is_there(own)


def test_a_bucket_that_was_made_again_is_refused_until_adopted(
    ledger: Ledger, own: Storage, new_bucket: NewBucket
) -> None:
    before = ledger.tie()
    own.delete(keys.IDENTITY)
    with pytest.raises(WrongBucket, match="is gone, or does not hold the id"):
        tie.tie(ledger, own)
    tie.check(ledger, own)  # for those who read it may be hidden
    own.put(keys.IDENTITY, json.dumps({"id": "0" * 32}).encode(), "application/json")
    for ask in (tie.tie, tie.check):
        with pytest.raises(WrongBucket, match=f"its id is {'0' * 32}, not"):
            ask(ledger, own)
    assert ledger.tie() == before
    assert tie.adopt(ledger, own) == Tie(own.bucket, "0" * 32) == tie.tie(ledger, own)


def test_a_copy_is_told_from_a_stranger(ledger: Ledger, own: Storage, new_bucket: NewBucket) -> None:
    copy = new_bucket()
    copy.ensure_bucket()
    copy.put(keys.IDENTITY, own.get(keys.IDENTITY), "application/json")
    with pytest.raises(WrongBucket, match="which is a copy of it"):
        tie.tie(ledger, copy)
    tie.adopt(ledger, copy)
    assert tie.tie(ledger, copy) == Tie(copy.bucket, id_in(own))
    with pytest.raises(WrongBucket):
        tie.tie(ledger, own)


@pytest.mark.parametrize(
    "rubbish", [b"", b"\xff", b"[]", b"{}", b'{"id": 7}', b'{"id": "x"}', b"[" * 4000, b"x" * 5000]
)
def test_a_damaged_id_is_named_and_made_anew(ledger: Ledger, own: Storage, rubbish: bytes) -> None:
    own.put(keys.IDENTITY, rubbish, "application/json")
    with pytest.raises(WrongBucket, match=r"farm/identity\.json of the bucket .* does not hold an id") as refused:
        tie.tie(ledger, own)
    assert "--adopt-bucket" in str(refused.value.hint)
    ledger.redis.delete(ledger._key("bucket"))
    with pytest.raises(WrongBucket, match="does not hold an id"):
        tie.tie(ledger, own)
    assert tie.adopt(ledger, own) == Tie(own.bucket, id_in(own)) == tie.tie(ledger, own)


@pytest.mark.parametrize("damage", [("set", "x"), ("hset", "other", "x"), ("hset", "name", "farm")])
def test_a_damaged_note_of_the_ledger_is_told(ledger: Ledger, new_bucket: NewBucket, damage: tuple[str, ...]) -> None:
    storage = new_bucket()
    storage.ensure_bucket()
    command, *rest = damage
    getattr(ledger.redis, command)(ledger._key("bucket"), *rest)
    with pytest.raises(WrongBucket, match="damaged note"):
        tie.tie(ledger, storage)
    assert tie.adopt(ledger, storage) == tie.tie(ledger, storage)


def test_a_bucket_that_is_not_there_cannot_be_adopted(ledger: Ledger, own: Storage, new_bucket: NewBucket) -> None:
    before = ledger.tie()
    with pytest.raises(ObjectMissing, match="there is no bucket 'b"):
        tie.adopt(ledger, new_bucket())
    assert ledger.tie() == before


def test_a_client_asks_once(client: FarmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    really = tie.tie

    def counted(*pair: Any) -> None:
        asked.append(pair)
        really(*pair)

    monkeypatch.setattr(tie, "tie", counted)
    for _ in range(3):
        client.submit([JobRequest.parse({"prompt": "an otter"})])
    assert len(asked) == 1


# From the shell


@pytest.fixture
def wrong(client: FarmClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_bucket: NewBucket) -> Storage:
    """An environment that names the farm of `client`, and a bucket that is not there."""
    where, storage = client.settings, new_bucket()
    assert where.s3_endpoint and where.s3_access_key and where.s3_secret_key
    monkeypatch.setenv("FARM_REDIS_URL", where.redis_url)
    monkeypatch.setenv("FARM_S3_ENDPOINT", where.s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", where.s3_access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", where.s3_secret_key)
    monkeypatch.setenv("FARM_S3_BUCKET", storage.bucket)
    monkeypatch.setenv("FARM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FARM_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    return storage


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(farm, arguments, prog_name="farm")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def test_a_submission_to_the_wrong_bucket_leaves_nothing(client: FarmClient, wrong: Storage, tmp_path: Path) -> None:
    client.check_bucket()
    before = set(client.ledger.redis.keys("*"))
    told = run(*OTTER, code=1).stderr
    assert told.startswith("farm: the ledger at ")
    assert f"belongs to the bucket 'farm', not to the bucket '{wrong.bucket}' (from FARM_S3_BUCKET)" in told
    assert "correct FARM_S3_BUCKET" in told
    assert json.loads(run(*OTTER, "--json", code=1).stdout)["error"]["type"] == "WrongBucket"
    assert set(client.ledger.redis.keys("*")) == before
    assert client.list() == []
    assert not is_there(wrong)


def test_results_are_neither_fetched_from_nor_forgotten_in_the_wrong_bucket(client: FarmClient, wrong: Storage) -> None:
    [job] = client.submit([JobRequest.parse({"prompt": "an otter", "steps": 30})]).jobs
    render(client, job)
    assert "belongs to the bucket 'farm'" in run("fetch", job, code=1).stderr
    assert "belongs to the bucket 'farm'" in run("forget", job, "--yes", code=1).stderr
    assert client.ledger.get(job).state == "done"
    assert not is_there(wrong)


def test_the_doctor_tells(client: FarmClient, wrong: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.stack.doctor.device", lambda: ok("device", "not asked"))
    client.check_bucket()
    line = _line()
    assert line["verdict"] == "fail"
    assert "belongs to the bucket 'farm'" in line["detail"]
    assert "--adopt-bucket" in line["mend"]
    assert not is_there(wrong), "what was not this farm's was not tried"
    monkeypatch.setenv("FARM_S3_BUCKET", "farm")
    assert _line()["detail"] == "the bucket 'farm' is the ledger's own"
    client.ledger.redis.flushdb()
    assert _line()["detail"].startswith("the ledger has no bucket yet")
    assert client.ledger.tie() is None


def _line() -> dict[str, str]:
    """What the doctor says of the pair, whatever else it finds."""
    checks = json.loads(CliRunner().invoke(farm, ["doctor", "--json"], prog_name="farm").stdout)["checks"]
    [line] = [check for check in checks if check["name"] == "ledger and bucket"]
    return dict(line)


def test_recovery_of_a_new_ledger_takes_the_bucket(client: FarmClient, wrong: Storage) -> None:
    wrong.ensure_bucket()
    run("recover")
    assert client.ledger.tie() == Tie(wrong.bucket, id_in(wrong))


def test_recovery_makes_no_bucket(client: FarmClient, wrong: Storage) -> None:
    assert "there is no bucket" in run("recover", code=1).stderr
    assert client.ledger.tie() is None
    assert not is_there(wrong)


def test_recovery_from_another_bucket_is_refused_until_it_is_meant(client: FarmClient, wrong: Storage) -> None:
    client.check_bucket()
    wrong.ensure_bucket()
    assert "belongs to the bucket 'farm'" in run("recover", code=1).stderr
    assert list(wrong.list("")) == []

    told = run("recover", "--adopt-bucket").stderr

    assert f"belongs to the bucket '{wrong.bucket}' now" in told
    assert client.ledger.tie() == Tie(wrong.bucket, id_in(wrong))
    run(*OTTER)
    assert any(wrong.list("batches/"))


def test_a_worker_with_the_wrong_bucket_does_not_start(client: FarmClient, wrong: Storage) -> None:
    client.check_bucket()
    ended = launching.run(("--device", "cpu"), environment=os.environ)
    assert ended.returncode == 1, ended.stderr
    assert "farm worker: the ledger at " in ended.stderr
    assert f"not to the bucket '{wrong.bucket}' (from FARM_S3_BUCKET)" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert client.workers() == []
    assert not is_there(wrong)

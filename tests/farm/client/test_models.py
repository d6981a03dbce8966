"""Models that the farm keeps: sent once, there whole or not at all, and removed without taking from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from farm import keys
from farm.bucket.models import StoredModel, manifests, read_model, stored_models
from farm.bucket.storage import Storage
from farm.cli.main import farm as command
from farm.client import FarmClient
from farm.client import models as keeping
from farm.client.keeping import ABANDONED
from farm.client.models import add, remove
from farm.errors import InvalidInput, ModelError, ObjectDamaged, StorageError, WrongState
from farm.jobs.request import JobRequest
from farm.ledger.ledger import Ledger
from farm.settings import Settings
from tests.environments import naming
from tests.fakes.ledger import FakeLedger
from tests.fakes.storage import FakeStorage
from tests.ledgers import a_worker
from tests.models_on_disk import write_folder, write_json, write_weights


class Bucket(FakeStorage):
    """Notes which blobs were sent, and is interrupted before some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []
        self.before: Callable[[str], None] = lambda _: None

    def upload(self, key: str, path: Path, *, sent: Callable[[int], None] = lambda _: None) -> None:
        self.before(key)
        super().upload(key, path, sent=sent)
        self.sent.append(key)

    @property
    def blobs(self) -> set[str]:
        return {key for key in self.objects if key.startswith(keys.MODEL_BLOBS)}


@pytest.fixture
def ledger() -> FakeLedger:
    return FakeLedger()


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model")


def test_a_model_is_kept_by_what_is_in_its_files(ledger: Ledger, bucket: Bucket, folder: Path) -> None:
    added = add(ledger, bucket, "mine", str(folder))

    assert added.model == read_model(bucket, "mine")
    for name, file in added.model.files.items():
        data = (folder / name).read_bytes()
        assert bucket.objects[keys.model_blob(file.sha256)] == data
        assert (file.sha256, file.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert bucket.put_order[-1] == "models/mine.json", "last of all"
    assert added.sent == added.model.size == sum(len(bucket.objects[key]) for key in bucket.blobs)
    assert (added.model.kind, added.model.source) == ("sd1", str(folder))


def test_what_is_said_besides_is_in_the_manifest(ledger: Ledger, bucket: Bucket, folder: Path, tmp_path: Path) -> None:
    vae = write_weights(tmp_path / "better.safetensors", {"decoder.conv_in.weight": (8, 8)}, fill=7)
    add(ledger, bucket, "mine", f"{folder}#vae={vae}#prediction=v")

    kept = read_model(bucket, "mine")
    assert kept.options == {"vae": "better.safetensors", "prediction": "v"}
    assert bucket.objects[keys.model_blob(kept.files["vae.safetensors"].sha256)] == vae.read_bytes()
    with pytest.raises(WrongState, match=r"the farm has another model 'mine', from .*#prediction=v"):
        add(ledger, bucket, "mine", f"{folder}#vae={vae}#prediction=epsilon")
    copied = tmp_path / "of another name.safetensors"
    copied.write_bytes(vae.read_bytes())
    assert add(ledger, bucket, "mine", f"{folder}#vae={copied}#prediction=v").model == kept, "it is what it was"


def test_an_old_manifest_is_what_it_was(ledger: Ledger, bucket: Bucket, folder: Path) -> None:
    model = add(ledger, bucket, "mine", str(folder)).model
    said = json.loads(bucket.objects["models/mine.json"])
    assert said.pop("options") == {}
    bucket.put("models/mine.json", json.dumps(said).encode(), "application/json")

    assert read_model(bucket, "mine") == model
    files = sorted((name, file.sha256) for name, file in model.files.items())
    as_before = hashlib.sha256(json.dumps(["folder", files]).encode()).hexdigest()
    assert read_model(bucket, "mine").fingerprint == as_before


def test_the_same_again_sends_nothing_and_changes_nothing(ledger: Ledger, bucket: Bucket, folder: Path) -> None:
    first = add(ledger, bucket, "mine", str(folder))
    bucket.put_order.clear()

    assert add(ledger, bucket, "mine", str(folder)) == keeping.Added(first.model, sent=0)
    assert bucket.put_order == []


def test_models_share_what_is_the_same(ledger: Ledger, bucket: Bucket, folder: Path, tmp_path: Path) -> None:
    add(ledger, bucket, "one", str(folder))
    bucket.sent.clear()

    assert add(ledger, bucket, "other-name", str(folder)).sent == 0
    changed = add(ledger, bucket, "changed", str(write_folder(tmp_path / "like it", fill=1)))

    assert bucket.sent == [keys.model_blob(changed.model.files["unet/diffusion_pytorch_model.safetensors"].sha256)]


def test_what_was_sent_before_an_interruption_is_not_sent_again(ledger: Ledger, bucket: Bucket, folder: Path) -> None:
    def interrupt(_: str) -> None:
        if len(bucket.sent) == 3:
            raise KeyboardInterrupt

    bucket.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        add(ledger, bucket, "mine", str(folder))
    assert manifests(bucket) == {}, "it is not there at all"
    before = set(bucket.sent)
    bucket.before = lambda _: None

    model = add(ledger, bucket, "mine", str(folder)).model

    assert len(bucket.sent) == len(set(bucket.sent)) == len(model.blobs)
    assert before < bucket.blobs


def test_another_of_the_same_name_is_refused_unless_it_is_to_replace_it(
    ledger: Ledger, bucket: Bucket, folder: Path, tmp_path: Path
) -> None:
    first = add(ledger, bucket, "mine", str(folder)).model
    other = str(write_folder(tmp_path / "other", fill=1))
    with pytest.raises(WrongState, match=r"another model 'mine', from .*/model \(choose another name, or .*--replace"):
        add(ledger, bucket, "mine", other)
    assert read_model(bucket, "mine") == first

    second = add(ledger, bucket, "mine", other, replace=True).model

    assert second.fingerprint != first.fingerprint
    assert bucket.blobs == {keys.model_blob(sha256) for sha256 in second.blobs}, "the old weights are gone"


def test_the_names_of_models_that_come_along_are_taken(ledger: Ledger, bucket: Bucket, folder: Path) -> None:
    with pytest.raises(InvalidInput, match="'emoji' is a model that comes with the farm"):
        add(ledger, bucket, "emoji", str(folder))
    with pytest.raises(InvalidInput, match="cannot name a model"):
        add(ledger, bucket, "My Model", str(folder))


def test_a_file_that_is_written_to_meanwhile_is_not_kept(ledger: Ledger, bucket: Bucket, folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"

    def grow(_: str) -> None:
        if not bucket.sent:
            write_weights(weights, {"x": (9,)})

    bucket.before = grow
    with pytest.raises(InvalidInput, match="was written to while it was read"):
        add(ledger, bucket, "mine", str(folder))
    assert manifests(bucket) == {}
    assert all(hashlib.sha256(bucket.objects[key]).hexdigest() == key.rpartition("/")[2] for key in bucket.blobs)


def test_what_is_damaged_in_the_bucket_is_sent_again(ledger: Ledger, bucket: Bucket, folder: Path) -> None:
    model = add(ledger, bucket, "mine", str(folder)).model
    key = keys.model_blob(next(iter(model.blobs)))
    whole = bucket.objects[key]
    bucket.objects[key] = whole[:-1]
    assert add(ledger, bucket, "mine", str(folder)).sent == len(whole), "what is cut short is seen"

    bucket.objects[key] = bytes(len(whole))
    assert add(ledger, bucket, "mine", str(folder)).sent == 0
    assert add(ledger, bucket, "mine", str(folder), again=True).sent == model.size
    assert bucket.objects[key] == whole


def test_removing_a_model_leaves_what_others_have(ledger: Ledger, bucket: Bucket, folder: Path, tmp_path: Path) -> None:
    first = add(ledger, bucket, "first", str(folder)).model
    second = add(ledger, bucket, "second", str(write_folder(tmp_path / "like it", fill=1))).model

    freed = remove(ledger, bucket, "first").freed

    only_its_own = first.blobs.keys() - second.blobs.keys()
    assert freed == sum(first.blobs[sha256] for sha256 in only_its_own) > 0
    assert bucket.blobs == {keys.model_blob(sha256) for sha256 in second.blobs}
    assert manifests(bucket).keys() == {"second"}
    with pytest.raises(
        ModelError, match=r"no model 'secnod' \(did you mean 'second'\? 'farm models add secnod=SOURCE'"
    ):
        remove(ledger, bucket, "secnod")
    remove(ledger, bucket, "second")
    assert bucket.blobs == set()
    with pytest.raises(ModelError, match=r"the farm keeps no model 'first' \('farm models add first=SOURCE'"):
        remove(ledger, bucket, "first")
    with pytest.raises(ModelError, match=r"'emoji' comes with the farm, which does not keep it in its bucket$"):
        remove(ledger, bucket, "emoji")


def test_a_model_that_jobs_wait_for_is_not_removed_unless_forced(client: FarmClient, folder: Path) -> None:
    add(client.ledger, client.storage, "wanted", str(folder))
    client.submit([JobRequest(prompt="a cat", model="wanted", count=2)])
    with pytest.raises(WrongState, match=r"2 jobs wait for the model 'wanted' \(wait for them, .*--force"):
        remove(client.ledger, client.storage, "wanted")
    assert "wanted" in manifests(client.storage)

    remove(client.ledger, client.storage, "wanted", force=True)

    assert "wanted" not in manifests(client.storage)
    assert client.ledger.waiting("wanted") == 2


def test_a_model_that_is_added_while_another_is_removed_is_there_whole(
    ledger: Ledger, bucket: Bucket, folder: Path, tmp_path: Path
) -> None:
    """It finds all but its UNet in the bucket, which go with the other before its manifest is written."""
    add(ledger, bucket, "old", str(folder))

    def remove_the_other(_: str) -> None:
        bucket.before = lambda _: None
        remove(ledger, bucket, "old")

    bucket.before = remove_the_other
    new = add(ledger, bucket, "new", str(write_folder(tmp_path / "like it", fill=1))).model

    assert bucket.blobs == {keys.model_blob(sha256) for sha256 in new.blobs}


def test_nothing_is_deleted_that_a_manifest_written_meanwhile_names(
    ledger: FakeLedger, bucket: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever removes holds the lock from before it reads the manifests until it has deleted."""
    add(ledger, bucket, "old", str(folder))
    monkeypatch.setattr("farm.client.keeping._LOCK_SECONDS", 0.2)
    added: list[str] = []
    delete = bucket.delete

    def add_meanwhile(key: str) -> None:
        if not added:
            added.append(key)
            with pytest.raises(WrongState, match="somebody else adds or removes a model"):
                add(ledger, bucket, "new", str(folder))
        delete(key)

    monkeypatch.setattr(bucket, "delete", add_meanwhile)
    monkeypatch.setattr(ledger, "try_lock", _lock_without_an_end(ledger))
    remove(ledger, bucket, "old")
    assert added and manifests(bucket) == {} and bucket.blobs == set()


def _lock_without_an_end(ledger: FakeLedger) -> Callable[..., bool]:
    """A lock that its holder keeps for as long as it lives."""
    holders: list[str] = []

    def try_lock(name: str, holder: str, *, seconds: float) -> bool:
        assert name == "models"
        if not holders:
            holders.append(holder)
        return holders[0] == holder

    return try_lock


def test_what_was_sent_for_a_model_that_never_came_goes_in_the_end(
    ledger: Ledger, bucket: Bucket, folder: Path
) -> None:
    add(ledger, bucket, "mine", str(folder))
    old, fresh = (keys.model_blob(hashlib.sha256(data).hexdigest()) for data in (b"old", b"fresh"))
    for key in (old, fresh):
        bucket.put(key, b"of nobody", "application/octet-stream")
    bucket.modified[old] = datetime.now(UTC) - 2 * ABANDONED

    remove(ledger, bucket, "mine")

    assert bucket.blobs == {fresh}


def test_a_damaged_manifest_hides_no_other_and_nothing_of_it_is_deleted(
    ledger: Ledger, bucket: Bucket, folder: Path
) -> None:
    add(ledger, bucket, "mine", str(folder))
    bucket.put("models/strange.json", b"{}", "application/json")
    bucket.put("models/mine/unet/config.json", b"{}", "application/json")
    bucket.put("models/Not a name.json", b"{}", "application/json")

    damaged, whole = sorted(stored_models(bucket), key=lambda one: isinstance(one, StoredModel))

    assert isinstance(damaged, ObjectDamaged) and "models/strange.json is not a model's manifest" in str(damaged)
    assert isinstance(whole, StoredModel) and whole.name == "mine"
    assert remove(ledger, bucket, "mine").freed == 0, "nobody knows what the strange one names"
    assert remove(ledger, bucket, "strange").name == "strange"


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"../x": {"sha256": "0" * 64, "size": 1}}},
        {"files": {"unet/../x": {"sha256": "0" * 64, "size": 1}}},
        {"files": {"/etc/x": {"sha256": "0" * 64, "size": 1}}},
        {"files": {"x\n": {"sha256": "0" * 64, "size": 1}}},
        {"files": {"x": {"sha256": "../../x", "size": 1}}},
        {"files": {"x": {"sha256": "0" * 64, "size": -1}}},
        {"files": {}},
        {"layout": "file"},
        {"options": {"vae": "better.safetensors"}},
        {"options": {"prediction": "x"}},
        {"options": {"colour": "red"}},
        {"options": {"ztsnr": "x" * 256}},
        {"name": "other"},
    ],
)
def test_manifests_of_strangers_are_refused(
    ledger: Ledger, bucket: Bucket, folder: Path, changes: dict[str, Any]
) -> None:
    add(ledger, bucket, "mine", str(folder))
    said = {**json.loads(bucket.objects["models/mine.json"]), **changes}
    bucket.put("models/mine.json", json.dumps(said).encode(), "application/json")
    with pytest.raises(ObjectDamaged, match=r"models/mine\.json is"):
        read_model(bucket, "mine")


def test_a_bucket_that_is_away_is_told(ledger: Ledger, bucket: Bucket, folder: Path) -> None:
    bucket.outage.begin()
    with pytest.raises(StorageError):
        add(ledger, bucket, "mine", str(folder))


def test_how_far_it_is_is_told(ledger: Ledger, bucket: Bucket, folder: Path) -> None:
    told: list[Any] = []

    class Watcher:
        def begin(self, what: str, total: int) -> None:
            told.append([what, total, 0])

        def advance(self, number: int) -> None:
            told[-1][2] += number

    size = add(ledger, bucket, "mine", str(folder), progress=Watcher()).model.size
    assert [what for what, _, _ in told] == ["reading", "sending"]
    assert all(total == done for _, total, done in told)
    assert told[1][1] == size


# On a real server, and as commands


@pytest.fixture
def shell(client: FarmClient, servers: Settings) -> Iterator[Callable[..., Result]]:
    for name in manifests(client.storage):
        client.storage.delete(keys.model_manifest(name))
    for stored in client.storage.list(keys.MODEL_BLOBS):
        client.storage.delete(stored.key)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(command, ["models", *arguments], env=naming(servers))

    yield run


def test_models_are_added_listed_shown_and_removed(
    shell: Callable[..., Result], client: FarmClient, folder: Path
) -> None:
    assert "the farm has no models" in shell().stderr

    added = json.loads(shell("add", f"mine={folder}", "--json").stdout)
    assert added["sent"] == added["size"] > 0
    assert shell("add", f"mine={folder}").stdout == "mine: Stable Diffusion 1, 2.5 KiB, all of which was there\n"
    client.ledger.announce(a_worker("w1", models=("mine", "emoji"), warm=("mine",)))
    client.ledger.announce(a_worker("w2", models=("mine",), refused={"gone": "the disk is full", "lost": "no index"}))
    client.submit([JobRequest(prompt="a cat", model="mine", count=3), JobRequest(prompt="a cat", model="lost")])

    emoji, gone, lost, mine = json.loads(shell("--json").stdout)
    assert mine == {
        **{"name": "mine", "workers": ["w1", "w2"], "warm": ["w1"], "refused": {}, "waiting": 3},
        **{"kind": "sd1", "size": added["size"], "source": str(folder), "options": {}, "added": added["added"]},
    }
    assert (emoji["name"], emoji["workers"], emoji["size"]) == ("emoji", ["w1"], None)
    assert (lost["name"], lost["workers"], lost["waiting"]) == ("lost", [], 1)
    assert (gone["workers"], gone["refused"], gone["waiting"]) == ([], {"w2": "the disk is full"}, 0)
    listed = shell()
    assert "gone: w2 does not serve it: the disk is full\nlost: w2 does not serve it: no index\n" in listed.stderr
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert lines[4] == ["mine", "Stable", "Diffusion", "1", "2.5", "KiB", "3", "w1", "w1,", "w2"]

    assert json.loads(shell("show", "mine", "--json").stdout) == {**mine, "files": added["files"]}
    assert "served by w1, w2; in memory of w1" in shell("show", "mine").stdout
    assert shell("show", "emoji").exit_code == 1
    assert "otherwise" not in shell("show", "mine").stdout

    vae = write_weights(folder.with_name("better.safetensors"), {"decoder.conv_in.weight": (8, 8)})
    shell("add", f"told={folder}#vae={vae}#prediction=v#ztsnr")
    assert json.loads(shell("show", "told", "--json").stdout)["options"] == {
        **{"vae": "better.safetensors", "prediction": "v", "ztsnr": ""}
    }
    said = "its autoencoder is that of better.safetensors, it predicts v, its signal-to-noise ratio begins at zero"
    assert f"otherwise than its files say: {said}\n" in shell("show", "told").stdout
    assert shell("remove", "told").exit_code == 0

    refused = shell("remove", "mine", "--json")
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["error"]["message"] == "3 jobs wait for the model 'mine'"
    assert json.loads(shell("remove", "mine", "--force", "--json").stdout) == {"name": "mine", "freed": added["size"]}
    assert not list(client.storage.list(keys.MODEL_BLOBS))


def test_a_large_file_goes_in_parts_and_is_counted(storage: Storage, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(range(256)) * (40 * 2**20 // 256))
    told: list[int] = []
    storage.upload("test/large", file, sent=told.append)
    copied = tmp_path / "copied"
    storage.download("test/large", copied, limit=40 * 2**20)
    assert copied.read_bytes() == file.read_bytes()
    assert sum(told) == 40 * 2**20
    storage.delete("test/large")


def test_only_what_lies_directly_below_is_listed_if_asked(storage: Storage) -> None:
    for name in ("a.json", "b.json", "deep/c.json"):
        storage.put(f"test/list/{name}", b"{}", "application/json")
    shallow = list(storage.list("test/list/", deep=False))
    assert [stored.key for stored in shallow] == ["test/list/a.json", "test/list/b.json"]
    assert len(list(storage.list("test/list/"))) == 3
    tag = shallow[0].tag
    storage.put("test/list/a.json", b"[]", "application/json")
    assert next(storage.list("test/list/", deep=False)).tag != tag
    assert shallow[0].modified is not None


@pytest.mark.parametrize("words", [("add", "mine"), ("add", "mine="), ("add", "=x"), ("add", "mine=/nowhere")])
def test_bad_input_ends_before_anything_is_sent(shell: Callable[..., Result], words: tuple[str, ...]) -> None:
    assert shell(*words).exit_code == 2


def test_a_stray_json_is_not_uploaded(ledger: Ledger, bucket: Bucket, folder: Path) -> None:
    write_json(folder / "secrets.json", {"password": "x"})
    assert "secrets.json" not in add(ledger, bucket, "mine", str(folder)).model.files

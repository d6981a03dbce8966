"""What of the farm's models a worker knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from farm import keys
from farm.errors import ModelError, StorageError
from tests.fakes.storage import FakeStorage
from tests.worker.bucket.kept import put_model
from worker.bucket.catalogue import Catalogue, Changes
from worker.bucket.model_cache import ModelCache
from worker.models.registry import ModelRegistry, Stored


@pytest.fixture
def storage() -> FakeStorage:
    return FakeStorage()


def catalogue(storage: FakeStorage, folder: Path, models: Sequence[str], *, all_of_them: bool) -> Catalogue:
    registry = ModelRegistry.from_options(models)
    return Catalogue(storage, ModelCache(folder / "cache", storage, 1_000), registry, all_of_them=all_of_them)


def test_models_come_change_and_go(storage: FakeStorage, tmp_path: Path) -> None:
    known = catalogue(storage, tmp_path, ["emoji"], all_of_them=True)
    assert known.refresh() == Changes()
    first = put_model(storage, "mine", x=b"1")
    assert known.refresh() == Changes(come=("mine",))
    assert known.refresh() == Changes()
    assert known.bytes_of("mine") == 1
    with known.opened(Stored("mine", first.fingerprint)) as opened:
        assert (opened.folder / "unet" / "x.json").read_bytes() == b"1"

    put_model(storage, "mine", x=b"1")
    assert known.refresh() == Changes(come=("mine",)), "it was added once more"
    put_model(storage, "mine", x=b"2")
    assert known.refresh() == Changes(come=("mine",), others=("mine",))
    with pytest.raises(ModelError, match=r"no model 'mine' \('farm"), known.opened(Stored("mine", first.fingerprint)):
        pass
    for mistyped, meant in (("mien", "mine"), ("emogi", "emoji")):
        with pytest.raises(ModelError, match=rf"no model '{mistyped}' \(did you mean '{meant}'\? 'farm models add"):
            known.mend(Stored(mistyped))

    storage.delete(keys.model_manifest("mine"))
    assert known.refresh() == Changes(gone=("mine",))
    with pytest.raises(ModelError, match=r"the farm keeps no model 'mine' \('farm models add mine=SOURCE'"):
        known.mend(Stored("mine"))


def test_a_worker_that_was_told_names_knows_no_others_and_its_own_go_first(
    storage: FakeStorage, tmp_path: Path
) -> None:
    for name in ("mine", "asked-for", "others"):
        put_model(storage, name, x=b"1")
    own = ["asked-for", f"mine={tmp_path}"]
    assert catalogue(storage, tmp_path, own, all_of_them=False).refresh() == Changes(come=("asked-for",))
    assert catalogue(storage, tmp_path, own, all_of_them=True).refresh() == Changes(come=("asked-for", "others"))


def test_a_damaged_manifest_is_told_once_and_hides_no_other(
    storage: FakeStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_model(storage, "whole", x=b"1")
    storage.put(keys.model_manifest("damaged"), b"{}", "application/json")
    known = catalogue(storage, tmp_path, [], all_of_them=True)
    assert known.refresh() == Changes(come=("whole",))
    assert known.refresh() == Changes()
    assert caplog.text.count("the farm's model 'damaged' is not served: models/damaged.json is not a model's") == 1


def test_a_bucket_that_is_away_takes_nothing_away(storage: FakeStorage, tmp_path: Path) -> None:
    put_model(storage, "mine", x=b"1")
    known = catalogue(storage, tmp_path, [], all_of_them=True)
    known.refresh()
    storage.outage.begin()
    with pytest.raises(StorageError):
        known.refresh()
    assert known.names == ("mine",)

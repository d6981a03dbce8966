"""Models that the farm keeps, on their way from its bucket through the disk to a device."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from farm import keys, layouts
from farm.client.models import add
from farm.errors import ModelError
from tests.fakes.ledger import FakeLedger
from tests.fakes.storage import FakeStorage
from tests.tiny import build_tiny_model
from tests.worker.models.original_layout import write_original_checkpoint
from worker.bucket.catalogue import Catalogue
from worker.bucket.model_cache import ModelCache
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.model import LoadedModel
from worker.models.registry import LocalDirectory, ModelRegistry, SingleFile

Named = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("built"))


class Farm:
    """A bucket in memory, and a worker's disk and loader."""

    def __init__(self, folder: Path) -> None:
        self.storage = FakeStorage()
        self.registry = ModelRegistry({})
        self.blobs = folder / "cache" / "blobs"
        cache = ModelCache(folder / "cache", self.storage, 10**9)
        self.catalogue = Catalogue(self.storage, cache, self.registry, all_of_them=True)
        self.loader = ModelLoader(place("cpu"), cache=folder / "other", stored=self.catalogue)

    def add(self, source: str) -> None:
        add(FakeLedger(), self.storage, "mine", source)
        self.catalogue.refresh()

    def load(self) -> LoadedModel:
        return self.loader.load("mine", self.registry.source("mine"))


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path)


def same_weights(one: LoadedModel, other: LoadedModel) -> bool:
    return all(
        torch.equal(mine, yours)
        for part in ("unet", "vae", "text_encoder")
        for mine, yours in zip(getattr(one, part).parameters(), getattr(other, part).parameters(), strict=True)
    )


@pytest.mark.long
def test_a_folder_is_the_same_model_as_where_it_came_from(farm: Farm, built: Path) -> None:
    farm.add(str(built))
    loaded = farm.load()
    assert same_weights(loaded, farm.loader.load("mine", LocalDirectory(built)))
    assert loaded.source.startswith("farm:mine@")
    assert loaded.scheduler_config["prediction_type"] == "epsilon"


@pytest.mark.long
def test_so_is_a_checkpoint_with_its_configuration(farm: Farm, built: Path, tmp_path: Path) -> None:
    file = write_original_checkpoint(built, tmp_path / "one.safetensors")
    farm.add(f"{file}#config={built}")
    loaded, own = farm.load(), farm.loader.load("mine", SingleFile(file, built))
    assert same_weights(loaded, own)
    assert loaded.sha256 == own.sha256 is not None


@pytest.mark.long
def test_what_is_damaged_on_the_disk_is_fetched_again(farm: Farm, built: Path) -> None:
    farm.add(str(built))
    farm.load()
    for blob in farm.blobs.iterdir():
        blob.write_bytes(b"\xff" * blob.stat().st_size)
    assert farm.load().name == "mine"


def test_a_model_that_no_worker_can_load_is_told_for_what_it_is(farm: Farm, built: Path, tmp_path: Path) -> None:
    """It had passed as one where it was added: headers and configurations only say so much."""
    folder = build_tiny_model(tmp_path / "model")
    config = folder / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": 64'))
    farm.add(str(folder))
    with pytest.raises(ModelError) as told:
        farm.load()
    assert "text_encoder" in str(told.value)
    check_names_no_folder(str(told.value))


def check_names_no_folder(said: str) -> None:
    assert "/farm-" not in said and tempfile.gettempdir() not in said, said


def without(part: str) -> Callable[[Named], Named]:
    return lambda weights: {key: value for key, value in weights.items() if not key.startswith(part)}


def cut(key: str) -> Callable[[Named], Named]:
    return lambda weights: {name: value[:1] if name.endswith(key) else value for name, value in weights.items()}


UNLOADED: dict[str, tuple[Callable[[Named], Named], str]] = {
    "without an autoencoder": (
        without("first_stage_model."),
        r"model.safetensors has no autoencoder \(name one: 'farm models add mine=FILE#vae=FILE --replace'\)",
    ),
    "without a text encoder": (without("cond_stage_model."), "^model.safetensors has no text encoder"),
    "of other shapes": (
        cut("input_blocks.0.0.weight"),
        "^the checkpoint model.safetensors cannot be loaded: .* 'farm models add mine=FILE#config=DIRECTORY --replace'",
    ),
}


@pytest.mark.parametrize("case", UNLOADED)
def test_what_mends_a_kept_checkpoint_is_told_without_a_folder_of_the_worker(
    farm: Farm, built: Path, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As earlier versions kept it, which looked for no parts in a file."""
    monkeypatch.setattr(layouts, "lacking_in_file", lambda *_: None)
    change, said = UNLOADED[case]
    file = write_original_checkpoint(built, tmp_path / "one.safetensors")
    save_file({key: value.contiguous() for key, value in change(load_file(file)).items()}, file)
    farm.add(f"{file}#config={built}")
    with pytest.raises(ModelError, match=said) as told:
        farm.load()
    check_names_no_folder(str(told.value))


def test_a_model_that_was_removed_is_told(farm: Farm, built: Path) -> None:
    farm.add(str(built))
    source = farm.registry.source("mine")
    farm.storage.delete(keys.model_manifest("mine"))
    farm.catalogue.refresh()
    with pytest.raises(ModelError, match="the farm keeps no model 'mine'"):
        farm.loader.load("mine", source)

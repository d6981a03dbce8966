"""A model that the farm keeps with options is what `--model NAME=SOURCE` with the same options makes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from farm.client.models import add
from tests.fakes.ledger import FakeLedger
from tests.fakes.storage import FakeStorage
from tests.tiny import build_tiny_model, build_tiny_xl
from tests.worker.models.original_layout import write_original_checkpoint
from worker.bucket.catalogue import Catalogue
from worker.bucket.model_cache import ModelCache
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.model import LoadedModel
from worker.models.registry import ModelRegistry, parse_source

OPTIONS = "#vae={vae}#prediction=v#ztsnr"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder, and a checkpoint in one file that has no autoencoder."""
    made = tmp_path_factory.mktemp("models")
    folder, xl = build_tiny_model(made / "folder"), build_tiny_xl(made / "xl")
    vae = made / "much better.safetensors"
    weights = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    save_file({name: weight * 1.5 for name, weight in weights.items()}, vae)
    file = write_original_checkpoint(xl, made / "one.safetensors")
    save_file({k: v for k, v in load_file(file).items() if not k.startswith("first_stage_model.")}, file)
    return {
        "folder": f"{folder}{OPTIONS.format(vae=vae)}",
        "file": f"{file}#config={xl}{OPTIONS.format(vae=xl / 'vae' / 'diffusion_pytorch_model.safetensors')}",
    }


@pytest.fixture
def loaded_from_farm(tmp_path: Path) -> Callable[[str], LoadedModel]:
    def load(source: str) -> LoadedModel:
        storage, registry = FakeStorage(), ModelRegistry({})
        add(FakeLedger(), storage, "mine", source)
        catalogue = Catalogue(storage, ModelCache(tmp_path, storage, 10**9), registry, all_of_them=True)
        catalogue.refresh()
        return ModelLoader(place("cpu"), cache=tmp_path, stored=catalogue).load("mine", registry.source("mine"))

    return load


@pytest.mark.long
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_it_is_as_the_worker_s_own(
    sources: dict[str, str], loaded_from_farm: Callable[[str], LoadedModel], tmp_path: Path, kind: str
) -> None:
    source = parse_source(sources[kind])
    own, kept = ModelLoader(place("cpu"), cache=tmp_path).load("mine", source), loaded_from_farm(sources[kind])

    assert kept.scheduler_config == own.scheduler_config
    assert {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}.items() <= kept.scheduler_config.items()
    for part in ("unet", "vae"):
        ours, theirs = getattr(kept, part).state_dict(), getattr(own, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert source.options.vae is not None
    assert (kept.vae_file, kept.vae_sha256, kept.sha256) == (own.vae_file, own.vae_sha256, own.sha256)
    assert kept.vae_file == source.options.vae.name
    assert kept.vae_sha256 == hashlib.sha256(source.options.vae.read_bytes()).hexdigest()
    assert kept.source.startswith("farm:mine@")


@pytest.mark.long
def test_without_options_it_is_as_its_files_say(
    sources: dict[str, str], loaded_from_farm: Callable[[str], LoadedModel]
) -> None:
    kept = loaded_from_farm(sources["folder"].partition("#")[0])
    assert (kept.vae_file, kept.vae_sha256) == (None, None)
    assert kept.scheduler_config["prediction_type"] == "epsilon"

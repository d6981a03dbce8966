"""What is asked of the hub, and what is said when it does not answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError, LocalEntryNotFoundError

from farm.errors import ModelError, ModelUnavailable
from farm.layouts import weights_among
from tests.tiny import build_tiny_model, build_tiny_xl
from tests.worker.models.published import publish
from worker.models import hub
from worker.models.device import place
from worker.models.hub import HUB_CONFIG_FILES
from worker.models.loader import ModelLoader
from worker.models.registry import BUILT_IN, STABLE_DIFFUSION_1_4, Hub, Options

SD_1_5 = [
    *HUB_CONFIG_FILES,
    "v1-5-pruned.safetensors",
    "v1-5-pruned.ckpt",
    *(
        f"{folder}/{stem}{ending}"
        for folder, stem in (
            ("safety_checker", "model"),
            ("text_encoder", "model"),
            ("unet", "diffusion_pytorch_model"),
            ("vae", "diffusion_pytorch_model"),
        )
        for ending in (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
    ),
    "unet/diffusion_pytorch_model.non_ema.safetensors",
]
WHOLE = [
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]


@dataclass(frozen=True)
class File:
    path: str


@dataclass
class FakeHub:
    """Has these files, or no list of them; notes what is asked for."""

    directory: Path
    files: list[str] | None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def snapshot_download(self, repository: str, **options: Any) -> str:
        self.asked.append((repository, options))
        return str(self.directory)

    def get_cached_repo_tree(self, repository: str, **options: Any) -> list[File]:
        assert self.asked, "the list is there once something was downloaded"
        if self.files is None:
            raise CachedRepoTreeNotFoundError(f"{repository} {options}")
        return [File(path) for path in self.files]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    found = FakeHub(build_tiny_model(tmp_path / "model"), SD_1_5)
    monkeypatch.setattr(hub, "snapshot_download", found.snapshot_download)
    monkeypatch.setattr(hub, "get_cached_repo_tree", found.get_cached_repo_tree)
    return found


@pytest.fixture
def loader(tmp_path: Path) -> ModelLoader:
    return ModelLoader(place("cpu"), cache=tmp_path / "cache")


def test_a_hub_model_is_asked_for_by_revision_and_files(loader: ModelLoader, fake: FakeHub) -> None:
    loaded = loader.load("mine", Hub("owner/name", "abc123"))
    assert (loaded.source, loaded.revision) == ("hub:owner/name@abc123", "abc123")
    assert [repository for repository, _ in fake.asked] == ["owner/name"] * 2
    assert {options["revision"] for _, options in fake.asked} == {"abc123"}
    assert fake.asked[0][1]["allow_patterns"] == list(HUB_CONFIG_FILES)
    assert sorted(fake.asked[1][1]["allow_patterns"]) == sorted([*HUB_CONFIG_FILES, *WHOLE])


def test_an_autoencoder_that_is_given_is_not_downloaded(loader: ModelLoader, fake: FakeHub) -> None:
    vae = fake.directory / "vae" / "diffusion_pytorch_model.safetensors"
    loaded = loader.load("mine", Hub("owner/name", "abc123", Options(vae=vae)))
    assert loaded.source == f"hub:owner/name@abc123#vae={vae}"
    assert sorted(fake.asked[1][1]["allow_patterns"]) == sorted([*HUB_CONFIG_FILES, *WHOLE[:2]])


@pytest.mark.long
def test_all_of_sdxl_is_downloaded(loader: ModelLoader, tmp_path: Path, fake: FakeHub) -> None:
    """Each part in one precision, of a repository as SDXL is published: with OpenVINO's, Flax' and ONNX' beside."""
    model = build_tiny_xl(tmp_path / "xl")
    files = [str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()]
    weights = [file for file in files if file.endswith(".safetensors")]
    half = [file.replace(".safetensors", ".fp16.safetensors") for file in weights]
    others = [
        "sd_xl_base_1.0.safetensors",
        "unet/model.onnx",
        "text_encoder_2/flax_model.msgpack",
        "vae_1_0/config.json",
    ]
    fake.directory, fake.files = model, [*files, *half, *others]
    assert loader.load("xl", Hub("owner/name", "abc123")).family.name == "sdxl"
    asked = set(fake.asked[1][1]["allow_patterns"])
    assert set(files) <= asked, "all that it is loaded from"
    assert not asked & {*half, *others}


@pytest.mark.long
def test_what_is_in_the_cache_is_enough(loader: ModelLoader, fake: FakeHub) -> None:
    """Filled by hand, it has no list of what the hub has."""
    fake.files = None
    assert loader.load("mine", Hub("owner/name", "abc123")).name == "mine"
    assert len(fake.asked) == 1


@pytest.mark.long
def test_a_cache_of_exactly_these_files_serves_without_a_network(
    loader: ModelLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the hub's own library."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    snapshots = tmp_path / "hub" / "models--CompVis--stable-diffusion-v1-4" / "snapshots"
    snapshots.mkdir(parents=True)
    snapshot = publish(build_tiny_model(tmp_path / "built"), snapshots / STABLE_DIFFUSION_1_4.revision, "1.4")
    assert loader.load("sd14", STABLE_DIFFUSION_1_4).revision == STABLE_DIFFUSION_1_4.revision
    for path in snapshot.rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelError, match=r"the model 'sd14' in .* has no \.safetensors weights in unet"):
        loader.load("sd14", STABLE_DIFFUSION_1_4)


def test_one_precision_of_each_component_is_downloaded() -> None:
    assert sorted(weights_among(SD_1_5)) == sorted(WHOLE)
    half = [file for file in SD_1_5 if file not in WHOLE]
    assert sorted(weights_among(half)) == [file.replace(".safetensors", ".fp16.safetensors") for file in WHOLE]
    shards = [
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    ]
    assert set(weights_among([*half, *shards])) >= set(shards)


def test_the_hub_is_asked_for_texts_alone_besides() -> None:
    assert all(name.endswith((".json", ".txt")) for name in HUB_CONFIG_FILES)
    assert not any("safety" in name or "feature" in name for name in HUB_CONFIG_FILES)
    sd14 = BUILT_IN["sd14"]
    assert isinstance(sd14, Hub)
    assert len(sd14.revision) == 40


def test_without_a_network_the_hub_is_named(loader: ModelLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_args: Any, **_options: Any) -> str:
        raise LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder\nand more")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(
        ModelUnavailable, match=r"v1-4@133a\w* cannot be downloaded .*snapshot folder \(.*sd14=DIRECTORY\)"
    ):
        loader.load("sd14", STABLE_DIFFUSION_1_4)


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (["README.md", "dream_8.safetensors"], r"if dream_8\.safetensors in it is a whole checkpoint, download that"),
        (
            ["transformer/config.json", "unet/other.safetensors"],
            "use a text-to-image model of Stable Diffusion 1, 2 or XL",
        ),
    ],
)
def test_a_repository_that_is_no_model_is_told(loader: ModelLoader, fake: FakeHub, files: list[str], hint: str) -> None:
    fake.files = files
    with pytest.raises(ModelError, match=rf"owner/name@abc123 is no model in diffusers' layout: .* \({hint}"):
        loader.load("mine", Hub("owner/name", "abc123"))


def test_what_the_hub_does_not_have_is_not_waited_for(loader: ModelLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_args: Any, **_options: Any) -> str:
        raise HFValidationError("is no name of a repository")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match="is no name of a repository") as raised:
        loader.load("sd14", STABLE_DIFFUSION_1_4)
    assert not isinstance(raised.value, ModelUnavailable)

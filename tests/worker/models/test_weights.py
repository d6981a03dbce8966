"""Which files of a folder are read: precisions, shards, and none from elsewhere."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from farm.errors import ModelError
from farm.layouts import chosen
from tests.tiny import build_tiny_model
from tests.worker.models.test_loader import Opened
from worker.models.components import Components, read_directory
from worker.models.device import place

UNET, TEXT_ENCODER = "diffusion_pytorch_model", "model"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("built"))


@pytest.fixture
def model(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "model")


def read(model: Path) -> Components:
    return read_directory("tiny", model, place("cpu"))


def halve(model: Path, *, beside: bool = False) -> None:
    """Weights in half precision instead of those in full, or beside them."""
    for path in model.rglob("*.safetensors"):
        save_file(
            {key: value.half() for key, value in load_file(path).items()},
            path.with_suffix(".fp16.safetensors"),
            {"format": "pt"},
        )
        if not beside:
            path.unlink()


def split(model: Path, variant: str | None = None) -> None:
    """The UNet and the text encoder in shards, as the libraries write them."""
    for component, kind, size in (("unet", UNet2DConditionModel, "1MB"), ("text_encoder", CLIPTextModel, "50KB")):
        folder = model / component
        module = kind.from_pretrained(folder)
        for path in folder.glob("*.safetensors"):
            path.unlink()
        module.save_pretrained(folder, max_shard_size=size, variant=variant)
        assert len(list(folder.glob("*-00002-of-*.safetensors"))) == 1


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    parts = read(model)
    return {**parts.unet.state_dict(), **parts.encoders[0].module.state_dict()}


@pytest.mark.long
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_put_together(built: Path, model: Path, variant: str | None) -> None:
    split(model, variant)
    weights = weights_of(model)
    for key, value in weights_of(built).items():
        assert torch.equal(weights[key], value), key


@pytest.mark.long
def test_half_precision_alone_is_read(built: Path, model: Path) -> None:
    halve(model)
    weights = weights_of(model)
    for key, value in weights_of(built).items():
        assert torch.equal(weights[key], value.half().float()), key


def test_full_precision_is_preferred(built: Path, model: Path) -> None:
    halve(model, beside=True)
    weights = weights_of(model)
    for key, value in weights_of(built).items():
        assert torch.equal(weights[key], value), key


HUB = [f"{stem}{ending}" for stem in (UNET, "unrelated") for ending in (".safetensors", ".bin", ".non_ema.safetensors")]
SHARDS = [f"{UNET}-0000{number}-of-00002.safetensors" for number in (1, 2)]
HALF_SHARDS = [f"{UNET}.fp16-0000{number}-of-00002.safetensors" for number in (1, 2)]
OLD_HALF_SHARDS = [f"{UNET}-0000{number}-of-00002.fp16.safetensors" for number in (1, 2)]
INDEX, HALF_INDEX = f"{UNET}.safetensors.index.json", f"{UNET}.safetensors.index.fp16.json"

CHOICES: list[tuple[list[str], list[str]]] = [
    (HUB, [f"{UNET}.safetensors"]),
    ([f"{UNET}.fp16.safetensors", *HUB], [f"{UNET}.safetensors"]),
    ([f"{UNET}.fp16.safetensors", f"{UNET}.non_ema.safetensors"], [f"{UNET}.fp16.safetensors"]),
    ([*SHARDS, INDEX, *HALF_SHARDS, HALF_INDEX], [INDEX, *SHARDS]),
    ([*HALF_SHARDS, HALF_INDEX], [HALF_INDEX, *HALF_SHARDS]),
    ([*OLD_HALF_SHARDS, HALF_INDEX], [HALF_INDEX, *OLD_HALF_SHARDS]),
    ([*SHARDS], []),
    (["flax_model.msgpack", f"{UNET}.bin"], []),
]


@pytest.mark.parametrize(("names", "expected"), CHOICES, ids=range(len(CHOICES)))
def test_one_precision_is_chosen(names: list[str], expected: list[str]) -> None:
    assert list(chosen(names, UNET)) == expected


def rename_shard(to: Callable[[Path], str]) -> Callable[[Path], None]:
    """Let the index of the text encoder name its first shard so."""

    def spoil(model: Path) -> None:
        index = model / "text_encoder" / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        first = min(content["weight_map"].values())
        content["weight_map"] = {
            key: to(model) if shard == first else shard for key, shard in content["weight_map"].items()
        }
        index.write_text(json.dumps(content))

    return spoil


ASTRAY: dict[str, tuple[Callable[[Path], str], str]] = {
    "above": (lambda _: "../../outside.safetensors", r"names '\.\./\.\./outside\.safetensors' \(shards are .* in the"),
    "absolute": (lambda m: str(m.parent / "outside.safetensors"), "names '/"),
    "another folder": (lambda _: "../unet/diffusion_pytorch_model-00001-of-00002.safetensors", r"names '\.\./unet"),
    "below": (lambda _: "inner/model.safetensors", "names 'inner/"),
    "pickled": (lambda _: "weights.dat", r"names 'weights\.dat'"),
    "hidden": (lambda _: ".safetensors", r"names '\.safetensors'"),
    "missing": (lambda _: "model-00009.safetensors", r"lacks 1 of \d shards in .*, such as model-00009\.safetensors"),
    "a folder": (lambda _: "folder.safetensors", r"lacks 1 of \d shards in .*, such as folder\.safetensors"),
    "endless": (lambda _: "zero.safetensors", r"lacks 1 of \d shards in .*, such as zero\.safetensors"),
}


@pytest.mark.long
@pytest.mark.parametrize("case", ASTRAY)
def test_no_shard_comes_from_elsewhere(model: Path, tmp_path: Path, case: str) -> None:
    split(model)
    mark = tmp_path / "ran"
    first = min((model / "text_encoder").glob("*.safetensors"))
    shutil.copy(first, tmp_path / "outside.safetensors")
    (model / "text_encoder" / "weights.dat").write_bytes(pickle.dumps(Opened(mark)))
    (model / "text_encoder" / "folder.safetensors").mkdir()
    (model / "text_encoder" / "zero.safetensors").symlink_to("/dev/zero")
    to, message = ASTRAY[case]
    rename_shard(to)(model)
    with pytest.raises(ModelError, match=message):
        read(model)
    assert not mark.exists()


MALFORMED = ("[]", "{", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 100_000)


@pytest.mark.long
@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_an_index_that_is_none_is_told(model: Path, text: str) -> None:
    split(model)
    (model / "unet" / f"{UNET}.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"index\.json of the model 'tiny' is not an index of shards"):
        read(model)


def test_a_shard_that_lacks_what_the_index_says_is_told(model: Path) -> None:
    split(model)
    path = min((model / "unet").glob("*.safetensors"))
    weights = load_file(path)
    lost = min(weights)
    save_file({key: value for key, value in weights.items() if key != lost}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=rf"lacks '{lost}' in unet/\S+00001-of-\d+\.safetensors, which its index"):
        read(model)


def test_an_index_beside_whole_weights_is_not_read(model: Path) -> None:
    (model / "unet" / f"{UNET}.safetensors.index.json").write_text('{"weight_map": {"x": "../x.safetensors"}}')
    (model / "text_encoder" / "model.safetensors.index.json").write_text('{"weight_map": {"x": "/etc/passwd"}}')
    assert read(model)


def test_weights_of_another_name_are_named(model: Path) -> None:
    path = model / "vae" / f"{UNET}.safetensors"
    path.rename(path.with_name("vae-ft-mse.safetensors"))
    with pytest.raises(ModelError, match=rf"has no {UNET}\.safetensors in .*vae, but vae-ft-mse\.safetensors"):
        read(model)


def test_files_of_the_hubs_cache_are_links(built: Path, model: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(path for path in model.rglob("*") if path.is_file()):
        path.symlink_to(path.rename(blobs / str(number)))
    assert weights_of(model).keys() == weights_of(built).keys()


def test_a_tokenizer_cannot_name_other_files(model: Path, tmp_path: Path) -> None:
    shutil.copy(model / "tokenizer" / "tokenizer.json", tmp_path / "tokenizer.1.0.json")
    (model / "tokenizer" / "tokenizer.json").write_text("{")
    path = model / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fast_tokenizer_files": ["../../tokenizer.1.0.json"]}))
    with pytest.raises(ModelError, match=r"the model 'tiny' in .* cannot be loaded"):
        read(model)

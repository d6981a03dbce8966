"""Folders that are no text-to-image model of Stable Diffusion: each is told for what it is, and at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from farm.errors import ModelError
from tests.tiny import build_tiny_model
from tests.worker.models.original_layout import write_original_checkpoint
from tests.worker.models.published import publish
from worker.models import components, weights
from worker.models.components import read_directory
from worker.models.device import place

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"
ONLY = r"\(use a text-to-image model of Stable Diffusion 1, 2 or XL\)"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("built"))


@pytest.fixture
def release(built: Path, tmp_path: Path) -> Path:
    """The tiny model as Stable Diffusion 1.5 is published, to be spoiled."""
    return publish(built, tmp_path / "model", "1.5")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def write_config(path: Path, **changes: Any) -> None:
    """A `None` takes the key out."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def index(**changes: Any) -> Callable[[Path], None]:
    return lambda model: write_config(model / "model_index.json", **changes)


def unet(**changes: Any) -> Callable[[Path], None]:
    return lambda model: write_config(model / "unet" / "config.json", **changes)


OTHER_FAMILIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "half of SDXL": (unet(addition_embed_type="text_time"), rf"has no text_encoder_2 in its model_index.json {ONLY}"),
    "Kandinsky": (unet(addition_embed_type="image"), rf"needs more than a prompt: addition_embed_type {ONLY}"),
    "InstructPix2Pix": (
        unet(in_channels=8),
        rf"the model 'x' is a model that edits pictures by instructions: its UNet reads 8 channels {ONLY}",
    ),
    "an upscaler": (unet(in_channels=7, num_class_embeds=1000), "is an upscaler"),
    "depth": (unet(in_channels=5), "is guided by depth"),
    "LCM": (unet(time_cond_proj_dim=256), f"needs more than a prompt: time_cond_proj_dim {ONLY}"),
    "unCLIP": (unet(class_embed_type="projection"), "needs more than a prompt: class_embed_type"),
    "Flux": (
        index(_class_name="FluxPipeline", unet=None, transformer=["diffusers", "FluxTransformer2DModel"]),
        rf"the model 'x' in \S+ has no unet in its model_index.json: it is a FluxPipeline {ONLY}",
    ),
    "the refiner of SDXL": (
        index(_class_name="StableDiffusionXLImg2ImgPipeline", text_encoder=[None, None]),
        r"has no text_encoder in its model_index.json: it is a StableDiffusionXLImg2ImgPipeline",
    ),
    "the refiner of SDXL as published": (
        index(
            _class_name="StableDiffusionXLImg2ImgPipeline", text_encoder=[None, None], requires_aesthetics_score=True
        ),
        r"the model 'x' in \S+ is the refiner of SDXL, which only refines what .* made \(use the base model\)",
    ),
    "ONNX": (
        index(_class_name="StableDiffusionOnnxPipeline", unet=["diffusers", "OnnxRuntimeModel"]),
        r"has as its unet OnnxRuntimeModel, not UNet2DConditionModel: it is a StableDiffusionOnnxPipeline",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("case", OTHER_FAMILIES)
def test_another_family_is_told_before_its_weights_are_read(
    release: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    spoil, message = OTHER_FAMILIES[case]
    spoil(release)
    monkeypatch.setattr(weights, "find", lambda *_: pytest.fail("weights were looked for"))
    monkeypatch.setattr(components, "staged", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ModelError, match=message):
        read_directory("x", release, place("cpu"))


def a_snapshot(folder: Path, built: Path) -> None:
    shutil.copytree(built, folder / "snapshots" / "abc")


def a_folder_in_a_folder(folder: Path, built: Path) -> None:
    shutil.copytree(built, folder / "mine")


def a_component(folder: Path, built: Path) -> None:
    shutil.copytree(built / "unet", folder, dirs_exist_ok=True)


def a_text_encoder(folder: Path, built: Path) -> None:
    shutil.copytree(built / "text_encoder", folder, dirs_exist_ok=True)


def a_checkpoint(folder: Path, built: Path) -> None:
    write_original_checkpoint(built, folder / "dream.safetensors")


def a_lora(folder: Path, _: Path) -> None:
    save_file({"unet.mid.attn1.to_q.lora.down.weight": torch.zeros(2, 2)}, folder / "pytorch_lora_weights.safetensors")


def pickled(folder: Path, _: Path) -> None:
    (folder / "v1-5.ckpt").touch()


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (a_snapshot, r"has no \S+/folder/model_index\.json \(the folder \S+/folder/snapshots/abc has one\)"),
        (a_folder_in_a_folder, r"the folder \S+/folder/mine has one"),
        (a_component, r"; it is only a UNet2DConditionModel \(the whole model is needed"),
        (a_text_encoder, r"; it is only a CLIPTextModel \(the whole model is needed"),
        (a_checkpoint, r"\(a model in one file is named by that file: x=\S+/folder/dream\.safetensors\)"),
        (a_lora, r"folder/pytorch_lora_weights\.safetensors is a LoRA"),
        (pickled, r", and v1-5\.ckpt is pickled, which can run code \(if you trust it"),
    ],
)
def test_a_folder_without_an_index_is_told_for_what_it_holds(
    built: Path, folder: Path, fill: Callable[[Path, Path], None], message: str
) -> None:
    fill(folder, built)
    with pytest.raises(ModelError, match=message):
        read_directory("x", folder, place("cpu"))


@pytest.mark.parametrize("file", ["tokenizer/vocab.json", "tokenizer/merges.txt"])
def test_a_pointer_in_place_of_a_tokenizer_is_told(release: Path, file: str) -> None:
    (release / file).write_text(LFS_POINTER)
    with pytest.raises(
        ModelError, match=rf"{file} of the model 'x' cannot be read: it is a pointer of Git LFS.*lfs pu"
    ):
        read_directory("x", release, place("cpu"))


def test_an_ending_in_capitals_is_seen(release: Path) -> None:
    path = release / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".SAFETENSORS"))
    with pytest.raises(ModelError, match=r"has no \S+\.safetensors in unet, but \S+\.SAFETENSORS \(weights are"):
        read_directory("x", release, place("cpu"))


def test_what_an_index_says_of_itself_is_no_part(release: Path) -> None:
    index(_ignore_files=["safety_checker/pytorch_model.bin"], _name_or_path="owner/name", image_encoder=[None, None])(
        release
    )
    assert read_directory("x", release, place("cpu"))

"""SDXL in one file and in folders: the same model however it lies there, and the same as diffusers reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from farm.errors import ModelError
from tests.tiny import build_tiny_xl
from tests.worker.diffusion.loop import Job, distance, render, render_by_diffusers
from tests.worker.models.original_layout import write_original_checkpoint
from worker.models.components import Components, read_checkpoint, read_directory
from worker.models.device import Placement, place
from worker.models.loader import ModelLoader
from worker.models.registry import LocalDirectory, SingleFile

FIRST, SECOND = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
JOB = Job("euler", steps=3, seed=5, negative="blue", width=96)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_xl(tmp_path_factory.mktemp("xl"))


@pytest.fixture(scope="module")
def checkpoint(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_original_checkpoint(built, tmp_path_factory.mktemp("checkpoint") / "xl.safetensors")


@pytest.fixture
def loader(tmp_path: Path) -> ModelLoader:
    return ModelLoader(place("cpu"), cache=tmp_path / "cache")


def assert_same(left: Components, right: Components) -> None:
    assert left.modules.keys() == right.modules.keys() == {"unet", "vae", "text_encoder", "text_encoder_2"}
    for part, module in left.modules.items():
        expected = right.modules[part].state_dict()
        for key, value in module.state_dict().items():
            assert torch.equal(value, expected[key]), f"{part}.{key}"


@pytest.mark.long
def test_a_checkpoint_is_the_same_model_as_its_folder(loader: ModelLoader, built: Path, checkpoint: Path) -> None:
    assert_same(read_checkpoint("xl", checkpoint, built, place("cpu")), read_directory("xl", built, place("cpu")))
    loaded, folder = (loader.load("xl", source) for source in (SingleFile(checkpoint, built), LocalDirectory(built)))
    assert loaded.family.name == "sdxl"
    picture = render(loaded, JOB)
    assert distance(picture, render(folder, JOB)) < 1e-4, "but for where weights lie in memory"
    assert distance(picture, render_by_diffusers(folder, JOB)) < 1e-4


def test_diffusers_reads_the_same_of_a_checkpoint(built: Path, checkpoint: Path) -> None:
    pipeline = StableDiffusionXLPipeline.from_single_file(str(checkpoint), config=str(built), local_files_only=True)
    for part, module in read_checkpoint("xl", checkpoint, built, place("cpu")).modules.items():
        expected = getattr(pipeline, part).state_dict()
        assert module.state_dict().keys() == expected.keys()
        for key, value in module.state_dict().items():
            assert torch.equal(value, expected[key]), f"{part}.{key}"


def test_no_weights_are_drawn_and_none_stay_in_the_file(built: Path, checkpoint: Path, tmp_path: Path) -> None:
    """They are made at once in the precision in which they compute, and are the model's own."""
    half = Placement(torch.device("cpu"), torch.bfloat16, torch.float32, False, False)
    file = tmp_path / "xl.safetensors"
    save_file({key: value.to(torch.bfloat16) for key, value in load_file(checkpoint).items()}, file)
    before = torch.get_rng_state()
    parts = read_checkpoint("xl", file, built, half)
    assert torch.equal(torch.get_rng_state(), before)
    for part, module in parts.modules.items():
        expected = torch.float32 if part == "vae" else torch.bfloat16
        assert {weight.dtype for weight in module.parameters()} == {expected}
    weights = {key: value.clone() for key, value in parts.unet.state_dict().items()}
    with file.open("r+b") as opened:
        opened.seek(-file.stat().st_size // 2, 2)
        opened.write(b"\xff" * (file.stat().st_size // 2))
    assert all(torch.equal(value, weights[key]) for key, value in parts.unet.state_dict().items())


def turned(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**weights, SECOND + "text_projection.weight": weights.pop(SECOND + "text_projection").T.contiguous()}


def with_leftovers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        **weights,
        FIRST + "embeddings.position_ids": torch.arange(77)[None],
        SECOND + "logit_scale": torch.tensor(4.6),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "denoiser.sigmas": torch.zeros(1000),
        "model_ema.decay": torch.tensor(0.9999),
    }


@pytest.mark.long
@pytest.mark.parametrize("change", [turned, with_leftovers])
def test_checkpoints_as_tools_leave_them(
    built: Path, checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    file = tmp_path / "changed.safetensors"
    save_file(change(load_file(checkpoint)), file)
    assert_same(read_checkpoint("xl", file, built, place("cpu")), read_directory("xl", built, place("cpu")))


@pytest.mark.long
@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("conditioner.embedders.1.", r"has no second text encoder \(save it again with its second text encoder in it"),
        ("conditioner.embedders.0.", r"has no text encoder \(save it again"),
        ("first_stage_model.", r"has no autoencoder \(name one: xl=\S+less\.safetensors#vae=FILE\)"),
        (SECOND + "text_projection", r"lacks 1 weights of the text_encoder_2, such as text_projection\.weight"),
        ("model.diffusion_model.label_emb.0.0", r"lacks weights of the unet, such as label_emb\.0\.0\.weight"),
    ],
)
def test_what_is_missing_is_told(built: Path, checkpoint: Path, tmp_path: Path, prefix: str, message: str) -> None:
    weights = {key: value for key, value in load_file(checkpoint).items() if not key.startswith(prefix)}
    save_file(weights, tmp_path / "less.safetensors")
    with pytest.raises(ModelError, match=message):
        read_checkpoint("xl", tmp_path / "less.safetensors", built, place("cpu"))


@pytest.mark.long
def test_folders_of_half_precision_and_in_shards(built: Path, tmp_path: Path) -> None:
    """As `save_pretrained` writes them with `variant="fp16"`."""
    half = tmp_path / "half"
    pipeline = StableDiffusionXLPipeline.from_pretrained(built, local_files_only=True).to(torch.float16)
    pipeline.save_pretrained(half, variant="fp16", max_shard_size="40KB")
    names = {path.name for path in half.rglob("*.safetensors")}
    assert not names & {"model.safetensors", "diffusion_pytorch_model.safetensors"}
    assert len(list((half / "text_encoder_2").glob("model.fp16-*-of-*.safetensors"))) > 1
    whole = read_directory("xl", built, place("cpu"))
    for part, module in read_directory("xl", half, place("cpu")).modules.items():
        expected = whole.modules[part].state_dict()
        for key, value in module.state_dict().items():
            assert torch.equal(value, expected[key].half().float()), f"{part}.{key}"

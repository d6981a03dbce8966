"""One file that holds a whole model: put together by published configurations, and told for what it is if it is not."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from farm.errors import ModelError
from farm.jobs.spec import SAMPLERS
from tests.tiny import PNDM_CONFIG, build_tiny_model
from tests.worker.models.original_layout import EncoderNames, averaged, write_original_checkpoint
from tests.worker.models.published import RELEASES, publish
from worker.diffusion.plans import plan
from worker.diffusion.prompts import PromptEncoder
from worker.diffusion.schedules import read_schedule
from worker.models.components import Components, read_checkpoint, read_directory
from worker.models.device import place
from worker.models.hub import HUB_CONFIG_FILES
from worker.models.loader import ModelLoader
from worker.models.registry import LocalDirectory, SingleFile, parse_source

UNET = "model.diffusion_model."
CLIP = "cond_stage_model.transformer.text_model."


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("built"), scheduler_config=PNDM_CONFIG)


@pytest.fixture(scope="session")
def checkpoint(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_original_checkpoint(built, tmp_path_factory.mktemp("checkpoint") / "one.safetensors")


@pytest.fixture
def loader(tmp_path: Path) -> ModelLoader:
    return ModelLoader(place("cpu"), cache=tmp_path / "cache")


def folder(directory: Path) -> Components:
    return read_directory("tiny", directory, place("cpu"))


def assert_same(left: Components, right: Components) -> None:
    assert left.modules.keys() == right.modules.keys()
    for component, module in left.modules.items():
        weights = module.state_dict()
        for key, value in right.modules[component].state_dict().items():
            assert torch.equal(weights[key], value), f"{component}.{key}"
    prompt = "a red cat, an otter's long neck"
    left_text, right_text = (PromptEncoder(parts.encoders).encode(prompt) for parts in (left, right))
    assert torch.equal(left_text.embedding, right_text.embedding)


@pytest.mark.long
def test_a_checkpoint_is_the_same_model_as_its_folder(loader: ModelLoader, built: Path, checkpoint: Path) -> None:
    loaded, expected = read_checkpoint("one", checkpoint, built, place("cpu")), folder(built)
    assert_same(loaded, expected)
    for sampler in SAMPLERS:
        left, right = (read_schedule(parts.scheduler_config, sampler, 20) for parts in (loaded, expected))
        np.testing.assert_array_equal(plan(left).table, plan(right).table)
    model = loader.load("one", SingleFile(checkpoint, built))
    assert model.latent_shape == (4, 8, 8)
    assert model.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert loader.load("tiny", LocalDirectory(built)).sha256 is None


@pytest.mark.long
@pytest.mark.parametrize("release", RELEASES)
def test_a_published_configuration_suffices(built: Path, checkpoint: Path, tmp_path: Path, release: str) -> None:
    """As the farm downloads it, without weights and without the parts that are never loaded."""
    directory = publish(built, tmp_path / "published", release)
    whole = folder(directory)
    for path in directory.rglob("*.safetensors"):
        path.unlink()
    files = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    of_sdxl = {file for file in HUB_CONFIG_FILES if "_2/" in file}
    assert files == set(HUB_CONFIG_FILES) - of_sdxl - {"tokenizer/tokenizer.json"}, "none of them has it"
    loaded = read_checkpoint("one", checkpoint, directory, place("cpu"))
    assert_same(loaded, whole)
    assert_same(loaded, folder(built))
    assert loaded.scheduler_config == whole.scheduler_config == RELEASES[release][1]


@pytest.mark.long
@pytest.mark.parametrize("layout", ["bare", "open_clip"])
def test_the_text_encoders_of_other_releases(built: Path, tmp_path: Path, layout: EncoderNames) -> None:
    file = write_original_checkpoint(built, tmp_path / "one.safetensors", text_encoder=layout)
    assert_same(read_checkpoint("one", file, built, place("cpu")), folder(built))


def with_weights(checkpoint: Path, file: Path, changes: dict[str, Tensor | None]) -> Path:
    """The checkpoint with some weights set, or left out where there is None."""
    weights = {**load_file(checkpoint), **changes}
    save_file({key: value.contiguous() for key, value in weights.items() if value is not None}, file)
    return file


V = {"prediction_type": "v_prediction"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
MARKS: dict[tuple[str, ...], dict[str, Any]] = {(): {}, ("v_pred",): V, ("v_pred", "ztsnr"): {**V, **ZERO_SNR}}


@pytest.mark.long
@pytest.mark.parametrize("marks", MARKS)
def test_a_checkpoint_says_what_it_predicts(
    built: Path, checkpoint: Path, tmp_path: Path, marks: tuple[str, ...]
) -> None:
    changes: dict[str, Tensor | None] = {mark: torch.empty(0) for mark in marks}
    loaded = read_checkpoint("one", with_weights(checkpoint, tmp_path / "v.safetensors", changes), built, place("cpu"))
    assert loaded.scheduler_config == {**PNDM_CONFIG, "prediction_type": "epsilon", **MARKS[marks]}
    for sampler in SAMPLERS:
        schedule = read_schedule(loaded.scheduler_config, sampler, 20)
        assert schedule.prediction == loaded.scheduler_config["prediction_type"]
        assert (schedule.sigma_ve[0] > 4000) == ("ztsnr" in marks), "the first step begins with nothing but noise"


@pytest.mark.long
@pytest.mark.parametrize(
    ("said", "prediction"), [("v", "v_prediction"), ("v_prediction", "v_prediction"), ("epsilon", "epsilon")]
)
def test_a_checkpoints_metadata_may_say_it(
    built: Path, checkpoint: Path, tmp_path: Path, said: str, prediction: str
) -> None:
    file = tmp_path / "said.safetensors"
    save_file(load_file(checkpoint), file, {"modelspec.prediction_type": said})
    assert read_checkpoint("one", file, built, place("cpu")).scheduler_config["prediction_type"] == prediction


def test_zero_snr_means_nothing_without_v(
    built: Path, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = with_weights(checkpoint, tmp_path / "odd.safetensors", {"ztsnr": torch.empty(0)})
    with caplog.at_level(logging.WARNING):
        loaded = read_checkpoint("one", file, built, place("cpu"))
    assert "rescale_betas_zero_snr" not in loaded.scheduler_config
    assert "says 'ztsnr' without 'v_pred'" in caplog.text


def test_an_ending_in_capitals(built: Path, checkpoint: Path, tmp_path: Path) -> None:
    file = shutil.copy(checkpoint, tmp_path / "ONE.SAFETENSORS")
    source = parse_source(f"{file}#config={built}")
    assert source == SingleFile(Path(file), built)
    read_checkpoint("one", Path(file), built, place("cpu"))


def in_precision(dtype: torch.dtype) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {key: value.to(dtype) for key, value in weights.items()}


def averaged_beside(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    average = {averaged(key): value + 1 for key, value in weights.items() if key.startswith(UNET)}
    return {**weights, **average, "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(1)}


def averaged_alone(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {averaged(key) if key.startswith(UNET) else key: value for key, value in weights.items()}


def averaged_and_a_part(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As it was before the training ended, and not all of it."""
    first = UNET + "input_blocks.0.0.weight"
    return {**averaged_alone(weights), first: weights[first] + 1}


def with_leftovers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    numbers = torch.arange(77)[None]
    return {
        **weights,
        CLIP + "embeddings.position_ids": numbers,
        "betas": torch.zeros(1000),
        "first_stage_model.loss.logvar": torch.zeros(()),
        "control_model_of_old": torch.zeros(1),
        "scale_factor": torch.tensor(0.18215),
    }


@pytest.mark.long
@pytest.mark.parametrize("change", [averaged_beside, averaged_alone, averaged_and_a_part, with_leftovers])
def test_checkpoints_as_tools_leave_them(
    built: Path, checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    file = tmp_path / "left.safetensors"
    save_file({key: value.contiguous() for key, value in change(load_file(checkpoint)).items()}, file)
    assert_same(read_checkpoint("one", file, built, place("cpu")), folder(built))


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_any_precision_of_floating_point(built: Path, checkpoint: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    file = tmp_path / "low.safetensors"
    save_file(in_precision(dtype)(load_file(checkpoint)), file)
    whole = folder(built)
    for component, module in read_checkpoint("one", file, built, place("cpu")).modules.items():
        expected = whole.modules[component].state_dict()
        for key, value in module.state_dict().items():
            assert torch.equal(value, expected[key].to(dtype).float()), f"{component}.{key}"


def test_whole_numbers_are_quantised(built: Path, checkpoint: Path, tmp_path: Path) -> None:
    key = UNET + "out.2.weight"
    file = with_weights(checkpoint, tmp_path / "whole.safetensors", {key: load_file(checkpoint)[key].to(torch.int8)})
    with pytest.raises(ModelError, match=r"conv_out\.weight of the unet is quantised: it has numbers of torch\.int8"):
        read_checkpoint("one", file, built, place("cpu"))


@pytest.mark.long
def test_a_header_that_names_more_than_there_is_takes_no_memory(built: Path, tmp_path: Path) -> None:
    """A header may be as large as the library allows, and may name anything: what it names must be there."""
    file = tmp_path / "bomb.safetensors"
    for header in (
        b'{"x":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,8]}}',
        b'{"x":{"dtype":"F32","shape":[1073741824],"data_offsets":[0,4294967296]}}',
        b"[" * 100_000,
    ):
        file.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(ModelError, match=r"bomb\.safetensors cannot be loaded: "):
            read_checkpoint("one", file, built, place("cpu"))
    save_file({str(number): torch.empty(0) for number in range(50_001)}, file)
    with pytest.raises(ModelError, match="it names 50,001 weights, and no model has more than 50,000"):
        read_checkpoint("one", file, built, place("cpu"))
    file.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match=r"bomb\.safetensors cannot be loaded: it is cut short or damaged"):
        read_checkpoint("one", file, built, place("cpu"))


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (UNET + "out.2.bias", r"lacks 1 weights of the unet, such as conv_out\.bias"),
        ("first_stage_model.decoder.conv_out.bias", r"lacks 1 weights of the vae, such as decoder\.conv_out\.bias"),
        (CLIP + "final_layer_norm.weight", r"lacks 1 weights of the text_encoder, such as \S*final_layer_norm\.weight"),
        (CLIP + "embeddings.position_embedding.weight", "lacks 1 weights of the text_encoder"),
        (UNET + "input_blocks.0.0.weight", r"lacks 1 weights of the unet, such as conv_in\.weight"),
    ],
)
def test_an_incomplete_checkpoint_is_refused(
    built: Path, checkpoint: Path, tmp_path: Path, lost: str, message: str
) -> None:
    file = with_weights(checkpoint, tmp_path / "less.safetensors", {lost: None})
    with pytest.raises(ModelError, match=message):
        read_checkpoint("one", file, built, place("cpu"))


def test_a_weight_of_another_shape_is_named(built: Path, checkpoint: Path, tmp_path: Path) -> None:
    file = with_weights(checkpoint, tmp_path / "odd.safetensors", {UNET + "out.2.bias": torch.zeros(6)})
    with pytest.raises(ModelError, match=r"conv_out\.bias of the unet is 6, but by its configuration 4 .*#config="):
        read_checkpoint("one", file, built, place("cpu"))


def test_another_generation_is_told(built: Path, checkpoint: Path, tmp_path: Path) -> None:
    key = next(key for key in load_file(checkpoint) if key.endswith("attn2.to_k.weight"))
    file = with_weights(checkpoint, tmp_path / "two.safetensors", {key: torch.zeros(32, 1024)})
    expected = r"is Stable Diffusion 2: it reads texts of width 1024, .* texts of width 32 \(leave out #config\)"
    with pytest.raises(ModelError, match=expected):
        read_checkpoint("one", file, built, place("cpu"))
    file = with_weights(checkpoint, tmp_path / "labels.safetensors", {UNET + "label_emb.0.0.weight": torch.zeros(2, 2)})
    expected = r"is of another architecture: it reads texts of width 32 and more, .*#config=DIRECTORY"
    with pytest.raises(ModelError, match=expected):
        read_checkpoint("one", file, built, place("cpu"))


def only(prefix: str, *, bare: bool = False) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {
        key.removeprefix(prefix) if bare else key: value for key, value in weights.items() if key.startswith(prefix)
    }


def without(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {key: value for key, value in weights.items() if not key.startswith(prefix)}


def named(*keys: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda _: {key: torch.zeros(4, 4, 1) for key in keys}


def of_channels(count: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {**weights, UNET + "input_blocks.0.0.weight": torch.zeros(32, count, 3, 3)}


OTHERS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "LoRA of kohya": (
        named("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"),
        "is a LoRA, .*farm loras add",
    ),
    "LoRA of peft": (named("unet.mid_block.attentions.0.to_q.lora_A.weight"), "is a LoRA"),
    "LyCORIS": (named("lycoris_mid_block.hada_w1_a"), "is a LoRA"),
    "ControlNet": (named("control_model.input_hint_block.0.weight"), "is a ControlNet"),
    "IP-Adapter": (named("image_proj.proj.weight"), "is an IP-Adapter"),
    "T2I-Adapter": (named("body.0.block1.weight"), "is a T2I-Adapter"),
    "motion module": (named("down_blocks.0.motion_modules.0.temporal_transformer.norm.bias"), "is a motion module"),
    "SVD": (named(UNET + "input_blocks.1.0.time_stack.in_layers.0.weight"), "is a model that makes videos"),
    "ESRGAN": (named("body.0.rdb1.conv1.weight"), r"is an upscaler of finished pictures \(ESRGAN\)"),
    "ESRGAN of 2018": (named("model.1.sub.0.RDB1.conv1.0.weight"), "is an upscaler of finished pictures"),
    "the refiner of SDXL": (
        lambda w: {
            **only(UNET)(w),
            UNET + "label_emb.0.0.weight": torch.zeros(2, 2),
            "conditioner.embedders.0.model.ln_final.bias": torch.zeros(2),
        },
        r"is the refiner of SDXL, .*not a checkpoint that can be loaded \(use the base model\)",
    ),
    "Playground 2.5": (lambda w: {**w, "edm_mean": torch.zeros(1, 4, 1, 1)}, r"is of noise levels of its own \(EDM\)"),
    "LCM": (lambda w: {**w, UNET + "time_embed.cond_proj.weight": torch.zeros(2, 2)}, "is a latent consistency model"),
    "CLIP's vision": (named("vision_model.embeddings.patch_embedding.weight"), "is an encoder of pictures"),
    "T5": (named("encoder.block.0.layer.0.SelfAttention.k.weight"), r"is a text encoder \(T5\)"),
    "UNet of SDXL": (named("add_embedding.linear_1.weight"), "is only a UNet of SDXL, in diffusers' layout"),
    "SD 3": (named(UNET + "joint_blocks.0.x_block.attn.qkv.weight"), "is Stable Diffusion 3"),
    "Flux": (named("double_blocks.0.img_attn.norm.key_norm.scale"), "is Flux"),
    "quantised": (lambda w: {**w, UNET + "out.2.weight.absmax": torch.zeros(1)}, "is quantised"),
    "inpainting": (of_channels(9), r"conv_in\.weight of the unet is 32×9×3×3, but by its configuration 32×4×3×3"),
    "InstructPix2Pix": (of_channels(8), "edits pictures by instructions"),
    "embedding": (lambda _: {"emb_params": torch.zeros(2, 32)}, "is a textual inversion"),
    "VAE": (only("first_stage_model."), r"is only an autoencoder \(VAE\) \(the whole model is needed"),
    "VAE of its own": (only("first_stage_model.", bare=True), r"is only an autoencoder \(VAE\)"),
    "text encoder": (only("cond_stage_model."), "is only a text encoder"),
    "UNet": (only(UNET, bare=True), "is only a UNet"),
    "UNet with its prefix": (only(UNET), r"is only a UNet \(the whole model is needed"),
    "no VAE": (without("first_stage_model."), r"has no autoencoder \(name one: one=/\S+/other\.safetensors#vae=FILE\)"),
    "no text encoder": (without("cond_stage_model."), r"has no text encoder \(save it again with"),
    "another architecture": (
        lambda w: {**without(UNET)(w), UNET + "layers.0.attention.weight": torch.zeros(2)},
        r"is of another architecture: its weights have names such as 'model\.diffusion_model\.layers",
    ),
    "prefixed": (
        lambda w: {f"state_dict.{key}": value for key, value in w.items()},
        r"is not a checkpoint of Stable Diffusion: its weights have names such as 'state_dict\.",
    ),
    "text encoder of transformers": (only("cond_stage_model.transformer.", bare=True), "is only a text encoder"),
    "something else": (named("layers.0.weight"), "is not a checkpoint of Stable Diffusion: .* 'layers.0.weight'"),
    "nothing": (lambda _: {}, "is a file without any weights"),
}


@pytest.mark.long
@pytest.mark.parametrize("case", OTHERS)
def test_other_files_are_told_for_what_they_are(built: Path, checkpoint: Path, tmp_path: Path, case: str) -> None:
    change, message = OTHERS[case]
    file = tmp_path / "other.safetensors"
    save_file({key: value.contiguous() for key, value in change(load_file(checkpoint)).items()}, file)
    with pytest.raises(ModelError, match=message):
        read_checkpoint("one", file, built, place("cpu"))


DISGUISED = {
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n": "a pointer of Git LFS, .*git lfs pull",
    "<!DOCTYPE html><html><head><title>Log in</title>": r"a web page, not the file itself \(the download wanted",
    "\n <html>": "a web page",
    "not weights at all": "it is cut short or damaged, with 18 bytes",
    "": "it is empty",
}


@pytest.mark.parametrize("text", DISGUISED)
def test_what_is_no_file_of_weights_is_told(built: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "text.safetensors"
    file.write_text(text)
    with pytest.raises(ModelError, match=rf"text\.safetensors cannot be loaded: .*{DISGUISED[text]}"):
        read_checkpoint("one", file, built, place("cpu"))


def test_a_long_header_is_not_taken_for_a_pickle(built: Path, tmp_path: Path) -> None:
    """Its first bytes say 640, as a pickle's may."""
    file = tmp_path / "odd.safetensors"
    file.write_bytes((640).to_bytes(8, "little") + b"{" + b"x" * 700)
    with pytest.raises(ModelError, match=r"odd\.safetensors cannot be loaded: (?!it is pickled)"):
        read_checkpoint("one", file, built, place("cpu"))


def test_a_checkpoint_cut_short_is_told(built: Path, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "half.safetensors"
    file.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"half\.safetensors cannot be loaded: "):
        read_checkpoint("one", file, built, place("cpu"))


def test_a_configuration_is_bounded_too(built: Path, checkpoint: Path, tmp_path: Path) -> None:
    config = shutil.copytree(built, tmp_path / "config")
    path = config / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layers_per_block": 10**9}))
    with pytest.raises(ModelError, match="the unet of the model 'one' says layers_per_block = 1000000000"):
        read_checkpoint("one", checkpoint, config, place("cpu"))

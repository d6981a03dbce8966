"""The configurations that come along: of the published sizes, and enough to tell and read a file of full size."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    create_unet_diffusers_config_from_ldm,
    create_vae_diffusers_config_from_ldm,
    infer_diffusers_model_type,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from farm.errors import ModelError, ModelUnavailable
from tests.tiny import PNDM_CONFIG, build_tiny_model
from tests.worker.models.headers import empty_modules, original_shapes, write_header
from tests.worker.models.original_layout import UNET, averaged, read_config, write_original_checkpoint
from tests.worker.models.published import RELEASES
from worker.diffusion.schedules import unusable
from worker.models import architecture as architecture_module
from worker.models import hub, kinds, layout
from worker.models.architecture import SHIPPED, configuration, lay_out
from worker.models.device import place
from worker.models.ema import averaged_unet
from worker.models.loader import ModelLoader
from worker.models.original import Original, read_original
from worker.models.prediction import TELLING
from worker.models.registry import Options, SingleFile
from worker.models.weights import Shapes, as_meta

ROOT = Path(__file__).parents[3]
ARCHITECTURES = ("sd1", "sd2", "sd2-v", "sdxl")

CLIP_L, AUTOENCODER = (196, 123_060_480), (248, 83_653_863)
PUBLISHED: dict[str, dict[str, tuple[int, int]]] = {
    "sd1": {"unet": (686, 859_520_964), "vae": AUTOENCODER, "text_encoder": CLIP_L},
    "sd2": {"unet": (686, 865_910_724), "vae": AUTOENCODER, "text_encoder": (372, 340_387_840)},
    "sd2-v": {"unet": (686, 865_910_724), "vae": AUTOENCODER, "text_encoder": (372, 340_387_840)},
    "sdxl": {
        "unet": (1_680, 2_567_463_684),
        "vae": AUTOENCODER,
        "text_encoder": CLIP_L,
        "text_encoder_2": (517, 694_659_840),
    },
}
"""How many weights each part has, and how many numbers they are, in the releases on the hub: stable-diffusion-v1-4 of
CompVis; stable-diffusion-2-1-base, stable-diffusion-2-1 and stable-diffusion-xl-base-1.0 of Stability AI."""


@pytest.mark.long
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parts_are_of_the_published_sizes(architecture: str) -> None:
    counts = {
        part: (len(module.state_dict()), sum(weight.numel() for weight in module.parameters()))
        for part, module in empty_modules(architecture).items()
    }
    assert counts == PUBLISHED[architecture]


_DDCONFIG = {"z_channels": 4, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
_COMMON = {"in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": 2}
_SD1 = {
    **_COMMON, "attention_resolutions": [4, 2, 1], "channel_mult": [1, 2, 4, 4], "num_heads": 8,
    "transformer_depth": 1, "context_dim": 768,
}  # fmt: skip
_SD2 = {
    **_COMMON, "attention_resolutions": [4, 2, 1], "channel_mult": [1, 2, 4, 4], "num_head_channels": 64,
    "use_linear_in_transformer": True, "transformer_depth": 1, "context_dim": 1024,
}  # fmt: skip
_SDXL = {
    **_COMMON, "attention_resolutions": [4, 2], "channel_mult": [1, 2, 4], "num_head_channels": 64,
    "use_linear_in_transformer": True, "transformer_depth": [1, 2, 10], "context_dim": 2048,
    "num_classes": "sequential", "adm_in_channels": 2816,
}  # fmt: skip
ORIGINALS: dict[str, tuple[dict[str, Any], int, float]] = {
    "sd1": (_SD1, 512, 0.18215),
    "sd2": (_SD2, 512, 0.18215),
    "sd2-v": (_SD2, 768, 0.18215),
    "sdxl": (_SDXL, 1024, 0.13025),
}
"""By v1-inference.yaml, v2-inference.yaml, v2-inference-v.yaml and sd_xl_base.yaml: of the UNet; the side of pictures,
and what latents are scaled by."""


@pytest.mark.long
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_configurations_are_those_of_the_original_releases(architecture: str) -> None:
    """As diffusers reads the configurations of those."""
    unet, side, scale = ORIGINALS[architecture]
    stages = {"unet_config": {"params": unet}, "first_stage_config": {"params": {"ddconfig": _DDCONFIG}}}
    original = {"model": {"params": {**stages, "scale_factor": scale}}}
    weights = as_meta(original_shapes(architecture))
    with torch.device("meta"):
        found = UNet2DConditionModel.from_config(read_config(SHIPPED / architecture, "unet")).config
        expected = UNet2DConditionModel(**create_unet_diffusers_config_from_ldm(original, weights)).config
    differing = {key for key in expected if _plain(found[key]) != _plain(expected[key])}
    assert differing <= {"upcast_attention", "_use_default_values", "sample_size"}
    assert found["sample_size"] * 8 == side
    vae = create_vae_diffusers_config_from_ldm(original, weights) | {"sample_size": side}
    assert {key: read_config(SHIPPED / architecture, "vae")[key] for key in vae} == vae


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def schedule_of(architecture: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((SHIPPED / architecture / "scheduler" / "scheduler_config.json").read_text())
    return config


@pytest.mark.parametrize(("architecture", "release"), [("sd1", "1.4"), ("sd2", "2.1 base"), ("sd2-v", "2.1")])
def test_schedules_are_the_published_ones(architecture: str, release: str) -> None:
    published = {"prediction_type": "epsilon"} | RELEASES[release][1]
    assert schedule_of(architecture) | {"_diffusers_version": ""} == published | {"_diffusers_version": ""}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_sampler_can_follow_them(architecture: str) -> None:
    assert unusable(schedule_of(architecture)) == {}


TOKENS = {
    "a photo of a cat": (320, 1125, 539, 320, 2368),
    "a photo of an astronaut riding a horse on mars": (320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496),
    "Hello  World": (3306, 1002),
    "otter's": (22456, 568),
}


@pytest.mark.long
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tokens_are_those_of_clip(tmp_path: Path, architecture: str) -> None:
    lay_out(architecture, tmp_path / "model")
    pads = {"sd1": [49407], "sd2": [0], "sd2-v": [0], "sdxl": [49407, 0]}[architecture]
    for folder, pad in zip(sorted((tmp_path / "model").glob("tokenizer*")), pads, strict=True):
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        assert (len(tokenizer), tokenizer.model_max_length, tokenizer.pad_token_id) == (49408, 77, pad)
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (49406, 49407, 49407)
        for text, ids in TOKENS.items():
            assert tokenizer(text).input_ids == [49406, *ids, 49407]


@pytest.fixture(scope="module")
def shapes() -> Mapping[str, Shapes]:
    """Of the original release of each architecture."""
    return {architecture: original_shapes(architecture) for architecture in ("sd1", "sd2", "sdxl")}


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_a_file_of_full_size_is_told_by_its_header(
    tmp_path: Path, shapes: Mapping[str, Shapes], architecture: str
) -> None:
    """With what releases and tools leave in files besides."""
    more: Shapes = {
        "model_ema.decay": (),
        "betas": (1000,),
        "cond_stage_model.model.logit_scale": (),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
        "conditioner.embedders.1.model.logit_scale": (),
    }
    file = write_header(tmp_path / "mine.safetensors", {**shapes[architecture], **more})
    known_as = {"sd1": "v1", "sd2": "v2", "sdxl": "xl_base"}
    assert infer_diffusers_model_type(as_meta(shapes[architecture])) == known_as[architecture]
    with configuration("mine", SingleFile(file, None)) as folder:
        assert layout.check("mine", folder).family.name == ("sdxl" if architecture == "sdxl" else "sd")
        assert read_config(folder, "unet") == read_config(SHIPPED / architecture, "unet")
    original = read_original(file)
    for part, module in empty_modules(architecture).items():
        original.check("mine", part, module)


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_an_inpainting_model_is_told_by_its_header(
    tmp_path: Path, shapes: Mapping[str, Shapes], architecture: str
) -> None:
    first = UNET + "input_blocks.0.0.weight"
    file = write_header(tmp_path / "mine.safetensors", {**shapes[architecture], first: (320, 9, 3, 3)})
    with configuration("mine", SingleFile(file, None)) as folder:
        config = read_config(folder, "unet")
        family = layout.check("mine", folder).family
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(dict(config))
    assert config == {**read_config(SHIPPED / architecture, "unet"), "in_channels": 9}
    assert family.name == ("sdxl" if architecture == "sdxl" else "sd")
    read_original(file).check("mine", "unet", unet)


@pytest.mark.long
def test_what_a_large_file_lacks_is_told_before_memory_is_taken(
    tmp_path: Path, shapes: Mapping[str, Shapes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSD-1B, a distilled SDXL, has fewer layers."""
    monkeypatch.setattr(Original, "fill", lambda *_: pytest.fail("weights were read"))
    fewer = {key: shape for key, shape in shapes["sdxl"].items() if not key.startswith(UNET + "middle_block.1")}
    file = write_header(tmp_path / "distilled.safetensors", fewer)
    loader = ModelLoader(place("cpu"), cache=tmp_path / "cache")
    message = r"lacks \d+ weights of the unet, such as mid_block\S+ \(if it is of another architecture, name a local"
    with pytest.raises(ModelError, match=message):
        loader.load("mine", SingleFile(file, None))


PREDICTING: dict[str, tuple[Options, dict[str, str], float, str]] = {
    "nothing": (Options(), {}, 0.05, "sd2"),
    "a weight": (Options(), {}, 0.12, "sd2-v"),
    "metadata": (Options(), {"modelspec.prediction_type": "v"}, 0.05, "sd2-v"),
    "metadata that a weight denies": (Options(), {"modelspec.prediction_type": "epsilon"}, 0.12, "sd2"),
    "an option": (Options(predicts="v_prediction"), {"modelspec.prediction_type": "epsilon"}, 0.05, "sd2-v"),
    "an option that a weight denies": (Options(predicts="epsilon"), {}, 0.12, "sd2"),
}


@pytest.mark.long
@pytest.mark.parametrize("case", PREDICTING)
def test_what_stable_diffusion_2_predicts(
    tmp_path: Path, shapes: Mapping[str, Shapes], caplog: pytest.LogCaptureFixture, case: str
) -> None:
    options, metadata, spread, expected = PREDICTING[case]
    bias = torch.tensor([spread, -spread]).repeat(160)
    file = write_header(tmp_path / "mine.safetensors", shapes["sd2"], {TELLING: bias}, **metadata)
    with caplog.at_level(logging.INFO), configuration("mine", SingleFile(file, None, options)) as folder:
        assert json.loads((folder / "model_index.json").read_text()) == json.loads(
            (SHIPPED / expected / "model_index.json").read_text()
        )
        found = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["prediction_type"]
    assert found == {"sd2": "epsilon", "sd2-v": "v_prediction"}[expected]
    guessed = case in ("nothing", "a weight")
    said = f"by its weights predicts {found}; #prediction=v or #prediction=epsilon says otherwise"
    assert f"the model 'mine' is Stable Diffusion 2, and {said if guessed else f'predicts {found}'}" in caplog.text


@pytest.mark.long
def test_a_file_alone_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what comes along, made as small as the file is."""
    built = build_tiny_model(tmp_path / "sd1", scheduler_config=PNDM_CONFIG)
    config = CLIPTextConfig.from_pretrained(built / "text_encoder", local_files_only=True)
    config.vocab_size = 49408
    CLIPTextModel(config).save_pretrained(built / "text_encoder")
    file = write_original_checkpoint(built, tmp_path / "mine.safetensors")
    for left_out in ("*/*.safetensors", "tokenizer/*"):
        for path in built.glob(left_out):
            path.unlink()
    copy(SHIPPED / "sd1" / "tokenizer" / "tokenizer_config.json", built / "tokenizer")
    monkeypatch.setattr(architecture_module, "SHIPPED", tmp_path)
    monkeypatch.setitem(kinds._ARCHITECTURES, (32, False), "sd1")
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))

    model = ModelLoader(place("cpu"), cache=tmp_path / "cache").load("mine", SingleFile(file, None))

    assert model.scheduler_config["_class_name"] == "PNDMScheduler"
    assert model.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert model.source == str(file)
    weights = load_file(file)
    assert torch.equal(model.unet.conv_out.weight, weights[UNET + "out.2.weight"])
    assert [token.id for token in model.prompts.read("a photo of a cat").tokens] == [320, 1125, 539, 320, 2368]


def test_without_room_for_a_configuration_it_is_tried_again_later(
    tmp_path: Path, shapes: Mapping[str, Shapes], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_header(tmp_path / "mine.safetensors", shapes["sd1"])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(architecture_module, "lay_out", full)
    with pytest.raises(ModelUnavailable, match=r"cannot be written to .*: No space left on device"):
        ModelLoader(place("cpu"), cache=tmp_path / "cache").load("mine", SingleFile(file, None))


def test_averaged_weights_of_every_name_are_found(shapes: Mapping[str, Shapes]) -> None:
    for names in shapes.values():
        weights = [key for key in names if key.startswith(UNET)]
        assert averaged_unet([averaged(key) for key in weights]) == {key: averaged(key) for key in weights}


def test_another_architecture_is_told(tmp_path: Path, shapes: Mapping[str, Shapes]) -> None:
    file = tmp_path / "mine.safetensors"
    wide = {key: (*shape[:-1], 1280) if "attn2.to_k" in key else shape for key, shape in shapes["sd1"].items()}
    write_header(file, wide)
    expected = r"of an architecture that is not known: it reads texts of width 1280 \(.*mine=\S+#config=DIRECTORY\)"
    with pytest.raises(ModelError, match=expected), configuration("mine", SingleFile(file, None)):
        pass


@pytest.mark.long
def test_a_built_wheel_has_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for room in ("farm", "worker"):
        copytree(ROOT / room, source / room, ignore=ignore_patterns("__pycache__", "weights"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / file, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True)
    wheel = source / done.stdout.splitlines()[-1]
    within = "worker/models/architectures/"
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.getinfo(name) for name in archive.namelist() if name.startswith(within)}
    assert {name.removeprefix(within) for name in found} == {
        str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*") if path.is_file()
    }
    assert "clip/NOTICE" in {name.removeprefix(within) for name in found}
    assert sum(info.compress_size for info in found.values()) < 300_000

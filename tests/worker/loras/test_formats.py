"""The same factors, as every program writes them, add to a model what diffusers adds to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor, nn

from farm.lora_keys import UNET
from tests.worker.loras.written import (
    Drawn,
    Named,
    applied,
    diffusers,
    draw,
    formerly,
    kohya,
    original_names,
    peft,
    processors,
    save,
)
from worker.diffusion.adapters import Adapter
from worker.loras.reading import read_adapter
from worker.models.model import LoadedModel

Weights = Mapping[tuple[str, str], Tensor]


def read(path: Path, model: LoadedModel) -> Adapter:
    return read_adapter(path, "style", "0" * 64, model)


def merged(adapter: Adapter, model: LoadedModel) -> Weights:
    """The weights that an adapter changes, as it changes them, by owner and path in diffusers."""
    found: dict[tuple[str, str], Tensor] = {}
    modules: list[tuple[str, nn.Module, Mapping[str, Any]]] = [(UNET, model.unet, adapter.unet)]
    for part, encoder, factors in zip(model.family.encoders, model.encoders, adapter.encoders, strict=True):
        modules.append((part.folder, encoder.module, factors))
    for owner, module, layers in modules:
        for path, factors in layers.items():
            weight: Any = module.get_submodule(path).weight
            assert isinstance(module.get_submodule(path), nn.Linear | nn.Conv2d)
            assert factors.down.shape[1:] == weight.shape[1:]
            assert (factors.down.dtype, factors.up.dtype) == (torch.float32, torch.float32)
            found[owner, path.removesuffix(".projection")] = applied(weight.detach(), factors)
    return found


def by_diffusers(folder: Path, file: Path) -> Weights:
    """All weights of a model to which diffusers has added a file."""
    kind: Any = StableDiffusionXLPipeline if (folder / "text_encoder_2").is_dir() else StableDiffusionPipeline
    safety = {} if (folder / "text_encoder_2").is_dir() else {"safety_checker": None, "feature_extractor": None}
    pipeline = kind.from_pretrained(folder, **safety)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return {
        (owner, key.removesuffix(".weight")): value
        for owner in (UNET, "text_encoder", "text_encoder_2")
        if getattr(pipeline, owner, None) is not None
        for key, value in getattr(pipeline, owner).state_dict().items()
    }


def compare(own: Weights, others: Weights, model: LoadedModel, *, layers: int) -> None:
    assert len(own) == layers
    modules: dict[str, nn.Module] = {UNET: model.unet}
    modules |= {part.folder: one.module for part, one in zip(model.family.encoders, model.encoders, strict=True)}
    for (owner, path), weight in own.items():
        other = others[owner, path]
        assert (weight - other).abs().max() < 1e-5, (owner, path)
        assert (other - _before(modules[owner], path)).abs().max() > 1e-3, (owner, path)


def _before(module: nn.Module, path: str) -> Tensor:
    found: Any = module.get_submodule(path)
    weight: Tensor = getattr(found, "projection", found).weight.detach()
    return weight


def known_to_diffusers(drawn: list[Drawn]) -> list[Drawn]:
    return [one for one in drawn if one.inside != "text_projection"]


FORMATS: dict[str, Callable[[list[Drawn], Path], Named]] = {
    "kohya": lambda drawn, _: kohya(drawn),
    "diffusers": lambda drawn, _: diffusers(drawn),
    "diffusers, formerly": lambda drawn, _: formerly(drawn),
    "diffusers, first": lambda drawn, _: processors(drawn),
    # The norms of text encoders are left out by transformers.
    "DoRA": lambda drawn, _: diffusers([one for one in drawn if one.layer.owner == UNET], magnitudes=True),
}


@pytest.mark.long
@pytest.mark.parametrize("case", FORMATS)
def test_what_is_added_to_sd_is_what_diffusers_adds(
    case: str, sd: LoadedModel, sd_folder: Path, tmp_path: Path
) -> None:
    tensors = FORMATS[case](draw(sd), sd_folder)
    path = save(tmp_path / "style.safetensors", tensors)
    downs = sum(key.endswith(("down.weight", "lora_A.weight")) for key in tensors)
    compare(merged(read(path, sd), sd), by_diffusers(sd_folder, path), sd, layers=downs)


XL_FORMATS: dict[str, Callable[[list[Drawn], Path], Named]] = {
    "kohya": lambda drawn, folder: kohya(drawn, two=True, called=original_names(folder, drawn)),
    "diffusers": lambda drawn, _: diffusers(drawn),
    "diffusers, formerly": lambda drawn, _: formerly(drawn),
}


@pytest.mark.long
@pytest.mark.parametrize("case", XL_FORMATS)
def test_what_is_added_to_sdxl_is_what_diffusers_adds(
    case: str, xl: LoadedModel, xl_folder: Path, tmp_path: Path
) -> None:
    drawn = known_to_diffusers(draw(xl))
    path = save(tmp_path / "style.safetensors", XL_FORMATS[case](drawn, xl_folder))
    compare(merged(read(path, xl), xl), by_diffusers(xl_folder, path), xl, layers=len(drawn))


def test_alpha_in_diffusers_settings_is_what_diffusers_reads(sd: LoadedModel, sd_folder: Path, tmp_path: Path) -> None:
    drawn = [one for one in draw(sd) if one.layer.owner == UNET and ".attn" in one.layer.name]
    targets = sorted({one.layer.name for one in drawn})
    settings = {
        "unet.r": 3,
        "unet.lora_alpha": 6,
        "unet.alpha_pattern": {targets[0]: 12},
        "unet.use_rslora": True,
        "unet.target_modules": targets,
    }
    path = save(
        tmp_path / "style.safetensors",
        diffusers(drawn),
        {"format": "pt", "lora_adapter_metadata": json.dumps(settings)},
    )
    adapter = read(path, sd)
    compare(merged(adapter, sd), by_diffusers(sd_folder, path), sd, layers=len(drawn))
    scales = {round(float((adapter.unet[one.layer.path].up / one.up).mean()), 4) for one in drawn}
    assert scales == {round(6 / 3**0.5, 4), round(12 / 3**0.5, 4)}


@pytest.mark.long
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_every_layer_has_the_names_of_both_releases(
    family: str, sd: LoadedModel, sd_folder: Path, xl: LoadedModel, xl_folder: Path, tmp_path: Path
) -> None:
    """diffusers reads the original names of SDXL alone."""
    model, folder = (sd, sd_folder) if family == "sd" else (xl, xl_folder)
    drawn = draw(model)
    files = [kohya(drawn), kohya(drawn, called=original_names(folder, drawn)), kohya(drawn, two=True)]
    read_ones = [merged(read(save(tmp_path / "style.safetensors", file), model), model) for file in files]
    assert len(read_ones[0]) == len(drawn)
    for other in read_ones[1:]:
        assert other.keys() == read_ones[0].keys()
        assert all(torch.equal(weight, read_ones[0][key]) for key, weight in other.items())


def test_a_file_of_peft_is_of_one_module(sd: LoadedModel, tmp_path: Path) -> None:
    drawn = draw(sd)
    whole = merged(read(save(tmp_path / "a.safetensors", diffusers(drawn)), sd), sd)
    for owner in (UNET, "text_encoder"):
        own = merged(read(save(tmp_path / "b.safetensors", peft(drawn, owner)), sd), sd)
        assert {key for key, _ in own} == {owner}
        assert len(own) == sum(key == owner for key, _ in whole)
        assert all(torch.equal(weight, whole[key]) for key, weight in own.items())


def test_alpha_and_rank_are_each_layer_s_own(sd: LoadedModel, tmp_path: Path) -> None:
    some = [one for one in draw(sd, rank=2) if ".attn1." in one.layer.name][:3]
    others = [one for one in draw(sd, rank=5, alpha=7) if ".attn2." in one.layer.name][:3]
    tensors = kohya([*some, *others])
    lacking = next(key for key in tensors if key.endswith(".alpha"))
    tensors |= {key: value.to(torch.int64) for key, value in tensors.items() if key.endswith(".alpha")}
    del tensors[lacking]  # it has the strength that it was trained with
    adapter = read(save(tmp_path / "style.safetensors", tensors), sd)
    for one in [*some, *others]:
        own = lacking == f"lora_unet_{one.layer.name.replace('.', '_')}.alpha"
        scale = 1.0 if own else one.alpha / one.down.shape[0]
        assert torch.allclose(adapter.unet[one.layer.path].up, one.up * scale)
        assert torch.equal(adapter.unet[one.layer.path].down, one.down)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(dtype: torch.dtype, sd: LoadedModel, tmp_path: Path) -> None:
    drawn = draw(sd)[:4]
    tensors = {key: value.to(dtype) for key, value in kohya(drawn).items()}
    adapter = read(save(tmp_path / "style.safetensors", tensors), sd)
    for one in drawn:
        factors = adapter.unet[one.layer.path]
        assert torch.equal(factors.down, one.down.to(dtype).float())
        assert torch.allclose(factors.up, one.up.to(dtype).float() * 2 / 3)


def test_projections_of_prompts_are_found_where_their_weight_is(sd: LoadedModel, tmp_path: Path) -> None:
    drawn = [one for one in draw(sd) if one.layer.name.endswith("attn2.to_k")]
    adapter = read(save(tmp_path / "style.safetensors", kohya(drawn)), sd)
    assert adapter.unet.keys() == {f"{one.layer.name}.projection" for one in drawn} != set()
    assert (adapter.name, adapter.sha256, adapter.encoders) == ("style", "0" * 64, ({},))

"""What text encoders make of a chunk, held against diffusers' pipelines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from farm.errors import InvalidInput
from worker.diffusion.prompts import How, PromptEncoder
from worker.diffusion.text import TextEncoder
from worker.models.model import LoadedModel

LAYERS = 12


@pytest.fixture(scope="module")
def deep(tiny_model: LoadedModel) -> CLIPTextModel:
    """A text encoder of as many layers as Stable Diffusion's."""
    encoder: CLIPTextModel = CLIPTextModel(_config(tiny_model, seed=0)).eval()
    object.__setattr__(encoder, "text_model", encoder)  # where diffusers 0.42 looks for its last norm
    return encoder


@pytest.fixture(scope="module")
def projecting(tiny_model: LoadedModel) -> CLIPTextModelWithProjection:
    encoder: CLIPTextModelWithProjection = CLIPTextModelWithProjection(_config(tiny_model, seed=1)).eval()
    return encoder


def _config(model: LoadedModel, *, seed: int) -> CLIPTextConfig:
    torch.manual_seed(seed)
    return CLIPTextConfig.from_dict({**model.text_encoder.config.to_dict(), "num_hidden_layers": LAYERS})


@pytest.mark.parametrize("clip_skip", [1, 2, 3, LAYERS])
def test_layers_are_skipped_as_diffusers_does_for_stable_diffusion(
    deep: CLIPTextModel, tiny_model: LoadedModel, clip_skip: int
) -> None:
    parts: dict[str, Any] = dict.fromkeys(("vae", "unet", "scheduler", "safety_checker", "feature_extractor"))
    pipeline: Any = StableDiffusionPipeline(
        **parts, text_encoder=deep, tokenizer=tiny_model.tokenizer, requires_safety_checker=False
    )
    expected, _ = pipeline.encode_prompt("a red cat", "cpu", 1, False, clip_skip=clip_skip - 1)

    encoder = PromptEncoder([TextEncoder(tiny_model.tokenizer, deep)])
    found = encoder.encode("a red cat", How(clip_skip=clip_skip)).embedding
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert clip_skip == 1 or not torch.allclose(found, encoder.encode("a red cat").embedding, atol=1e-2)


@pytest.mark.parametrize("clip_skip", [1, 2, LAYERS])
def test_layers_are_skipped_as_diffusers_does_for_sdxl(
    deep: CLIPTextModel, projecting: CLIPTextModelWithProjection, tiny_model: LoadedModel, clip_skip: int
) -> None:
    tokenizer = tiny_model.tokenizer
    parts: dict[str, Any] = dict.fromkeys(("vae", "unet", "scheduler"))
    pipeline: Any = StableDiffusionXLPipeline(
        **parts, text_encoder=deep, text_encoder_2=projecting, tokenizer=tokenizer, tokenizer_2=tokenizer
    )
    expected, _, pooled, _ = pipeline.encode_prompt(
        "a red cat",
        device=torch.device("cpu"),
        do_classifier_free_guidance=False,
        clip_skip=None if clip_skip == 1 else clip_skip - 1,
    )

    encoders = [TextEncoder(tokenizer, deep, hidden=-2), TextEncoder(tokenizer, projecting, hidden=-2, pools=True)]
    found = PromptEncoder(encoders).encode("a red cat", How(clip_skip=clip_skip))
    torch.testing.assert_close(found.embedding, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.pooled, pooled, atol=1e-5, rtol=0)


def test_an_encoder_of_too_few_layers_says_how_many_there_are(tiny_model: LoadedModel) -> None:
    encoder = TextEncoder(tiny_model.tokenizer, tiny_model.text_encoder)
    layers = tiny_model.text_encoder.config.num_hidden_layers
    states: list[Tensor] = [encoder.embed([5], clip_skip=skip).states for skip in range(1, layers + 2)]
    assert len({float(each.sum()) for each in states}) == layers + 1
    with pytest.raises(InvalidInput, match=f"clip_skip: {layers + 2} is more than .*at most {layers + 1}"):
        encoder.embed([5], clip_skip=layers + 2)

"""Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952): two text encoders, of which the second also gives the
prompt as a whole, and numbers that say how large the picture was and what was cut off it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from farm.errors import ModelError
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.prompts import Encoded
from worker.families.family import EncoderPart, Family, Frame, check_width

_NUMBERS = 6
"""The sides of the original picture, what was cut off it, and the sides of the picture to make."""


@dataclass(frozen=True, eq=False)
class SDXLConditioning(Conditioning):
    """What SDXL's UNet reads."""

    pooled: Tensor
    """[N, width]: the prompt as a whole."""
    sizes: Tensor
    """[N, 6], float32: height and width of the original, its crop from the top and the left, height and width of the
    picture (section 2.2 of the paper). They are added to the timestep's embedding."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.text, self.pooled, self.sizes

    @property
    def arguments(self) -> dict[str, Any]:
        added = {"text_embeds": self.pooled, "time_ids": self.sizes}
        return {"encoder_hidden_states": self.text, "added_cond_kwargs": added}


def _conditioned(text: Tensor, prompt: Encoded, frame: Frame) -> SDXLConditioning:
    assert prompt.pooled is not None, "SDXL's second text encoder pools"
    original, target = frame.original, frame.target
    told = [original.height, original.width, frame.top, frame.left, target.height, target.width]
    numbers = torch.tensor([told], dtype=torch.float32, device=text.device)
    return SDXLConditioning(text, prompt.pooled, numbers)


def _check(name: str, unet: Any, encoders: Sequence[Any]) -> None:
    check_width(name, unet.cross_attention_dim, sum(encoder.hidden_size for encoder in encoders))
    expected = unet.projection_class_embeddings_input_dim
    pooled, number = encoders[1].projection_dim, unet.addition_time_embed_dim
    found = pooled + _NUMBERS * number if isinstance(number, int) else None
    if found != expected:
        raise ModelError(
            f"the UNet of '{name}' reads {expected!r:.40} numbers besides the prompt's words, but its second text "
            f"encoder gives {pooled}, and a picture's sizes {_NUMBERS} times {number!r:.40}",
        )


SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    encoders=(
        EncoderPart("text_encoder", "tokenizer", CLIPTextModel, hidden=-2),
        EncoderPart("text_encoder_2", "tokenizer_2", CLIPTextModelWithProjection, hidden=-2, pools=True),
    ),
    conditioned=_conditioned,
    check=_check,
    reads_frame=True,
    zeros_for_nothing=True,
    asks={"addition_embed_type": "text_time"},
)

"""Stable Diffusion 1 and 2 (Rombach et al. 2022, arXiv:2112.10752): one text encoder, and nothing but the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import CLIPTextModel

from worker.diffusion.conditioning import Conditioning
from worker.diffusion.prompts import Encoded
from worker.families.family import EncoderPart, Family, Frame, check_width


def _conditioned(text: Tensor, _prompt: Encoded, _frame: Frame) -> Conditioning:
    return Conditioning(text)


def _check(name: str, unet: Any, encoders: Sequence[Any]) -> None:
    check_width(name, unet.cross_attention_dim, encoders[0].hidden_size)


SD = Family(
    name="sd",
    title="Stable Diffusion",
    encoders=(EncoderPart("text_encoder", "tokenizer", CLIPTextModel),),
    conditioned=_conditioned,
    check=_check,
)

"""Guidance by CLIP: how far a picture is from what its prompt says, as a model sees it that learnt of both.

Radford et al. 2021 (arXiv:2103.00020). No CLIP comes along; where the operator has one, its folder is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer

from farm.errors import FarmError
from farm.jobs.losses import LossDeclaration
from farm.jobs.spec import WeightedPrompt

_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained on."""


class ClipSimilarity:
    """1 − the cosine of the angle between a picture and its prompts: 0 to 2, in practice 0.6 to 0.9.

    Not safe for use from several threads at once.
    """

    needs = ("prompts",)
    declaration = LossDeclaration(
        "clip", "one minus CLIP's similarity of the picture and its prompt", (), default_scale=200.0
    )

    def __init__(self, directory: Path, device: torch.device) -> None:
        """Raises `FarmError` if the folder does not hold a CLIP in transformers' layout, in safetensors."""
        try:
            model: Any = CLIPModel.from_pretrained(directory, use_safetensors=True, local_files_only=True)
            self._tokenizer = CLIPTokenizer.from_pretrained(directory, local_files_only=True)
        except Exception as error:  # what the libraries make of files that are not as they should be
            said = " ".join(str(error).split())[:300]
            raise FarmError(
                f"there is no CLIP in {directory}: {said}",
                hint="FARM_CLIP names a folder in transformers' layout, with model.safetensors and its tokenizer",
            ) from error
        self._model = model.to(device).eval().requires_grad_(False)
        self._side: int = self._model.config.vision_config.image_size
        self._text = lru_cache(maxsize=256)(self._text_of)

    def __call__(self, images: Tensor, *, prompts: Sequence[WeightedPrompt]) -> Tensor:
        """For images [N, 3, H, W] of the same prompts: [N]."""
        seen = _normalised(self._model.get_image_features(pixel_values=self._prepared(images)))
        return 1 - (seen * self._text(tuple((prompt.text, prompt.weight) for prompt in prompts))).sum(dim=-1)

    @torch.no_grad()
    def _text_of(self, prompts: tuple[tuple[str, float], ...]) -> Tensor:
        """Σ weight·direction of the prompts, as a direction: [width]."""
        texts, weights = zip(*prompts, strict=True)
        given = self._tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        read = _normalised(self._model.get_text_features(**given.to(self._model.device)))
        return _normalised((read * read.new_tensor(weights)[:, None]).sum(dim=0))

    def _prepared(self, images: Tensor) -> Tensor:
        """The middle of pictures [N, 3, H, W], as large and as bright as CLIP reads them."""
        short = min(images.shape[-2:])
        top, left = ((side - short) // 2 for side in images.shape[-2:])
        square = images[..., top : top + short, left : left + short].float().clamp(0, 1)
        resized = _shrinking(short, self._side).to(square)
        # By matrices, whose gradient has the same bits every time, and that of torch's interpolation on a GPU has not.
        pixels = resized @ square @ resized.T
        mean, deviation = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _DEVIATION))
        return (pixels - mean) / deviation


@lru_cache(maxsize=16)
def _shrinking(before: int, after: int) -> Tensor:
    """[after, before]: what makes a column of so many pixels one of so many others, bicubic and without aliases."""
    columns = functional.interpolate(
        torch.eye(before)[None, None], size=(after, before), mode="bicubic", antialias=True, align_corners=False
    )
    return columns[0, 0]


def _normalised(features: Any) -> Tensor:
    """Features, or what holds them in later releases, each as a direction."""
    tensor: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return functional.normalize(tensor, dim=-1)

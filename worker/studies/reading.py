"""What a model's text encoder makes of a prompt, part by part: all that studies know of its insides is here.

As in the method's notebook, the tokenizer pads to every position, the token's and the position's embeddings are summed,
and the encoder makes of the sums what the UNet reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from farm.errors import RenderError
from worker.models.model import LoadedModel

Role = Literal["start", "text", "end", "padding"]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Reading:
    """A prompt as the encoder reads it: by position its tokens, and what is made of them, float32 [positions, width].

    `tokens` are the embeddings of the tokens, `positions` those of the positions, `sums` both together, `output` what
    the UNet reads. `pooled` [width] is the output at the end of the text, which stands for all of it.
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    roles: tuple[Role, ...]
    cut: tuple[str, ...]
    tokens: Array
    positions: Array
    sums: Array
    output: Array
    pooled: Array


@torch.no_grad()
def read(model: LoadedModel, prompt: str) -> Reading:
    """How the model reads one prompt. Raises `RenderError('nan')` if what it makes of it is no numbers."""
    tokenizer, encoder = model.tokenizer, model.text_encoder
    length = model.prompts.tokens
    made = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids: Tensor = made.input_ids.to(encoder.device)
    embeddings: Any = encoder.get_submodule("embeddings")
    tokens = embeddings.token_embedding(ids)
    positions = embeddings.position_embedding(torch.arange(ids.shape[1], device=ids.device))
    encoded = encoder(ids)
    text = int(made.attention_mask.sum())
    return Reading(
        ids=tuple(ids[0].tolist()),
        pieces=tuple(tokenizer.convert_ids_to_tokens(ids[0].tolist())),
        roles=tuple(_role(position, text) for position in range(ids.shape[1])),
        cut=model.prompts.read(prompt).cut,
        tokens=_array(tokens[0]),
        positions=_array(positions),
        sums=_array(embeddings(input_ids=ids)[0]),
        output=_array(encoded.last_hidden_state[0]),
        pooled=_array(encoded.pooler_output[0]),
    )


def _role(position: int, text: int) -> Role:
    """Of a position, where the first `text` are not padding, the marks of start and end included."""
    if position == 0:
        return "start"
    return "text" if position < text - 1 else "end" if position == text - 1 else "padding"


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.float().cpu().numpy()
    if not np.isfinite(array).all():
        raise RenderError("nan", "the text encoder made numbers that are not finite")
    return array

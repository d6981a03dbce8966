"""What text encoders make of a chunk of tokens: as many as CLIP reads at once, between a start and an end mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SPECIAL_TOKENS = 2
"""The start and end marks around every chunk."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """What is made of one chunk: the `states` [1, tokens, width] of its tokens, and `pooled` [1, width], of the whole,
    from an encoder that makes one."""

    states: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """One of a model's text encoders, with the tokenizer that it was trained with.

    `hidden` is which of its layers' outputs are the states, such as -2 for the last but one, as it is; None: the last,
    normalised. All that `pools` makes of a chunk besides is its projected embedding.
    """

    tokenizer: CLIPTokenizer
    module: CLIPTextModel | CLIPTextModelWithProjection
    hidden: int | None = None
    pools: bool = False

    @property
    def length(self) -> int:
        """How many tokens every chunk is padded to, start and end marks included: 77 for CLIP."""
        return min(self.tokenizer.model_max_length, self.module.config.max_position_embeddings)

    @torch.no_grad()
    def embed(self, tokens: Sequence[int]) -> Embedded:
        """What is made of at most `length` - `SPECIAL_TOKENS` tokens, in the encoder's dtype and on its device."""
        ids = [self.tokenizer.bos_token_id, *tokens, self.tokenizer.eos_token_id]
        ids += [self.tokenizer.pad_token_id] * (self.length - len(ids))
        given = torch.tensor([ids], device=self.module.device)
        out: Any = self.module(given, output_hidden_states=self.hidden is not None)
        states: Tensor = out.last_hidden_state if self.hidden is None else out.hidden_states[self.hidden]
        return Embedded(states, out.text_embeds if self.pools else None)

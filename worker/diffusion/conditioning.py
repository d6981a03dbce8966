"""From prompts to what the UNet is conditioned on: CLIP embeddings, mixed by weight, and the words that were cut.

Between a job's first step and the UNet it travels as one value, so that nobody on the way need know what is in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from farm.jobs.report import Token
from farm.jobs.spec import MixPath, WeightedPrompt
from worker.diffusion.mixing import along_arc

SPECIAL_TOKENS = 2
"""The start and end marks around every prompt."""


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the UNet reads besides latents and timesteps, of one row or of N that are stacked. Compared by identity.

    The first dimension of every tensor in it are rows. A family of models whose UNet reads more has a class of its own,
    with more tensors and arguments.
    """

    text: Tensor
    """[N, tokens, width], of the prompt: its embedding, or what a `CrossAttentionCache` made of it."""

    @staticmethod
    def stacked(rows: Sequence[Conditioning]) -> Conditioning:
        """That of a forward, from those of its rows, whose shape must be the same."""
        return type(rows[0])(*map(torch.cat, zip(*(row.tensors for row in rows), strict=True)))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is in it, in the order in which it is made of them."""
        return (self.text,)

    @property
    def shape(self) -> tuple[torch.Size, ...]:
        """Of the tensors of one row."""
        return tuple(tensor.shape[1:] for tensor in self.tensors)

    @property
    def arguments(self) -> dict[str, Any]:
        """By what names diffusers' UNet takes it."""
        return {"encoder_hidden_states": self.text}

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """What a function makes of every tensor, such as one that picks rows."""
        return type(self)(*map(change, self.tensors))


@dataclass(frozen=True, eq=False)
class Encoded:
    """An embedding, [1, tokens, width], the tokens that it was made of, and the words that did not fit in.

    Of a mix there is no one list of tokens.
    """

    embedding: Tensor
    cut: tuple[str, ...] = ()
    tokens: tuple[Token, ...] = ()


class PromptEncoder:
    """Encodes prompts for one model and keeps the latest `capacity` embeddings.

    Prompts are encoded one at a time, so that an embedding's bits do not depend on which other prompts
    arrive. Not safe for use from several threads at once.
    """

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, *, capacity: int = 256) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._capacity = capacity
        self._cache: OrderedDict[str, Encoded] = OrderedDict()

    @property
    def tokens(self) -> int:
        """How many tokens every prompt is padded or cut to, start and end marks included: 77 for CLIP."""
        return min(self._tokenizer.model_max_length, self._text_encoder.config.max_position_embeddings)

    def encode(self, prompt: str) -> Encoded:
        """The embedding of one prompt, in the encoder's dtype and on its device."""
        known = self._cache.get(prompt)
        if known is None:
            known = Encoded(self._embed(prompt), *self._read(prompt))
            self._cache[prompt] = known
            if len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        self._cache.move_to_end(prompt)
        return known

    def mix(self, prompts: Sequence[WeightedPrompt], path: MixPath = "linear") -> Encoded:
        """Σ weight·embedding, summed in float32; one prompt of weight 1 is its own embedding, bit for bit.

        By the `spherical` path, of two prompts, the weight of the second is its share of the angle between them.
        """
        parts = [self.encode(prompt.text) for prompt in prompts]
        if len(prompts) == 1 and prompts[0].weight == 1.0:
            return parts[0]
        cut = tuple(word for part in parts for word in part.cut)
        weights = [prompt.weight for prompt in prompts]
        embeddings = [part.embedding.float() for part in parts]
        if path == "spherical":
            first, last = embeddings
            mixed = along_arc(first, last, weights[1])
        else:
            mixed = torch.stack([w * one for w, one in zip(weights, embeddings, strict=True)]).sum(dim=0)
        return Encoded(mixed.to(parts[0].embedding.dtype), cut)

    @torch.no_grad()
    def _embed(self, prompt: str) -> Tensor:
        ids = self._tokenizer(
            prompt, padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt"
        ).input_ids
        embedding: Tensor = self._text_encoder(ids.to(self._text_encoder.device)).last_hidden_state
        return embedding

    def _read(self, prompt: str) -> tuple[tuple[str, ...], tuple[Token, ...]]:
        """The words of `prompt` from the first one that the encoder does not see to its end, and the tokens it sees."""
        every = self._tokenizer(
            prompt, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False
        )
        room = self.tokens - SPECIAL_TOKENS
        ids = every.input_ids[:room]
        pieces = self._tokenizer.convert_ids_to_tokens(ids)
        tokens = tuple(Token(id=number, piece=piece) for number, piece in zip(ids, pieces, strict=True))
        spans = every.offset_mapping
        if len(spans) <= room:
            return (), tokens
        first_lost = spans[room][0]
        # A word of which only the end is lost counts as lost.
        word_start = max((k + 1 for k in range(first_lost) if prompt[k].isspace()), default=0)
        return tuple(prompt[word_start:].split()), tokens

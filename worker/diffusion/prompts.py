"""From prompts to CLIP embeddings, mixed by weight, and the words that were cut."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from farm.jobs.report import Token
from farm.jobs.spec import MixPath, WeightedPrompt
from worker.diffusion.mixing import along_arc
from worker.diffusion.text import SPECIAL_TOKENS, TextEncoder


@dataclass(frozen=True, eq=False)
class Encoded:
    """An embedding, [1, tokens, width], the words that did not fit in, the tokens that it was made of, and `pooled`
    [1, width] of a model that reads one. Compared by identity.

    Of a mix there is no one list of tokens.
    """

    embedding: Tensor
    cut: tuple[str, ...] = ()
    tokens: tuple[Token, ...] = ()
    pooled: Tensor | None = None


class PromptEncoder:
    """Encodes prompts for one model and keeps the latest `capacity` embeddings.

    Prompts are encoded one at a time, so that an embedding's bits do not depend on which other prompts
    arrive. Not safe for use from several threads at once.
    """

    def __init__(
        self, encoders: Sequence[TextEncoder], *, zeros_for_nothing: bool = False, capacity: int = 256
    ) -> None:
        """The states of several encoders lie side by side; their tokenizers differ in padding alone.

        With `zeros_for_nothing` an empty negative prompt is all zeros, as its model was trained, and not the embedding
        of an empty text.
        """
        self._encoders = tuple(encoders)
        self._tokenizer = encoders[0].tokenizer
        self._zeros_for_nothing = zeros_for_nothing
        self._capacity = capacity
        self._cache: OrderedDict[str, Encoded] = OrderedDict()
        self._nothing: Encoded | None = None

    @property
    def tokens(self) -> int:
        """How many tokens every prompt is padded or cut to, start and end marks included: 77 for CLIP."""
        return min(encoder.length for encoder in self._encoders)

    def encode(self, prompt: str) -> Encoded:
        """The embedding of one prompt, in the encoders' dtype and on their device."""
        known = self._cache.get(prompt)
        if known is None:
            known = self._encoded(prompt)
            self._cache[prompt] = known
            if len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        self._cache.move_to_end(prompt)
        return known

    def encode_negative(self, prompt: str) -> Encoded:
        """The same of a negative prompt."""
        if prompt or not self._zeros_for_nothing:
            return self.encode(prompt)
        if self._nothing is None:
            empty = self.encode("")
            pooled = None if empty.pooled is None else torch.zeros_like(empty.pooled)
            self._nothing = Encoded(torch.zeros_like(empty.embedding), pooled=pooled)
        return self._nothing

    def mix(self, prompts: Sequence[WeightedPrompt], path: MixPath = "linear") -> Encoded:
        """Σ weight·embedding, summed in float32; one prompt of weight 1 is its own embedding, bit for bit.

        By the `spherical` path, of two prompts, the weight of the second is its share of the angle between them.
        """
        parts = [self.encode(prompt.text) for prompt in prompts]
        if len(prompts) == 1 and prompts[0].weight == 1.0:
            return parts[0]
        weights = [prompt.weight for prompt in prompts]
        pooled = [part.pooled for part in parts if part.pooled is not None]
        mixed = _along_arc if path == "spherical" else _weighted
        return Encoded(
            mixed(weights, [part.embedding for part in parts]),
            cut=tuple(word for part in parts for word in part.cut),
            pooled=mixed(weights, pooled) if pooled else None,
        )

    def _encoded(self, prompt: str) -> Encoded:
        cut, tokens = self._read(prompt)
        parts = [encoder.embed([token.id for token in tokens]) for encoder in self._encoders]
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Encoded(
            torch.cat([part.states for part in parts], dim=-1), cut, tokens, pooled=pooled[0] if pooled else None
        )

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


def _along_arc(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """From the first of two tensors to the other, by the weight of that, in their dtype."""
    first, last = tensors
    return along_arc(first.float(), last.float(), weights[1]).to(first.dtype)


def _weighted(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """Σ weight·tensor in float32, in the dtype of the tensors."""
    summed = torch.stack([w * tensor.float() for w, tensor in zip(weights, tensors, strict=True)]).sum(dim=0)
    return summed.to(tensors[0].dtype)

"""From prompts to CLIP embeddings: chunk by chunk, with the weights of their words, and mixed by weight."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from farm.jobs.spec import Conditioning, MixPath, Reading, WeightedPrompt
from worker.diffusion.adapters import Acting, Stack, acting_on_text
from worker.diffusion.additions import Added
from worker.diffusion.chunks import Chunk, PromptReader, ReadPrompt
from worker.diffusion.inversion import Embedding, LearntWords
from worker.diffusion.mixing import along_arc
from worker.diffusion.text import SPECIAL_TOKENS, TextEncoder


@dataclass(frozen=True, eq=False)
class Encoded:
    """An embedding, [1, tokens, width], of one chunk or of several in a row; and `pooled` [1, width] of a model that
    reads one. Compared by identity."""

    embedding: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True)
class How:
    """How texts are encoded: their reading, at which of the encoder's layers, counted from its end, in at least how
    many chunks, the last ones of an empty text, and with which adapters."""

    reading: Reading = "plain"
    clip_skip: int = 1
    chunks: int = 1
    acting: Acting = ()


PLAINLY = How()

_ROUNDING = 1e-5
"""Of the size of states: a mean below that says nothing, and is not restored. Trained encoders have a larger one."""


class PromptEncoder:
    """Encodes prompts for one model and keeps the latest embeddings, of `capacity` chunks together.

    Chunks are encoded one at a time, so that an embedding's bits do not depend on which other prompts
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
        self._words = LearntWords()
        self._reader = PromptReader(encoders[0].tokenizer, self.tokens - SPECIAL_TOKENS)
        self._zeros_for_nothing = zeros_for_nothing
        self._capacity = capacity
        self._read: OrderedDict[tuple[str, Reading], ReadPrompt] = OrderedDict()
        self._cache: OrderedDict[Hashable, Encoded] = OrderedDict()

    @property
    def tokens(self) -> int:
        """How many tokens every chunk is padded to, start and end marks included: 77 for CLIP."""
        return min(encoder.length for encoder in self._encoders)

    def learn(self, embeddings: Collection[Embedding]) -> Mapping[str, str]:
        """Let weighted prompts name these embeddings. Those that are not for this model are given back, with the
        reason; a prompt that names one of them cannot be read."""
        self._words = LearntWords(embeddings, [encoder.width for encoder in self._encoders])
        self._reader = replace(self._reader, words=self._words)
        self._read.clear()
        self._cache.clear()
        return self._words.refused

    def read(self, prompt: str, reading: Reading = "plain") -> ReadPrompt:
        """A prompt's tokens, without encoding them. Raises `InvalidInput` for a prompt of too many chunks."""
        key = prompt, reading
        known = self._read.get(key)
        if known is None:
            known = self._read[key] = self._reader.read(prompt, reading)
            if len(self._read) > self._capacity:
                self._read.popitem(last=False)
        self._read.move_to_end(key)
        return known

    def how(self, asked: Conditioning, *, guided: bool, stack: Stack = ()) -> How:
        """How to encode all texts of a job under its adapters, so that they have equally many chunks; the negative one
        if it is `guided`.

        Raises `InvalidInput` for a prompt of too many chunks.
        """
        texts = [*(prompt.text for prompt in asked.prompts), *([asked.negative] if guided else [])]
        most = max(len(self.read(text, asked.reading).chunks) for text in texts)
        return How(asked.reading, asked.clip_skip, most, acting_on_text(stack))

    def encode(self, prompt: str, how: How = PLAINLY) -> Encoded:
        """The embedding of one prompt, in the encoders' dtype and on their device. Raises `InvalidInput`."""
        read = self.read(prompt, how.reading)
        how = replace(how, chunks=max(how.chunks, len(read.chunks)))
        return self._kept((prompt, how), lambda: self._encoded(read, how))

    def encode_negative(self, prompt: str, how: How = PLAINLY) -> Encoded:
        """The same of a negative prompt."""
        if prompt or not self._zeros_for_nothing:
            return self.encode(prompt, how)
        return self._kept((None, how.chunks), lambda: _zeros_like(self.encode("", how)))

    def mix(self, prompts: Sequence[WeightedPrompt], path: MixPath = "linear", *, how: How = PLAINLY) -> Encoded:
        """Σ weight·embedding, summed in float32; one prompt of weight 1 is its own embedding, bit for bit.

        By the `spherical` path, of two prompts, the weight of the second is its share of the angle between them.
        """
        how = replace(how, chunks=max(how.chunks, *(len(self.read(one.text, how.reading).chunks) for one in prompts)))
        parts = [self.encode(prompt.text, how) for prompt in prompts]
        if len(prompts) == 1 and prompts[0].weight == 1.0:
            return parts[0]
        weights = [prompt.weight for prompt in prompts]
        pooled = [part.pooled for part in parts if part.pooled is not None]
        mixed = _along_arc if path == "spherical" else _weighted
        return Encoded(mixed(weights, [part.embedding for part in parts]), mixed(weights, pooled) if pooled else None)

    def _kept(self, key: Hashable, make: Callable[[], Encoded]) -> Encoded:
        """What was made under this key, or is made now. What was used longest ago makes room for it."""
        known = self._cache.get(key)
        if known is None:
            known = self._cache[key] = make()
            while len(self._cache) > 1 and self._chunks_kept > self._capacity:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return known

    @property
    def _chunks_kept(self) -> int:
        return sum(kept.embedding.shape[1] // self.tokens for kept in self._cache.values())

    def _encoded(self, read: ReadPrompt, how: How) -> Encoded:
        """The embedding of a prompt's chunks, and of the empty text until there are enough."""
        first, *others = chain(read.chunks, [()] * (how.chunks - len(read.chunks)))
        added = [encoder.additions(how.acting, number) for number, encoder in enumerate(self._encoders)]
        encoded = self._chunk(first, how.clip_skip, added)
        if not others:
            return encoded
        further = [self._chunk(chunk, how.clip_skip, added).embedding for chunk in others]
        return Encoded(torch.cat([encoded.embedding, *further], dim=1), encoded.pooled)

    def _chunk(self, chunk: Chunk, clip_skip: int, added: Sequence[Mapping[str, Added]]) -> Encoded:
        ids, weights = [token.id or 0 for token in chunk], [token.weight for token in chunk]
        parts = [
            encoder.embed(ids, vectors=self._vectors(chunk, number), clip_skip=clip_skip, added=added[number])
            for number, encoder in enumerate(self._encoders)
        ]
        pooled = [part.pooled for part in parts if part.pooled is not None]
        states = torch.cat([_emphasised(part.states, weights) for part in parts], dim=-1)
        return Encoded(states, pooled[0] if pooled else None)

    def _vectors(self, chunk: Chunk, encoder: int) -> Mapping[int, Tensor]:
        """By place, what stands for the tokens of a chunk that are of embeddings."""
        return {
            place: self._words.vector(token, encoder) for place, token in enumerate(chunk) if token.vector is not None
        }


def _emphasised(states: Tensor, weights: Sequence[float]) -> Tensor:
    """The states [1, tokens, width] of a chunk times its tokens' weights, with the mean of all that they had before.

    That is A1111's "Original" emphasis. Marks and padding have no weight, and a chunk without any keeps its bits.
    """
    if all(weight == 1.0 for weight in weights):
        return states
    rest = states.shape[1] - 1 - len(weights)
    each = torch.tensor([1.0, *weights, *[1.0] * rest], device=states.device)
    before = states.float()
    after = before * each[None, :, None]
    was, now = before.mean(), after.mean()
    is_more_than_rounding = torch.minimum(was.abs(), now.abs()) > _ROUNDING * before.abs().mean()
    return (after * torch.where(is_more_than_rounding, was / now, 1.0)).to(states.dtype)


def _zeros_like(encoded: Encoded) -> Encoded:
    pooled = None if encoded.pooled is None else torch.zeros_like(encoded.pooled)
    return Encoded(torch.zeros_like(encoded.embedding), pooled)


def _along_arc(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """From the first of two tensors to the other, by the weight of that, in their dtype."""
    first, last = tensors
    return along_arc(first.float(), last.float(), weights[1]).to(first.dtype)


def _weighted(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """Σ weight·tensor in float32, in the dtype of the tensors."""
    summed = torch.stack([w * tensor.float() for w, tensor in zip(weights, tensors, strict=True)]).sum(dim=0)
    return summed.to(tensors[0].dtype)

"""What text encoders make of a chunk of tokens: as many as CLIP reads at once, between a start and an end mark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from farm.errors import InvalidInput
from worker.diffusion.adapters import Acting
from worker.diffusion.additions import Added, fitted, summed

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

    @property
    def width(self) -> int:
        """Of its tokens' embeddings."""
        width: int = self.module.config.hidden_size
        return width

    @torch.no_grad()
    def embed(
        self,
        tokens: Sequence[int],
        *,
        vectors: Mapping[int, Tensor] | None = None,
        clip_skip: int = 1,
        added: Mapping[str, Added] | None = None,
    ) -> Embedded:
        """What is made of at most `length` - `SPECIAL_TOKENS` tokens, in the encoder's dtype and on its device.

        `vectors` [width] stand in the places of tokens, by their numbers from 0, whatever those are. The states are
        those of as many layers before the ones that they usually are as `clip_skip` is above 1: as A1111 counts them;
        diffusers counts from 0. Layers get what is `added` to their outputs, by their paths (see `additions`). Raises
        `InvalidInput` if the encoder has too few.
        """
        ids = [self.tokenizer.bos_token_id, *tokens, self.tokenizer.eos_token_id]
        ids += [self.tokenizer.pad_token_id] * (self.length - len(ids))
        given = torch.tensor([ids], device=self.module.device)
        with self._replaced(vectors or {}), self._adapted(added or {}):
            out: Any = self.module(given, output_hidden_states=self.hidden is not None or clip_skip > 1)
        return Embedded(self._states(out, clip_skip), out.text_embeds if self.pools else None)

    def additions(self, acting: Acting, number: int) -> Mapping[str, Added]:
        """What adapters add to the layers of this encoder, which is the `number`th of its model, counted from 0.

        Raises `InvalidInput` for adapters that were made for another model.
        """
        found: dict[str, list[tuple[Added, float]]] = {}
        modules = dict(self.module.named_modules())
        for adapter, strength in ((reference(), strength) for reference, strength in acting):
            assert adapter is not None, "whoever asks holds it"
            for path, factors in adapter.encoders[number].items() if number < len(adapter.encoders) else ():
                found.setdefault(path, []).append((fitted(adapter, path, factors, modules.get(path)), strength))
        return {path: summed(parts) for path, parts in found.items()}

    @contextmanager
    def _adapted(self, added: Mapping[str, Added]) -> Iterator[None]:
        """Let layers, by their paths, give more than their own output."""
        hooks = [
            self.module.get_submodule(path).register_forward_hook(
                lambda layer, given, out, one=one: one.to_linear(layer, given[0], out)
            )
            for path, one in added.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _replaced(self, vectors: Mapping[int, Tensor]) -> Iterator[None]:
        """Let the embeddings of tokens in some places be others than those of the vocabulary."""

        def replace(_: Any, __: Any, looked_up: Tensor) -> Tensor:
            looked_up = looked_up.clone()
            for place, vector in vectors.items():
                looked_up[:, 1 + place] = vector.to(looked_up)
            return looked_up

        if not vectors:
            yield
            return
        hook = self.module.get_input_embeddings().register_forward_hook(replace)
        try:
            yield
        finally:
            hook.remove()

    def _states(self, out: Any, clip_skip: int) -> Tensor:
        if self.hidden is None and clip_skip == 1:
            last: Tensor = out.last_hidden_state
            return last
        layer = (-1 if self.hidden is None else self.hidden) - (clip_skip - 1)
        if -layer > len(out.hidden_states):
            most = clip_skip - (-layer - len(out.hidden_states))
            raise InvalidInput(
                f"{clip_skip} is more than the text encoder of this model has layers for",
                field="clip_skip",
                hint=f"at most {most}",
            )
        states: Tensor = out.hidden_states[layer]
        if self.hidden is None:
            model: Any = getattr(self.module, "text_model", self.module)  # what projects has it within
            states = model.final_layer_norm(states)
        return states

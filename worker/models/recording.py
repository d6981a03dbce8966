"""Recording a UNet's forward by TorchScript: which kernels it runs, without its Python and without its weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from worker.diffusion.adapting import Adapting, Gathered
from worker.diffusion.conditioning import Conditioning
from worker.models.model import LoadedModel

RECORDED_ROWS, TRIED_ROWS = 2, 3

Recording = Callable[..., Tensor]
"""The kernels of a UNet's forward, without its weights: called with rows, timesteps, the tensors of a conditioning, all
of these, and the tensors of what adapters add if it is of a kind of that."""

_recordings: dict[str, Recording] = {}
_recording = Lock()
"""TorchScript keeps what it has recorded until the process ends, and records one thing at a time. So there is one
recording for all UNets of a configuration, and it holds no weights."""


@dataclass(frozen=True, eq=False)
class Original:
    """The UNet that is recorded, and what it is called with for that: a row's conditioning, and how many channels and
    pixels latents have.

    It is a copy, of the same weights, and so are its `adapting`'s layers: recording changes modules, while the model's
    own are called by others.
    """

    unet: Any
    adapting: Adapting
    conditioning: Conditioning
    channels: int
    side: int

    @classmethod
    def of(cls, model: LoadedModel, conditioning: Conditioning, side: int) -> Original:
        """That of a model whose UNet nobody calls yet. `conditioning` is any row's."""
        unet = deepcopy(
            model.unet, {id(tensor): tensor for tensor in (*model.unet.parameters(), *model.unet.buffers())}
        )
        adapting = Adapting(unet, model.cross_attention)
        return cls(unet, adapting, conditioning, model.row_shape[0], side)

    @torch.no_grad()
    def forward(self, rows: Tensor, timesteps: Tensor, conditioning: Conditioning, added: Gathered | None) -> Tensor:
        """Its output, without its Python being spared."""
        with self.adapting.adding(added):
            out: Tensor = self.unet(rows, timesteps, **conditioning.arguments, return_dict=False)[0]
        return out

    def recorded(self) -> tuple[Tensor, Tensor, Conditioning]:
        """Rows, timesteps and conditioning."""
        rows = self.conditioning.text.new_zeros((RECORDED_ROWS, self.channels, self.side, self.side))
        return rows, rows.new_zeros(len(rows)), Conditioning.stacked([self.conditioning] * len(rows))

    def tried(self) -> tuple[Tensor, Tensor, Conditioning]:
        """The same of other shapes."""
        side = 2 * self.side
        rows = torch.linspace(-1, 1, TRIED_ROWS * self.channels * side * side)
        together = Conditioning.stacked([_longer(self.conditioning)] * TRIED_ROWS)
        return rows.view(TRIED_ROWS, self.channels, side, side), torch.linspace(1, 900, TRIED_ROWS), together


def recording_of(original: Original, added: Gathered | None) -> Recording:
    """The recording of the UNet's configuration, with what adapters add if there is some, made with it if there is
    none."""
    # What begins with an underscore tells where it was loaded from, which is another folder each time.
    configuration = {name: value for name, value in original.unet.config.items() if not name.startswith("_")}
    asked = [configuration, original.conditioning.shape, added and vars(added.kind)]
    kind = json.dumps(asked, default=str, sort_keys=True)
    with _recording:
        if kind not in _recordings:
            _recordings[kind] = _record(original, added)
        return _recordings[kind]


@torch.no_grad()
def _record(original: Original, added: Gathered | None) -> Recording:
    names = [name for name, _ in original.unet.named_parameters()]
    held = [original]  # TorchScript keeps the function that it records, so that must not keep the UNet
    rows, timesteps, conditioning = original.recorded()
    conditioned, count, kind = type(conditioning), len(conditioning.tensors), added and added.kind

    def forward(rows: Tensor, timesteps: Tensor, *given: Tensor) -> Tensor:
        conditioning, rest = conditioned(*given[:count]), given[count:]
        weights, more = rest[: len(names)], rest[len(names) :]
        adding = held[0].adapting.from_tensors(kind, more) if kind else None
        with _given(held[0].unet, dict(zip(names, weights, strict=True))):
            return held[0].forward(rows, timesteps, conditioning, adding)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `torch.jit.trace` is deprecated, and warns of every `if` of the model
            example = rows, timesteps, *conditioning.tensors, *original.unet.parameters()
            recording: Recording = torch.jit.trace(
                forward, (*example, *(added.tensors if added else ())), check_trace=False
            )
    finally:
        held.clear()
    return recording


@contextmanager
def _given(unet: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the UNet compute with these tensors instead of its parameters, by name."""
    own: list[tuple[nn.Module, str, nn.Parameter]] = []
    for name, tensor in weights.items():
        path, _, last = name.rpartition(".")
        module = unet.get_submodule(path)
        own.append((module, last, getattr(module, last)))
        delattr(module, last)
        setattr(module, last, tensor)
    try:
        yield
    finally:
        for module, last, parameter in own:
            delattr(module, last)
            setattr(module, last, parameter)


def _longer(conditioning: Conditioning) -> Conditioning:
    """A row's conditioning on a prompt of twice as many tokens."""
    text, *others = conditioning.tensors
    return type(conditioning)(torch.cat([text, text.flip(1)], dim=1), *others)

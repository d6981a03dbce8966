"""A model ready to compute, and how its UNet is called: the one thing that engine, losses and measurements share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from farm.jobs.defaults import Defaults
from worker.diffusion.adapters import Stack
from worker.diffusion.adapting import Adapting, Gathered
from worker.diffusion.additions import Additions, Kind
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.cross_attention import CrossAttentionCache
from worker.diffusion.preview import PreviewMap
from worker.diffusion.prompts import Encoded, PromptEncoder
from worker.diffusion.text import TextEncoder
from worker.families.family import Family, Frame

_LARGE = 64 * 64
"""Latent pixels: of 512×512 at a factor of 8. A step of fewer takes moderate time on anything."""


@dataclass(frozen=True)
class MemoryProfile:
    """Bytes at the highest, besides the weights, of the model's default size: for a row of the UNet, for a picture that
    is decoded, and for one through which a loss is differentiated."""

    row: int
    picture: int
    gradient: int


class UNetForward(Protocol):
    """A quicker way through a model's UNet, for the shapes that it was made for."""

    @property
    def module(self) -> torch.nn.Module:
        """What is called for a forward."""
        ...

    def fits(self, rows: Tensor, conditioning: Conditioning) -> bool:
        """Whether it can take rows [N, 4, h, w] under such a conditioning."""
        ...

    def __call__(self, rows: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's output [N, 4, h, w] for timesteps [N]."""
        ...


class AddingForward(UNetForward, Protocol):
    """One that may be able to add what rows' adapters say."""

    def adds(self, additions: Sequence[Additions | None]) -> bool:
        """Whether it can add what N rows have."""
        ...

    def __call__(
        self, rows: Tensor, timesteps: Tensor, conditioning: Conditioning, additions: Sequence[Additions | None] = ()
    ) -> Tensor:
        """The same, with what is added for each row, if any has some."""
        ...


class RecordedForward(AddingForward, Protocol):
    """One that takes long to be made for a kind of adapters."""

    def get_ready(self, kind: Kind) -> None:
        """Do now what rows of a kind would have to wait for. From any thread."""
        ...


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model on its device, with what a job needs to know of it. Compared by identity."""

    name: str
    source: str
    revision: str | None
    family: Family = field(repr=False)
    unet: UNet2DConditionModel = field(repr=False)
    vae: AutoencoderKL = field(repr=False)
    encoders: tuple[TextEncoder, ...] = field(repr=False)
    prompts: PromptEncoder = field(repr=False)
    cross_attention: CrossAttentionCache = field(repr=False)
    adapting: Adapting = field(repr=False)
    scheduler_config: Mapping[str, Any] = field(repr=False)
    preview: PreviewMap = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    vae_factor: int
    """Pixels per latent pixel, on each side: 8 for Stable Diffusion."""
    default_width: int
    default_height: int
    defaults: Defaults
    size: int
    """Bytes of all parameters and buffers."""
    sha256: str | None = None
    """Of the file that it was loaded from, if it is one."""
    vae_file: str | None = None
    """The name of the file whose autoencoder took the place of its own, if one did."""
    vae_sha256: str | None = None
    memory: MemoryProfile | None = None
    """What forwards and decodes take besides; None: not measured."""
    recorded: RecordedForward | None = field(default=None, repr=False)
    compiled: UNetForward | None = field(default=None, repr=False)
    graphed: AddingForward | None = field(default=None, repr=False)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture of the default size."""
        channels: int = self.unet.config["out_channels"]
        return channels, self.default_height // self.vae_factor, self.default_width // self.vae_factor

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """The same of what the UNet reads: an inpainting model's has more channels."""
        channels: int = self.unet.config["in_channels"]
        return channels, *self.latent_shape[1:]

    @property
    def reads_masks(self) -> bool:
        """Whether it is an inpainting model: see `worker.diffusion.masking`."""
        return self.row_shape[0] > self.latent_shape[0]

    @property
    def text_encoder(self) -> CLIPTextModel | CLIPTextModelWithProjection:
        """The first of them; Stable Diffusion has but one."""
        return self.encoders[0].module

    @property
    def tokenizer(self) -> CLIPTokenizer:
        """The first encoder's. Those of others make the same tokens."""
        return self.encoders[0].tokenizer

    @property
    def called_unet(self) -> torch.nn.Module:
        """The module that `predict` calls for the model's own size, to be hooked: hooks on the UNet inside are not
        called, or would undo the compilation."""
        quicker = self.graphed or self.compiled or self.recorded
        return self.unet if quicker is None else quicker.module

    def is_large(self, shape: Sequence[int]) -> bool:
        """Whether latents [..., h, w] are of a picture beyond the model's own size that may take long."""
        return shape[-2] * shape[-1] > max(self.latent_shape[-2] * self.latent_shape[-1], _LARGE)

    def conditioned(
        self,
        prompt: Encoded,
        frame: Frame | None = None,
        *,
        additions: Additions | None = None,
        cached: bool = True,
    ) -> Conditioning:
        """What a row is conditioned on, for a picture that is framed so; None: whole, and of the model's own size.

        Without the cross-attention cache it is as diffusers' UNet takes it, whose layers project it at every step, and
        where adapters change those it is not for them.
        """
        text = self.cross_attention.of(prompt, additions) if cached else prompt.embedding
        frame = frame or Frame.whole(self.default_width, self.default_height)
        return self.family.conditioned(text, prompt, frame)

    def get_ready(self, stack: Stack) -> None:
        """See to it that no step has to wait for what forwards under adapters like these need once. From any thread."""
        kind = self.adapting.kind(stack)
        if kind is not None and self.recorded is not None:
            self.recorded.get_ready(kind)

    def predict(
        self, rows: Tensor, timesteps: Tensor, conditioning: Conditioning, additions: Sequence[Additions | None] = ()
    ) -> Tensor:
        """The UNet's output [N, 4, h, w], in the model's dtype, for timesteps [N] and what N rows are conditioned on.

        `rows` [N, 4, h, w] are noisy latents, scaled as the UNet reads them; an inpainting model's have the mask and
        the masked picture's latents besides, [N, 9, h, w]. `additions` is what their adapters add, if any has some.
        """
        rows = rows.to(self.dtype)
        layout = self.adapting.layout(additions)
        if self.graphed is not None and self.graphed.fits(rows, conditioning) and self.graphed.adds(additions):
            return self.graphed(rows, timesteps, conditioning, additions)
        if layout is None and self.compiled is not None and self.compiled.fits(rows, conditioning):
            return self.compiled(rows, timesteps, conditioning)
        # A recording is one long operator, in the midst of which nobody else can have a turn.
        if self.recorded is not None and not self.is_large(rows.shape) and self.recorded.fits(rows, conditioning):
            if layout is None:
                return self.recorded(rows, timesteps, conditioning)
            if self.recorded.adds(additions):
                return self.recorded(rows, timesteps, conditioning, additions)
        added = self.adapting.gathered([additions], layout)[0] if layout else None
        return self.launch(rows, timesteps, conditioning, added)

    def launch(self, rows: Tensor, timesteps: Tensor, conditioning: Conditioning, added: Gathered | None) -> Tensor:
        """The same, every operator one by one, of rows in the model's dtype."""
        with self.adapting.adding(added):
            out: Tensor = self.unet(to_channels_last(rows), timesteps, **conditioning.arguments).sample
        return out


def to_channels_last(rows: Tensor) -> Tensor:
    """Rows in the memory layout that convolutions prefer on their device."""
    return rows.contiguous(memory_format=torch.channels_last) if rows.is_cuda else rows


def pad_rows(tensor: Tensor, number: int) -> Tensor:
    """The tensor with its first row repeated until there are `number`."""
    missing = number - len(tensor)
    return torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])]) if missing else tensor

"""What a family of models is: its parts, and what its UNet reads besides latents and timesteps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from farm.errors import ModelError
from farm.jobs.spec import ResolvedSpec
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.prompts import Encoded


@dataclass(frozen=True)
class EncoderPart:
    """A text encoder and its tokenizer: the folders of both in diffusers' layout, the encoder's class, and what is read
    of it (see `worker.diffusion.text.TextEncoder`)."""

    folder: str
    tokenizer: str
    kind: Any
    hidden: int | None = None
    pools: bool = False


@dataclass(frozen=True)
class Size:
    """Of a picture, in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class Frame:
    """How a picture is said to have been framed, in pixels: the size of its `original`, how much was cut off that on
    the left and above, and the size that was its `target`."""

    original: Size
    target: Size
    left: int = 0
    top: int = 0

    @classmethod
    def whole(cls, width: int, height: int) -> Self:
        """An original of this size, of which nothing was cut off."""
        return cls(Size(width, height), Size(width, height))

    @classmethod
    def of(cls, spec: ResolvedSpec) -> Self:
        """As a job says, and else whole."""
        own = Size(spec.width, spec.height)
        original, target = (
            own if size is None else Size(size.width, size.height) for size in (spec.original_size, spec.target_size)
        )
        left, top = (0, 0) if spec.crop is None else (spec.crop.x, spec.crop.y)
        return cls(original, target, left, top)


ConditioningOf = Callable[[Tensor, Encoded, Frame], Conditioning]
"""What a row is conditioned on, given the memory of its prompt (see `CrossAttentionCache`), the prompt itself, and how
the picture is framed."""


@dataclass(frozen=True, eq=False)
class Family:
    """All that loading and rendering must know of a family. Compared by identity."""

    name: str
    title: str
    encoders: tuple[EncoderPart, ...]
    conditioned: ConditioningOf
    check: Callable[[str, Any, Sequence[Any]], None]
    """Raises `ModelError` unless the configurations of a model's UNet and of its text encoders, in order, fit together;
    given its name."""
    asks: Mapping[str, Any] = field(default_factory=dict)
    """What the UNet's configuration asks for beyond the prompt's states, by key."""

    reads_frame: bool = False
    """Whether its UNet is told how the picture was framed."""
    zeros_for_nothing: bool = False
    """Whether its models were trained with zeros for an empty negative prompt, if they do not say otherwise."""

    @property
    def parts(self) -> Mapping[str, Any]:
        """The class of every part with weights, by its folder."""
        encoders = {encoder.folder: encoder.kind for encoder in self.encoders}
        return {"unet": UNet2DConditionModel, "vae": AutoencoderKL, **encoders}


def check_width(name: str, expected: Any, found: int) -> None:
    """Raise `ModelError` unless the UNet attends to texts as wide as the text encoders make them."""
    if expected != found:
        raise ModelError(f"the UNet of '{name}' attends to width {expected}, but its text encoder has {found}")

"""The losses that can guide a picture: torch functions of images, one value for each image.

`farm.losses` declares their names and numbers. A third party's distribution adds one by an entry point of the
group `farm.losses` that loads to a `Loss`: a callable with a `declaration`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from farm.errors import FarmError, RenderError
from farm.jobs.losses import BUILTIN, LossDeclaration, find
from farm.jobs.spec import ResolvedLossTerm, WeightedPrompt

ENTRY_POINT_GROUP = "farm.losses"


NEEDS = ("x0", "latents", "timestep", "embedding", "prompts")
"""What a loss may be given besides images and its arguments; see `Moment`."""


@dataclass(frozen=True)
class Moment:
    """What of a job a loss may look at besides its picture, at one step.

    The gradient of a loss is taken by `x0`, which is given with it; these are constants.
    """

    latents: Tensor
    """[1, 4, h, w], float32, as the sampler has them before the step."""
    timestep: Tensor
    """[1], of the model's training."""
    embedding: Tensor
    """[1, tokens, width], of the prompts, as they are mixed."""
    prompts: tuple[WeightedPrompt, ...]
    """Their texts and weights, of which the sum is one."""


@runtime_checkable
class Loss(Protocol):
    """A differentiable function of images [N, 3, H, W], RGB around 0 to 1, that returns a value for each: [N].

    One that has `needs`, some of `NEEDS`, is given those by name too: `x0` [N, 4, h, w], the predicted latents, and the
    parts of a `Moment`. Then N is one.
    """

    @property
    def declaration(self) -> LossDeclaration: ...

    def __call__(self, images: Tensor, /, *args: Any, **arguments: Any) -> Tensor: ...


@dataclass(frozen=True)
class WeightedLoss:
    """A loss with all its arguments and the scale that its gradient is applied with."""

    loss: Loss
    arguments: Mapping[str, float]
    scale: float

    @property
    def name(self) -> str:
        return self.loss.declaration.name

    @property
    def needs(self) -> tuple[str, ...]:
        return needs_of(self.loss)

    def evaluate(self, images: Tensor, x0: Tensor | None = None, moment: Moment | None = None) -> Tensor:
        """The unscaled values for images [N, 3, H, W]: [N]. Raises `RenderError('loss')` if the loss fails."""
        given = {name: x0 if name == "x0" else getattr(moment, name) for name in self.needs}
        try:
            values = self.loss(images, **given, **self.arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a third party's code: whatever it raises is this job's failure alone
            raise RenderError("loss", f"the loss '{self.name}' failed: {error}") from error
        if not isinstance(values, Tensor) or values.shape != images.shape[:1]:
            raise RenderError("loss", f"the loss '{self.name}' does not return one value for each image")
        return values


class Losses:
    """The losses that this worker knows, by name."""

    def __init__(self, losses: Iterable[Loss]) -> None:
        self._losses = {loss.declaration.name: loss for loss in losses}

    @property
    def declarations(self) -> tuple[LossDeclaration, ...]:
        return tuple(loss.declaration for loss in self._losses.values())

    def term(self, wanted: ResolvedLossTerm) -> WeightedLoss:
        """The loss that a spec asks for. Raises `InvalidInput` if it is unknown or its arguments are."""
        declaration = find(wanted.name, self.declarations)
        return WeightedLoss(self._losses[wanted.name], declaration.complete(wanted.arguments), wanted.scale)


def needs_of(loss: Loss) -> tuple[str, ...]:
    """What a loss is given besides images and its arguments."""
    return tuple(getattr(loss, "needs", ()))


def load_losses(plugins: Iterable[EntryPoint] | None = None, *, others: Iterable[Loss] = ()) -> Losses:
    """The built-in losses, `others`, and those of `plugins` (by default all that are installed).

    Raises `FarmError` naming the plugin if one cannot be imported, is not a `Loss`, or takes a name that is taken.
    """
    losses: dict[str, Loss] = {loss.declaration.name: loss for loss in (*_builtin(), *others)}
    for plugin in _installed() if plugins is None else plugins:
        loss = _load(plugin)
        if loss.declaration.name in losses:
            raise _broken(plugin, f"the name '{loss.declaration.name}' is taken")
        losses[loss.declaration.name] = loss
    return Losses(losses.values())


@cache
def _installed() -> tuple[EntryPoint, ...]:
    """Looked up once: it takes reading what every package says of itself."""
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _load(plugin: EntryPoint) -> Loss:
    try:
        loss = plugin.load()
    except Exception as error:  # importing a third party's module can raise anything
        raise _broken(plugin, f"{type(error).__name__}: {error}") from error
    if not isinstance(loss, Loss) or not callable(loss) or not isinstance(loss.declaration, LossDeclaration):
        raise _broken(plugin, "it is not a callable with a LossDeclaration as its 'declaration'")
    if unknown := set(needs_of(loss)) - set(NEEDS):
        raise _broken(plugin, f"it needs {min(unknown)!r:.80}, and a loss is given {', '.join(NEEDS)}")
    if taken := {argument.name for argument in loss.declaration.arguments} & set(needs_of(loss)):
        raise _broken(plugin, f"its argument '{min(taken)}' has the name of something that it needs")
    return loss


def _broken(plugin: EntryPoint, reason: str) -> FarmError:
    return FarmError(
        f"the loss plugin '{plugin.name}' ({plugin.value}) cannot be used: {reason}",
        hint=f"mend or uninstall {plugin.dist.name if plugin.dist else 'the package that brings it'}",
    )


@dataclass(frozen=True)
class _BuiltIn:
    declaration: LossDeclaration
    function: Callable[..., Tensor]

    def __call__(self, images: Tensor, **arguments: float) -> Tensor:
        return self.function(images, **arguments)


def _builtin() -> list[_BuiltIn]:
    functions: dict[str, Callable[..., Tensor]] = {
        "blue": blue,
        "color": color,
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "symmetry": symmetry,
        "sharpness": sharpness,
    }
    return [_BuiltIn(declaration, functions[declaration.name]) for declaration in BUILTIN]


def blue(images: Tensor, *, target: float) -> Tensor:
    """mean |B − target|"""
    return (images[:, 2] - target).abs().mean(dim=(1, 2))


def color(images: Tensor, *, red: float, green: float, blue: float) -> Tensor:
    """mean |RGB − (red, green, blue)| over pixels and channels"""
    wanted = images.new_tensor([red, green, blue]).view(1, 3, 1, 1)
    return (images - wanted).abs().mean(dim=(1, 2, 3))


def brightness(images: Tensor, *, target: float) -> Tensor:
    """|mean luma − target|"""
    return (_luma(images).mean(dim=(1, 2)) - target).abs()


def contrast(images: Tensor, *, target: float) -> Tensor:
    """|standard deviation of luma − target|"""
    variance = _luma(images).var(dim=(1, 2), correction=0)
    return ((variance + 1e-12).sqrt() - target).abs()  # √ has no slope at 0: keep a flat picture's gradient finite


def saturation(images: Tensor, *, target: float) -> Tensor:
    """|mean (largest − smallest channel) − target|"""
    return ((images.amax(dim=1) - images.amin(dim=1)).mean(dim=(1, 2)) - target).abs()


def symmetry(images: Tensor, *, horizontal: float, vertical: float) -> Tensor:
    """horizontal·mean |picture − its left-right mirror| + vertical·mean |picture − its top-bottom mirror|"""
    left_right = (images - images.flip(3)).abs().mean(dim=(1, 2, 3))
    top_bottom = (images - images.flip(2)).abs().mean(dim=(1, 2, 3))
    return horizontal * left_right + vertical * top_bottom


def sharpness(images: Tensor, *, target: float) -> Tensor:
    """|half the sum of mean |∂x| and mean |∂y| between neighbouring pixels − target|"""
    across = images.diff(dim=3).abs().mean(dim=(1, 2, 3))
    down = images.diff(dim=2).abs().mean(dim=(1, 2, 3))
    return ((across + down) / 2 - target).abs()


def _luma(images: Tensor) -> Tensor:
    """Rec. 601 luma, [N, H, W]."""
    return (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1)

"""What the engine is asked to do, what it says meanwhile, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from farm.errors import InvalidInput
from farm.jobs.report import LossValues, RenderReport
from farm.jobs.spec import JobSpec, ResolvedSpec
from worker.diffusion.adapters import Stack
from worker.diffusion.fitting import own_size
from worker.diffusion.losses import Losses
from worker.models.model import LoadedModel

_MORE_BESIDE_A_PICTURE = 2
"""By how much a picture that grows may exceed a model's own: what is there already holds it together."""

Pixels = NDArray[np.uint8]
"""[height, width, 3], red green blue."""


@dataclass(frozen=True)
class StepRecord:
    """One step's numbers: its index in the schedule, the noise level it starts from (as σ/α), losses and norms.

    Losses are unscaled, by name. Norms are of the latents `x` before the step and `x_next` after it, of the predicted
    `x0`, and of the model's `output`: guided, and where guidance takes two rows, of `conditional` and `unconditional`.
    Where a step evaluates the model twice, the level, `x` and the losses are of its beginning, and what is predicted is
    of the second evaluation.
    """

    step: int
    timestep: float
    sigma: float
    norms: Mapping[str, float]
    losses: Mapping[str, float]
    guidance: Mapping[str, float] | None = None
    """The `angle` between the two predictions, 0 to 180 degrees, and the `distance`: the norm of their difference."""
    x0_change: float | None = None
    """The norm of what the predicted x_0 differs by from the step before; None for a job's first step."""


@dataclass(frozen=True)
class Snapshot:
    """A job between two steps: all that any engine needs to go on as if nothing had come between.

    `position` of its steps are done, `x` [4, h, w] are its latents and `history` [HISTORY, 4, h, w] what its solver
    remembers, newest first: float32 on the CPU. `noise` is where its random stream is, and `seconds` what it took so
    far. `losses` are their values so far, and `x0` [4, h, w] what a traced job's last step predicted.
    """

    position: int
    x: Tensor
    history: Tensor
    noise: bytes
    seconds: float
    losses: LossValues = field(default_factory=dict)
    x0: Tensor | None = None


class Observer(Protocol):
    """Told of a job's progress on the engine's own thread: must return at once and never raise."""

    def on_step(self, done: int) -> None:
        """`done` of the job's steps are done."""

    def on_losses(self, values: Mapping[str, float]) -> None:
        """What losses that were due at a step said there, before their scales."""

    def on_start(self, frame: Pixels) -> None:
        """The noised latents that a traced job starts from, beside its picture as fitted: [height, 2·width, 3]."""

    def on_trace(self, record: StepRecord, frame: Pixels | None) -> None:
        """A traced step. `frame` [height, 2·width, 3] shows the latents after it beside the predicted x_0."""

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Now and then, in a long job: what to keep in case this process ends."""

    def on_preview(self, done: int, pixels: Pixels) -> None:
        """As asked for: how the job looks after `done` steps, one pixel a latent (the predicted x_0, not decoded)."""


class SilentObserver:
    """An observer that nobody listens to."""

    def on_step(self, done: int) -> None:
        pass

    def on_losses(self, values: Mapping[str, float]) -> None:
        pass

    def on_start(self, frame: Pixels) -> None:
        pass

    def on_trace(self, record: StepRecord, frame: Pixels | None) -> None:
        pass

    def on_snapshot(self, snapshot: Snapshot) -> None:
        pass

    def on_preview(self, done: int, pixels: Pixels) -> None:
        pass


@dataclass(frozen=True)
class RenderRequest:
    """A job for the engine. `picture` is the decoded init image where there is one, `stack` its adapters.

    With a `mask` (mode L, of the picture's size) only what is white there is redone. `resume` is where an earlier
    attempt got to; then the picture is not looked at, unless it has a mask.
    """

    id: str
    spec: ResolvedSpec
    model: LoadedModel
    priority: int = 5
    picture: Image.Image | None = None
    mask: Image.Image | None = None
    resume: Snapshot | None = None
    stack: Stack = ()
    observer: Observer = field(default_factory=SilentObserver)


@dataclass(frozen=True)
class Rendered:
    """A finished picture, what the user should know of it, the seconds spent by part, and how it came to be."""

    pixels: Pixels
    warnings: tuple[str, ...]
    timings: Mapping[str, float]
    report: RenderReport = field(default_factory=RenderReport)


class Cancelled(Exception):
    """The job was cancelled, or taken from this worker, before it was done."""


class Suspended(Exception):
    """The engine was asked to let go of everything: the job can go on elsewhere from its `snapshot`."""

    def __init__(self, job: str, snapshot: Snapshot) -> None:
        super().__init__(job)
        self.snapshot = snapshot


def resolve(spec: JobSpec, model: LoadedModel, losses: Losses) -> ResolvedSpec:
    """`spec` with the size, the framing and the scales that it left to the model and to these losses.

    Raises `InvalidInput` if the model refuses it.
    """
    width, height = _own_size(spec, model) or (model.default_width, model.default_height)
    scale = spec.guidance.scale
    _check_framing(spec, model)
    resolved = ResolvedSpec.of(
        spec,
        width=spec.width or width,
        height=spec.height or height,
        scale=model.defaults.guidance if scale is None else scale,
        loss_scales={loss.name: model.defaults.losses * loss.default_scale for loss in losses.declarations},
        framing={} if spec.is_study else model.defaults.framing,
    )
    for side, pixels in (("width", resolved.width), ("height", resolved.height)):
        if pixels % model.vae_factor:
            raise InvalidInput(f"{pixels} is not a multiple of {model.vae_factor}, as '{model.name}' needs", field=side)
    return resolved


def _check_framing(spec: JobSpec, model: LoadedModel) -> None:
    """Raise `InvalidInput` for a job that says how its picture was framed to a model that is not told."""
    if not model.family.reads_frame and (said := next(iter(spec.framing), None)):
        raise InvalidInput(
            f"the model '{model.name}' is {model.family.title}, and only models of SDXL are told that",
            field=said,
            hint="leave it out",
        )


def latent_shape(spec: ResolvedSpec, model: LoadedModel) -> tuple[int, int, int]:
    """[channels, height, width] of a job's latents."""
    return model.latent_shape[0], spec.height // model.vae_factor, spec.width // model.vae_factor


def _own_size(spec: JobSpec, model: LoadedModel) -> tuple[int, int] | None:
    """The size of a job that takes its init picture's shape; None if it does not, or nothing is known of that."""
    canvas = spec.start.canvas
    if spec.start.fit != "init" or canvas is None:
        return None
    most = model.default_width * model.default_height * (1 if spec.start.outpaint is None else _MORE_BESIDE_A_PICTURE)
    return own_size(*canvas, most=most, multiple=max(8, model.vae_factor))

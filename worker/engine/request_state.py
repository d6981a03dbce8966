"""A job in flight: everything that is its own between two ticks."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from farm.errors import InvalidInput
from farm.jobs.report import LossValues, PromptRead, RenderReport, ScheduleUsed
from worker.diffusion.additions import Additions
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.losses import WeightedLoss
from worker.diffusion.masking import Kept
from worker.diffusion.noise import NoiseStream
from worker.diffusion.plans import Coefficient, SamplingPlan
from worker.diffusion.prompts import Encoded
from worker.engine.admission import Candidate
from worker.engine.request import Rendered, RenderRequest, Snapshot


@dataclass(frozen=True, eq=False)
class Begun:
    """What a job was before the step that it is in the midst of, and what the losses said at its beginning."""

    x: Tensor
    history: Tensor
    noise: bytes
    losses: Mapping[str, float]
    reached: Tensor | None = None
    """Of a job that keeps a part of its picture, where the first evaluation led, before that was put back."""


@dataclass(eq=False)
class RequestState:
    """The state that a job carries from step to step. Latents and history are float32 on the model's device.

    Between the two evaluations of a step `x` and `history` are what the first one made; `begun` is what was before.
    """

    request: RenderRequest
    arrival: int
    future: Future[Rendered]
    batch_key: Hashable
    plan: SamplingPlan
    conditional: Conditioning
    """Of the mixed prompts, one row."""
    prompt: Encoded
    """The mixed prompts themselves."""
    unconditional: Conditioning | None
    """Of the negative prompt, one row; None where guidance is off."""
    terms: tuple[tuple[WeightedLoss, int], ...]
    """Losses, each with the number of steps from one use to the next."""
    noise: NoiseStream
    x: Tensor
    """[4, h, w]"""
    history: Tensor
    """[HISTORY, 4, h, w]: what the solver remembers, newest first."""
    warnings: tuple[str, ...]
    prompts: tuple[PromptRead, ...]
    preparing: float
    """Seconds that it took to read the prompts and to encode the picture."""
    additions: Additions | None = None
    """What its adapters add to the UNet."""
    kept: Kept | None = None
    """What is put back after every evaluation; None where nothing is."""
    beside: Tensor | None = None
    """[5, h, w], what an inpainting model's UNet reads beside the latents: the mask, and the masked picture."""
    position: int = 0
    """Steps done."""
    evaluated: int = 0
    """Evaluations done, that of a step under way too."""
    begun: Begun | None = None
    """None between two steps."""
    losses: LossValues = field(default_factory=dict)
    """So far."""
    x0: Tensor | None = None
    """[4, h, w], what the last step of a traced job predicted."""
    started: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    """When the last snapshot was taken."""
    last_step_at: float = 0.0
    wants_preview: bool = False
    """Whether a preview is asked for."""
    needs_all_room: bool = False
    """Whether there was no room for others beside it, so that none may cut in."""
    _drawn: Tensor | None = None
    _undrawn: bytes = b""
    """Where the random stream was before that was drawn."""

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.id, self.batch_key, self.request.priority, self.arrival, self.rows)

    @property
    def is_large(self) -> bool:
        """Whether a step may take long, by the picture's size."""
        return self.request.model.is_large(self.x.shape)

    @property
    def rows(self) -> int:
        return 1 if self.unconditional is None else 2

    @property
    def bytes_of_further_chunks(self) -> int:
        """What a row's prompt takes beyond its first chunk, which a model's memory profile has."""
        text = self.conditional.text
        return text.nbytes * (text.shape[1] - self.request.model.prompts.tokens) // text.shape[1]

    @property
    def is_done(self) -> bool:
        return self.position == self.plan.steps

    @property
    def is_late(self) -> bool:
        limit = self.request.spec.time_limit
        return limit is not None and time.monotonic() - self.started > limit

    @property
    def step(self) -> int:
        """The index in the whole schedule of the step that is next or under way."""
        return self.plan.start + self.position

    @property
    def advanced_step(self) -> int:
        """The index of the step that the last evaluation was of."""
        return self.step if self.begun else self.step - 1

    @property
    def coefficients(self) -> NDArray[np.float32]:
        """[len(Coefficient)]: the next evaluation's row of the plan."""
        row: NDArray[np.float32] = self.plan.table[self.evaluated]
        return row

    @property
    def ends_step(self) -> bool:
        """Whether the next evaluation is the last of its step."""
        return self.begun is not None or self.plan.evaluations[self.position] == 1

    @property
    def is_wanted(self) -> bool:
        """Whether anybody still waits for the job."""
        return not self.future.done()

    @property
    def losses_due(self) -> tuple[WeightedLoss, ...]:
        """Those that act before the next evaluation: once in a step, at its beginning."""
        return () if self.begun else tuple(term for term, every in self.terms if self.step % every == 0)

    @property
    def is_at_last_step(self) -> bool:
        return self.position == self.plan.steps - 1

    @property
    def is_traced_now(self) -> bool:
        trace = self.request.spec.trace
        is_kept = self.is_at_last_step or self.position % trace.every == 0
        return trace.level != "none" and is_kept and self.ends_step

    @property
    def wants_start(self) -> bool:
        """Whether its trace begins with the noised picture."""
        return self.position == 0 and self.wants_frames and self.request.picture is not None

    @property
    def is_previewed_now(self) -> bool:
        return self.wants_preview and not self.is_at_last_step and self.ends_step

    @property
    def wants_frames(self) -> bool:
        return self.request.spec.trace.level in ("frames", "video")

    @property
    def step_x(self) -> Tensor:
        """[4, h, w]: the latents before the step that is next or under way."""
        return self.x if self.begun is None else self.begun.x

    @property
    def reached(self) -> Tensor | None:
        """[4, h, w]: in the midst of a step, where its first evaluation led if something was put back since.

        The second one starts from where the first did, which only this tells.
        """
        return None if self.begun is None else self.begun.reached

    def losses_of_step(self, losses: Mapping[str, float]) -> Mapping[str, float]:
        """What losses said in the step whose next evaluation gives `losses`."""
        return losses if self.begun is None else self.begun.losses

    def fresh_noise(self) -> Tensor | None:
        """This evaluation's draw [4, h, w] on the CPU, if it adds noise; asked twice within it it is one."""
        if self._drawn is None and self.coefficients[Coefficient.NOISE] != 0:
            self._undrawn = self.noise.state
            self._drawn = self.noise.draw((1, *self.x.shape))[0]
        return self._drawn

    @property
    def _noise_state(self) -> bytes:
        """Where the random stream is, less what was drawn for an evaluation that is still to be done."""
        return self.noise.state if self._drawn is None else self._undrawn

    @property
    def report(self) -> RenderReport:
        """How the picture came to be, so far."""
        schedule = self.plan.schedule
        used = ScheduleUsed(
            spacing=schedule.spacing,
            timesteps=tuple(schedule.timesteps.tolist()),
            sigmas=tuple(schedule.sigma_ve.tolist()),
        )
        return RenderReport(prompts=self.prompts, schedule=used, losses=self.losses)

    def commit(
        self, x: Tensor, history: Tensor, x0: Tensor, losses: Mapping[str, float], reached: Tensor | None = None
    ) -> bool:
        """Take the result of an evaluation; `reached` is its `x` before anything was put back, if something was.

        Returns whether that ended a step.
        """
        ended, losses = self.ends_step, self.losses_of_step(losses)
        if ended:
            for name, value in losses.items():
                self.losses.setdefault(name, []).append((self.step, value))
            self.x0 = None if self.request.spec.trace.level == "none" else x0
            self.position += 1
            self.begun = None
        else:
            self.begun = Begun(self.x, self.history, self._noise_state, losses, reached)
        self.evaluated += 1
        self.x, self.history, self._drawn = x, history, None
        return ended

    def snapshot(self) -> Snapshot:
        """The state between two steps, copied: of a step that is under way, what was before."""
        self.saved = time.monotonic()
        before = self.begun or Begun(self.x, self.history, self._noise_state, {})
        return Snapshot(
            position=self.position,
            x=before.x.detach().to("cpu", copy=True),
            history=before.history.detach().to("cpu", copy=True),
            noise=before.noise,
            seconds=self.saved - self.started,
            losses={name: list(values) for name, values in self.losses.items()},
            x0=None if self.x0 is None else self.x0.detach().to("cpu", copy=True),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from where an earlier attempt got to. Raises `InvalidInput` if it is not one of this job."""
        if snapshot.x.shape != self.x.shape or snapshot.history.shape != self.history.shape:
            raise InvalidInput(f"a snapshot of latents {tuple(snapshot.x.shape)} is not one of {tuple(self.x.shape)}")
        if not 0 < snapshot.position < self.plan.steps:
            raise InvalidInput(f"a snapshot at step {snapshot.position} is not one of {self.plan.steps} steps")
        self.x, self.history = snapshot.x.to(self.x.device), snapshot.history.to(self.x.device)
        self.x0 = None if snapshot.x0 is None else snapshot.x0.to(self.x.device)
        self.losses = {name: list(values) for name, values in snapshot.losses.items()}
        self.noise.restore(snapshot.noise)
        self.position = snapshot.position
        self.evaluated = int(self.plan.first_rows[snapshot.position])
        self.started -= snapshot.seconds

"""What observers are told of a step: its numbers and frames for a trace, and a preview for those who look."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worker.diffusion.fitting import fit
from worker.engine.decoding import Decoder
from worker.engine.request import Pixels, StepRecord
from worker.engine.request_state import RequestState
from worker.engine.rows import Step

_log = logging.getLogger(__name__)


class Reports:
    """Tells observers of a step before their jobs have committed it. `decoder` makes the frames of traces."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def traces(self, traced: Sequence[int], states: Sequence[RequestState], step: Step) -> None:
        """Tell the observers of the jobs at `traced` what the step did, with frames where they want them."""
        for index in traced:
            if states[index].wants_start:
                states[index].request.observer.on_start(self._start(states[index]))
        framed = [index for index in traced if states[index].wants_frames]
        frames = dict(zip(framed, self._frames(states, framed, step), strict=True))
        for index in traced:
            state = states[index]
            state.request.observer.on_trace(_record(state, index, step), frames.get(index))

    def previews(self, wanted: Sequence[int], states: Sequence[RequestState], step: Step) -> None:
        """Give the observers of the jobs at `wanted` one preview each, [h, w, 3]: the predicted x_0 by the linear map.

        None if that fails, for no job may fail because somebody looks at it.
        """
        if not wanted:
            return
        for index in wanted:
            states[index].wants_preview = False
        try:
            pictures = states[0].request.model.preview.render(step.x0[wanted]).cpu().numpy()
        except Exception:
            _log.warning("no previews could be made", exc_info=True)
            return
        for index, pixels in zip(wanted, pictures, strict=True):
            states[index].request.observer.on_preview(states[index].position + 1, pixels)

    def _start(self, state: RequestState) -> Pixels:
        """The latents that a job starts from, decoded, beside its picture as it was fitted: [height, 2·width, 3]."""
        spec, picture = state.request.spec, state.request.picture
        assert picture is not None
        (noised,) = self._decoder.pixels(state, state.x[None])
        fitted = fit(picture, spec.width, spec.height, spec.start.fit)
        return np.concatenate([noised.cpu().numpy(), np.asarray(fitted)], axis=1)

    def _frames(self, states: Sequence[RequestState], framed: Sequence[int], step: Step) -> list[Pixels]:
        """The latents after this step and the predicted x_0, decoded side by side: [height, 2·width, 3] each."""
        if not framed:
            return []
        pairs = torch.stack([step.x[framed], step.x0[framed]], dim=1).flatten(0, 1)
        decoded = self._decoder.pixels(states[0], pairs)
        return [torch.cat([noisy, clean], dim=1).cpu().numpy() for noisy, clean in decoded.unflatten(0, (-1, 2))]


def _record(state: RequestState, index: int, step: Step) -> StepRecord:
    """A step's numbers, read from the device at once. Each is of this job's tensors alone, and so are its bits.

    Of a step of two evaluations the level, the losses and `x` are of its beginning, and what was predicted is of the
    second one.
    """
    x0 = step.x0[index]
    measured = {"x": state.step_x, "x_next": step.x[index], "x0": x0, "output": step.out[index]}
    halves = step.predictions.get(index)
    if halves is not None:
        measured |= {"conditional": halves[0], "unconditional": halves[1], "distance": halves[0] - halves[1]}
    if state.x0 is not None:
        measured["x0_change"] = x0 - state.x0
    norms = dict(zip(measured, _norms(*measured.values()), strict=True))
    if halves is not None:
        norms["angle"] = _angle(halves[0] / norms["conditional"], halves[1] / norms["unconditional"])
    numbers = dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True))
    guidance: dict[str, float] = {name: numbers.pop(name) for name in ("angle", "distance") if name in numbers}
    begins = state.plan.first_rows[state.position]
    return StepRecord(
        step=state.step,
        timestep=float(state.plan.timestep[begins]),
        sigma=float(state.plan.sigma[begins]),
        x0_change=numbers.pop("x0_change", None),
        guidance=guidance or None,
        norms=numbers,
        losses=state.losses_of_step(step.losses[index]),
    )


def _norms(*tensors: Tensor) -> Tensor:
    """The norm of each, in one kernel: at every step of every traced job, many small ones are what takes time."""
    norms: Tensor = torch.stack(tensors).flatten(1).norm(dim=1)
    return norms


def _angle(one: Tensor, other: Tensor) -> Tensor:
    """The angle between two of norm 1, 0 to 180 degrees: Kahan's formula, for small ones are lost in a cosine."""
    return torch.rad2deg(2 * torch.atan2(*_norms(one - other, one + other)))

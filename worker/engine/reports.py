"""What observers are told of a step: its numbers and frames for a trace, and a preview for those who look."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

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

    def _frames(self, states: Sequence[RequestState], framed: Sequence[int], step: Step) -> list[Pixels]:
        """The latents after this step and the predicted x_0, decoded side by side: [height, 2·width, 3] each."""
        if not framed:
            return []
        pairs = torch.stack([step.x[framed], step.x0[framed]], dim=1).flatten(0, 1)
        decoded = self._decoder.pixels(states[0], pairs)
        return [torch.cat([noisy, clean], dim=1).cpu().numpy() for noisy, clean in decoded.unflatten(0, (-1, 2))]


def _record(state: RequestState, index: int, step: Step) -> StepRecord:
    norms = {"x": state.x, "x0": step.x0[index], "output": step.out[index]}
    return StepRecord(
        step=state.step,
        timestep=float(state.plan.timestep[state.position]),
        sigma=float(state.plan.sigma[state.position]),
        norms={name: float(tensor.norm()) for name, tensor in norms.items()},
        losses=step.losses[index],
    )

"""From finished latents to pictures: as many together as there is room for, and in tiles if not even one has room."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from worker.diffusion import latents
from worker.engine.failures import told
from worker.engine.jobs import Jobs
from worker.engine.memory import release
from worker.engine.request_state import RequestState
from worker.engine.room import Room
from worker.models.memory_profile import is_out_of_memory

_IN_TILES = "the picture was decoded in tiles, because memory was short: their seams may show"


class Decoder:
    """Decodes at most `chunk` pictures together. With `whole`, never in tiles, which depend on how much is free.

    `progress` is called as each piece of work begins.
    """

    def __init__(self, jobs: Jobs, room: Room, chunk: int, *, whole: bool, progress: Callable[[], None]) -> None:
        self._jobs = jobs
        self._room = room
        self._chunk = chunk
        self._whole = whole
        self._progress = progress

    def next_chunk(self, states: Sequence[RequestState]) -> list[RequestState]:
        """The first of the jobs, and as many more of its batch key as are decoded together with it."""
        alike = [state for state in states if state.batch_key == states[0].batch_key]
        return alike[: self._at_once(states[0])]

    def finish(self, chunk: Sequence[RequestState]) -> None:
        """Decode a chunk, and answer its jobs with their pictures or with what went wrong."""
        self._progress()
        try:
            pixels = self.pixels(chunk[0], torch.stack([state.x for state in chunk]))
        except Exception as error:
            self._one_by_one(chunk, error)
            return
        for state, picture in zip(chunk, pixels, strict=True):
            self._jobs.finish(state, picture)

    @torch.no_grad()
    def pixels(self, state: RequestState, batch: Tensor, *, in_tiles: bool = False) -> Tensor:
        """Pictures [N, height, width, 3] of latents [N, 4, h, w] of a job's size. The job is warned of tiles."""
        vae = state.request.model.vae
        decode = latents.decode
        if (in_tiles or self._fitting(state) == 0) and latents.has_tiles(vae, batch):
            decode = latents.decode_in_tiles
            state.warnings = tuple(dict.fromkeys((*state.warnings, _IN_TILES)))
        return torch.cat([latents.to_pixels(decode(vae, part)) for part in batch.split(self._at_once(state))])

    def differentiated(self, state: RequestState) -> int:
        """How many pictures of a job's size to differentiate losses of together."""
        return self._room.gradients(state, self._chunk)

    def _one_by_one(self, chunk: Sequence[RequestState], error: Exception) -> None:
        if len(chunk) == 1:
            self._in_tiles(chunk[0], error)
            return
        if is_out_of_memory(error):
            release(error)
            self._chunk = 1
        for state in chunk:
            self._progress()
            try:
                self._jobs.finish(state, self.pixels(state, state.x[None])[0])
            except Exception as own_error:
                self._in_tiles(state, own_error)

    def _in_tiles(self, state: RequestState, error: Exception) -> None:
        """A picture could not be decoded though it was alone. If there was no room for it, there may be for tiles."""
        if self._room.is_taken(error):
            self._room.wait_for(state)
            return
        if is_out_of_memory(error) and not self._whole:
            release(error)
            try:
                self._jobs.finish(state, self.pixels(state, state.x[None], in_tiles=True)[0])
            except Exception as last_error:
                self._jobs.fail(state, told(last_error, f"decoding job {state.id}"))
        else:
            self._jobs.fail(state, told(error, f"decoding job {state.id}"))

    def _at_once(self, state: RequestState) -> int:
        return max(1, self._fitting(state))

    def _fitting(self, state: RequestState) -> int:
        """How many pictures of a job's size have room together; 0 if not even one has."""
        return self._chunk if self._whole else self._room.pictures(state, self._chunk)

"""From finished latents to pictures: as many together as there is room for, and in tiles where one has none."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.diffusion import latents
from worker.engine.memory import Budget
from worker.engine.request_state import Flight

_IN_TILES = "the picture was decoded in tiles, for want of memory: their seams may show"


class Decoder:
    """Decodes at most `chunk` pictures together. With `whole`, never in tiles, which depend on how much is free."""

    def __init__(self, budget: Budget, chunk: int, *, whole: bool) -> None:
        self.whole = whole
        self._budget = budget
        self._chunk = chunk

    def together(self, flight: Flight) -> int:
        """How many pictures of a job's size to decode together."""
        return max(1, self._fitting(flight))

    def differentiated(self, flight: Flight) -> int:
        """How many pictures of a job's size to differentiate losses of together."""
        return self._budget.gradients(flight.request.model, flight.x.shape, self._chunk)

    def ran_out(self) -> None:
        """Several pictures did not fit together: one at a time from now on."""
        self._chunk = 1

    @torch.no_grad()
    def pixels(self, flight: Flight, batch: Tensor, *, in_tiles: bool = False) -> Tensor:
        """Pictures [N, height, width, 3] of latents [N, 4, h, w] of a job's size. The job is warned of tiles."""
        vae = flight.request.model.vae
        decode = latents.decode
        if (in_tiles or self._fitting(flight) == 0) and latents.has_tiles(vae, batch):
            decode = latents.decode_in_tiles
            flight.warnings = tuple(dict.fromkeys((*flight.warnings, _IN_TILES)))
        return torch.cat([latents.to_pixels(decode(vae, part)) for part in batch.split(self.together(flight))])

    def _fitting(self, flight: Flight) -> int:
        if self.whole:
            return self._chunk
        return self._budget.pictures(flight.request.model, flight.x.shape, self._chunk)

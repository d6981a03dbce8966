"""A job's random numbers: one stream for each seed, drawn on the CPU so that a seed means the same on every device.

The order of draws is diffusers': the autoencoder's sample of an init image first, then the noise that the
loop starts from, then one draw for each evaluation of the model after which the sampler adds noise: one a step, or
two of DPM++ SDE.
"""

from __future__ import annotations

import torch
from torch import Tensor


class NoiseStream:
    """Standard normal draws of one job, equal to diffusers' `randn_tensor` with a CPU generator of that seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """The next draw of this shape, float32 on the CPU. Latents are [1, 4, height/8, width/8]."""
        return torch.randn(shape, generator=self._generator, dtype=torch.float32)

    @property
    def state(self) -> bytes:
        """Where the stream is, to be given to `restore`."""
        return self._generator.get_state().numpy().tobytes()

    def restore(self, state: bytes) -> None:
        """Go on from a saved `state`."""
        self._generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

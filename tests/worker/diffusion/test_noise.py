from __future__ import annotations

import torch
from diffusers.utils.torch_utils import randn_tensor

from worker.diffusion.noise import NoiseStream

SHAPE = (1, 4, 8, 12)


def test_draws_equal_those_of_diffusers() -> None:
    for seed in (0, 32, 2**63 - 1):
        stream, generator = NoiseStream(seed), torch.Generator().manual_seed(seed)
        for _ in range(2):
            assert torch.equal(stream.draw(SHAPE), randn_tensor(SHAPE, generator=generator, dtype=torch.float32))


def test_streams_are_independent_of_each_other_and_of_the_global_one() -> None:
    alone = NoiseStream(5).draw(SHAPE)
    first, second = NoiseStream(5), NoiseStream(6)
    second.draw(SHAPE)
    torch.randn(3)
    assert torch.equal(first.draw(SHAPE), alone)


def test_a_restored_stream_goes_on_where_it_was_saved() -> None:
    stream = NoiseStream(7)
    stream.draw((1, 4, 5, 5))
    state = stream.state
    expected = stream.draw(SHAPE)
    other = NoiseStream(0)
    other.restore(state)
    assert torch.equal(other.draw(SHAPE), expected)

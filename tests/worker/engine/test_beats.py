"""Beats between operators, and attention in parts."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from worker.engine.beats import beats


def test_there_is_a_beat_before_every_operator() -> None:
    count = 0

    def beat() -> None:
        nonlocal count
        count += 1
        torch.zeros(1) + 1  # what a beat computes has none

    with beats(beat, in_parts=True):
        F.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)).sum()

    assert count == 4


def test_a_beat_may_end_it() -> None:
    def beat() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), beats(beat, in_parts=False):
        torch.ones(1)
    torch.ones(1)


@pytest.mark.long
@pytest.mark.parametrize("rows", [2, 3])
def test_long_attention_is_done_in_parts_and_is_the_same(rows: int) -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(rows, 2, 9_000, 24, generator=draw) for _ in range(3))
    done, counts = {}, {}
    for in_parts in (False, True):
        beaten: list[None] = []
        with beats(partial(beaten.append, None), in_parts=in_parts):
            done[in_parts] = F.scaled_dot_product_attention(query, key, value, dropout_p=0.0, is_causal=False)
        counts[in_parts] = len(beaten)
    torch.testing.assert_close(done[True], done[False], rtol=1e-5, atol=1e-6)
    assert counts[False] == 1
    assert counts[True] > 2


def test_short_or_masked_attention_is_done_whole() -> None:
    beaten: list[None] = []
    short, long = torch.randn(1, 2, 64, 8), torch.randn(1, 1, 9_000, 8)
    with beats(lambda: beaten.append(None), in_parts=True):
        F.scaled_dot_product_attention(short, short, short)
        F.scaled_dot_product_attention(long[..., :4, :], long, long, attn_mask=torch.ones(4, 9_000, dtype=torch.bool))
        F.scaled_dot_product_attention(short, short, short, is_causal=True)
    assert len(beaten) == 5  # the mask and a slice are operators too


@pytest.mark.parametrize("operators", [5, 40])
def test_the_host_stays_a_few_operators_ahead_of_the_device(operators: int) -> None:
    recorded, waited_for = [], []

    class Mark:
        def record(self) -> None:
            recorded.append(self)

        def synchronize(self) -> None:
            waited_for.append(self)

    behind = []
    with beats(lambda: behind.append(len(recorded) - len(waited_for)), in_parts=True, event=Mark):
        for _ in range(operators):
            torch.ones(1)

    assert len(recorded) == operators
    assert max(behind) == min(operators - 1, 8), "who comes in between waits for no more than these"
    assert waited_for == recorded[: len(waited_for)], "the oldest first"

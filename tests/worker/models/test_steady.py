"""Layers whose rows depend on their places are computed row by row, and only those."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from worker.models.steady import keep_rows_steady


class Uneven(nn.Linear):
    """One whose kernel sums the rows from the third on in another order."""

    calls = 0

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        out = super().forward(input)
        out[2:] += 1e-3
        return out


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@torch.no_grad()
def test_a_row_gets_the_same_bits_in_whatever_place(deterministic: None) -> None:
    layer = Uneven(4, 5)
    keep_rows_steady(layer)
    rows = torch.randn(6, 4)
    out = layer(rows)

    assert torch.equal(torch.cat([layer(row) for row in rows.split(1)]), out)
    assert torch.equal(layer(rows.flip(0)).flip(0), out)


@torch.no_grad()
def test_whether_rows_depend_on_their_places_is_found_out_once_for_each_shape(deterministic: None) -> None:
    layer = Uneven(4, 5)
    keep_rows_steady(layer)
    for _ in range(3):
        layer(torch.randn(2, 4))
    assert layer.calls == 8 + 3, "two rows do not"
    for _ in range(3):
        layer(torch.randn(6, 4))
    assert layer.calls == 8 + 3 + 1 + 3 * 6


@torch.no_grad()
def test_what_is_even_is_computed_at_once_under_its_own_name_and_with_its_hooks(deterministic: None) -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Linear(8, 8))
    names, seen = [*block.state_dict()], []
    block[0].register_forward_hook(lambda *given: seen.append(len(given[-1])))
    rows = torch.randn(5, 3, 8, 8).to(memory_format=torch.channels_last)
    before = block(rows)
    keep_rows_steady(block)

    assert torch.equal(block(rows), before)
    assert [*block.state_dict()] == names
    assert seen == [5, 5]
    assert isinstance(block[0], nn.Conv2d) and isinstance(block[1], nn.Linear)


def test_layers_stay_as_they_are_where_bytes_may_depend_on_company() -> None:
    layer = nn.Linear(2, 2)
    keep_rows_steady(layer)
    assert type(layer) is nn.Linear

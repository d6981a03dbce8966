from __future__ import annotations

import pytest
import torch

from worker.diffusion.guidance import guide, needs_unconditional


@pytest.mark.parametrize(("scale", "needed"), [(-1.0, True), (0.0, True), (0.5, True), (1.0, False), (7.5, True)])
def test_all_scales_but_one_need_the_unconditional_row(scale: float, needed: bool) -> None:
    assert needs_unconditional(scale) is needed


def test_every_row_has_its_own_scale() -> None:
    unconditional, conditional = torch.randn(2, 3, 4, 5, 6)
    guided = guide(unconditional, conditional, torch.tensor([1.0, 7.5, 0.0]))
    torch.testing.assert_close(guided[0], conditional[0])
    torch.testing.assert_close(guided[1], unconditional[1] + 7.5 * (conditional[1] - unconditional[1]))
    assert torch.equal(guided[2], unconditional[2])


def test_half_precision_is_guided_in_float32() -> None:
    assert guide(torch.zeros(1, 4, 2, 2).bfloat16(), torch.ones(1, 4, 2, 2).bfloat16(), torch.ones(1)).dtype == (
        torch.float32
    )

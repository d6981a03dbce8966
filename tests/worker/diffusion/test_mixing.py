"""The arc between two embeddings."""

from __future__ import annotations

import math

import pytest
import torch

from farm.jobs.spec import WeightedPrompt
from worker.diffusion.mixing import along_arc
from worker.diffusion.prompts import PromptEncoder
from worker.models.model import LoadedModel


def test_a_quarter_of_a_right_angle() -> None:
    first, last = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for share in (0.0, 0.25, 0.5, 1.0, 1.5):
        turned = math.pi / 2 * share
        expected = torch.tensor([[math.cos(turned), math.sin(turned)]])
        torch.testing.assert_close(along_arc(first, last, share), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("last", [[2.0, 0.0], [-2.0, 0.0], [0.0, 0.0]], ids=["parallel", "opposite", "of no length"])
def test_without_an_angle_the_way_is_straight_or_known(last: list[float]) -> None:
    first, other = torch.tensor([[1.0, 0.0]]), torch.tensor([last])
    mixed = along_arc(first, other, 0.25)
    assert torch.isfinite(mixed).all()
    if any(last):
        torch.testing.assert_close(mixed, 0.75 * first + 0.25 * other)


def test_every_position_has_an_arc_of_its_own(tiny_model: LoadedModel) -> None:
    """The mixed embedding, position by position in double precision; the mark of the start is both prompts'."""
    encoder = PromptEncoder(tiny_model.encoders)
    giraffe, cat = (encoder.encode(prompt).embedding[0].double() for prompt in ("a giraffe", "a cat"))
    mixed = encoder.mix(
        [WeightedPrompt(text="a giraffe", weight=0.7), WeightedPrompt(text="a cat", weight=0.3)], "spherical"
    )
    for position in range(77):
        one, other = giraffe[position], cat[position]
        angle = math.acos(min(1.0, float(one @ other / (one.norm() * other.norm()))))
        if angle < 1e-4:
            expected = 0.7 * one + 0.3 * other
        else:
            expected = (math.sin(0.7 * angle) * one + math.sin(0.3 * angle) * other) / math.sin(angle)
        torch.testing.assert_close(mixed.embedding[0, position].double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed.embedding[0, 0].double(), giraffe[0])
    assert not torch.allclose(mixed.embedding[0].double(), 0.7 * giraffe + 0.3 * cat, atol=1e-3)


def test_the_arcs_ends_are_the_prompts_own(tiny_model: LoadedModel) -> None:
    encoder = PromptEncoder(tiny_model.encoders)
    for share, prompt in ((0.0, "a giraffe"), (1.0, "a cat")):
        pair = [WeightedPrompt(text="a giraffe", weight=1 - share), WeightedPrompt(text="a cat", weight=share)]
        torch.testing.assert_close(
            encoder.mix(pair, "spherical").embedding, encoder.encode(prompt).embedding, atol=1e-6, rtol=1e-6
        )

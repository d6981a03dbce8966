"""What a step hands to the UNet, which the engine need not understand."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from worker.diffusion.conditioning import Conditioning
from worker.diffusion.losses import load_losses
from worker.engine.preparing import prepare
from worker.engine.request import RenderRequest
from worker.engine.request_state import RequestState
from worker.engine.rows import run_step
from worker.models.model import LoadedModel


@dataclass(frozen=True, eq=False)
class MoreThanText(Conditioning):
    """As of a UNet that reads a pooled embedding too."""

    pooled: Tensor
    """[N, 3]"""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*super().tensors, self.pooled)

    @property
    def arguments(self) -> dict[str, Any]:
        return {**super().arguments, "added_cond_kwargs": {"text_embeds": self.pooled}}


@pytest.fixture
def forwards() -> list[dict[str, Any]]:
    """What the UNet was called with, besides latents and timesteps."""
    return []


@pytest.fixture
def states(
    model: LoadedModel, request_for: Callable[..., RenderRequest], forwards: list[dict[str, Any]]
) -> list[RequestState]:
    """Three jobs, of which the second has no guidance; their UNet reads more than text."""

    def forward(rows: Tensor, timesteps: Tensor, **arguments: Any) -> Any:
        forwards.append(arguments)
        return SimpleNamespace(sample=rows)

    unet: Any = forward
    unet.config = model.unet.config
    reading = replace(model, unet=unet, recorded=None)
    made = []
    for number, guidance in enumerate((7.5, 1.0, 7.5)):
        request = replace(request_for(f"job {number}", guidance=guidance), model=reading)
        state = prepare(request, load_losses(), number, Future())
        state.conditional = more(state.conditional, number)
        state.unconditional = state.unconditional and more(state.unconditional, -number)
        made.append(state)
    return made


def more(conditioning: Conditioning, pooled: float) -> MoreThanText:
    return MoreThanText(conditioning.text, torch.full((1, 3), float(pooled)))


def test_all_that_rows_are_conditioned_on_comes_to_the_unet(
    states: list[RequestState], forwards: list[dict[str, Any]]
) -> None:
    run_step(states, padded_rows=None, gradient_chunk=4)

    [given] = forwards
    assert given["added_cond_kwargs"]["text_embeds"][:, 0].tolist() == [0, 1, 2, 0, -2], "the conditional rows first"
    texts = [state.conditional.text for state in states]
    texts += [state.unconditional.text for state in states if state.unconditional]
    assert torch.equal(given["encoder_hidden_states"], torch.cat(texts))


def test_padding_repeats_the_first_row_of_all_of_it(states: list[RequestState], forwards: list[dict[str, Any]]) -> None:
    run_step(states[2:], padded_rows=4, gradient_chunk=4)

    [given] = forwards
    assert given["added_cond_kwargs"]["text_embeds"][:, 0].tolist() == [2, -2, 2, 2]
    assert len(given["encoder_hidden_states"]) == 4


def test_rows_that_take_turns_have_each_their_own(states: list[RequestState], forwards: list[dict[str, Any]]) -> None:
    run_step(states[2:], padded_rows=None, gradient_chunk=4, row_by_row=True)

    assert [given["added_cond_kwargs"]["text_embeds"][:, 0].tolist() for given in forwards] == [[2], [-2]]

"""One evaluation for a mixed batch: gather the jobs' rows, one UNet forward, guide, step, and give each job its own.

Jobs of unlike samplers, schedules, guidance and losses share every kernel here: what differs between them
is a row of numbers (see `worker.diffusion.plans`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.diffusion import latents
from worker.diffusion.additions import Additions
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.guidance import guide
from worker.diffusion.losses import Moment, WeightedLoss
from worker.diffusion.masking import put_back
from worker.diffusion.plans import Coefficient
from worker.diffusion.steps import HISTORY
from worker.engine.request_state import RequestState
from worker.models.model import LoadedModel

ROWS = 32
"""Rows of one forward, at most. On a CPU too: a row of 32 takes 8 % less than one of 16: see
deploy/docs/performance.md."""
CAREFUL_CPU_ROWS = 8
"""In deterministic mode every forward has this many, and a job alone waits for all of them."""


@dataclass(frozen=True)
class Step:
    """What an evaluation of the model made of J jobs, which for some is only the first of their step.

    All float32: x, x0 and out [J, 4, h, w], history [J, HISTORY, 4, h, w].

    `out` is guided; `predictions` has the two that it was made of, conditional and unconditional, for the jobs (by
    their index) whose guidance takes two.
    """

    x: Tensor
    x0: Tensor
    out: Tensor
    history: Tensor
    losses: tuple[dict[str, float], ...]
    predictions: dict[int, tuple[Tensor, Tensor]]
    reached: dict[int, Tensor]
    """Of the jobs (by their index) that keep a part of their picture: x before that was put back."""


@torch.no_grad()
def run_step(
    states: Sequence[RequestState],
    *,
    padded_rows: int | None,
    gradient_chunk: int,
    row_by_row: bool = False,
    most_rows: int = ROWS,
) -> Step:
    """One evaluation of all `states`, which must have one batch key. Changes none of them.

    With `padded_rows` the forward always has that many rows, which makes a row's bits independent of its company; on a
    GPU it has one of few numbers in any case, up to `most_rows`. Losses are differentiated `gradient_chunk` jobs at a
    time. `row_by_row` is for when memory is short: as many forwards as there are rows.
    """
    model = states[0].request.model
    coefficients = np.stack([state.coefficients for state in states])
    table = to_device(torch.from_numpy(coefficients), model.device)
    x = torch.stack([state.x for state in states])
    if padded_rows is None and x.is_cuda:
        padded_rows = min(one_of_few(sum(state.rows for state in states)), most_rows)
    out, predictions = _guided_output(model, states, table, x, padded_rows, row_by_row)
    x0 = _coefficient(table, Coefficient.X0_X) * x + _coefficient(table, Coefficient.X0_OUT) * out
    x, losses = _follow_losses(model, states, table, x, x0, gradient_chunk)
    remembered = torch.stack([state.history for state in states])
    h = _coefficient(table, Coefficient.H_X) * x + _coefficient(table, Coefficient.H_OUT) * out
    x_next = _coefficient(table, Coefficient.A) * _reached(states, x) + _coefficient(table, Coefficient.B0) * h
    for age in range(HISTORY):
        x_next = x_next + _coefficient(table, Coefficient(Coefficient.B1 + age)) * remembered[:, age]
    if (takes_out := np.flatnonzero(coefficients[:, Coefficient.OUT])).size:
        which = to_device(torch.from_numpy(takes_out), x.device)
        x_next = x_next.index_add(0, which, _coefficient(table[which], Coefficient.OUT) * out[which])
    x_next = _add_noise(states, table, x_next)
    x_next, reached = _put_back(states, table, x_next)
    history = torch.cat([h[:, None], remembered[:, :-1]], dim=1)
    if not coefficients[:, Coefficient.REMEMBER].all():
        history = torch.where(table[:, Coefficient.REMEMBER].view(-1, 1, 1, 1, 1) == 1, history, remembered)
    return Step(x_next, x0, out, history, losses, predictions, reached)


def _guided_output(
    model: LoadedModel,
    states: Sequence[RequestState],
    table: Tensor,
    x: Tensor,
    padded_rows: int | None,
    row_by_row: bool,
) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """The model's output under classifier-free guidance, [J, 4, h, w], and the predictions of `Step`.

    Conditional rows come first, then the others.
    """
    guided = [index for index, state in enumerate(states) if state.unconditional is not None]
    order = to_device(torch.tensor([*range(len(states)), *guided]), x.device)
    given = [state.conditional for state in states]
    given += [state.unconditional for state in states if state.unconditional is not None]
    additions = [state.additions for state in (*states, *(states[index] for index in guided))]
    rows = (_coefficient(table, Coefficient.INPUT_SCALE) * x)[order]
    if model.reads_masks:
        beside = torch.stack([state.beside for state in states if state.beside is not None])
        rows = torch.cat([rows, beside[order]], dim=1)
    timesteps = table[order, Coefficient.TIMESTEP]
    if row_by_row:
        parts = zip(rows.split(1), timesteps.split(1), given, ([one] for one in additions), strict=True)
        out = torch.cat([_forward(model, *part, None) for part in parts])
    else:
        out = _forward(model, rows, timesteps, Conditioning.stacked(given), additions, padded_rows)
    conditional = out[: len(states)]
    if not guided:
        return conditional, {}
    scale = to_device(torch.tensor([states[index].request.spec.guidance.scale for index in guided]), x.device)
    which = order[len(states) :]
    unconditional = out[len(states) :]
    predictions = {index: (conditional[index], row) for index, row in zip(guided, unconditional, strict=True)}
    return conditional.index_copy(0, which, guide(unconditional, conditional[which], scale)), predictions


def _forward(
    model: LoadedModel,
    rows: Tensor,
    timesteps: Tensor,
    conditioning: Conditioning,
    additions: Sequence[Additions | None],
    padded_rows: int | None,
) -> Tensor:
    count = len(rows)
    if padded_rows is not None and count < padded_rows:
        order = torch.arange(padded_rows, device=rows.device)
        order[count:] = 0
        rows, timesteps, conditioning = rows[order], timesteps[order], conditioning.each(lambda tensor: tensor[order])
        additions = [*additions, *[additions[0]] * (padded_rows - count)]
    return model.predict(rows, timesteps, conditioning, additions)[:count].float()


def one_of_few(rows: int) -> int:
    """The number of rows that a GPU computes for so many: less than an eighth of the next power of two more.

    The first forward of a number takes several times as long as those that follow, while cuDNN makes plans for its
    convolutions and a graph is made of it (see `worker.models.cuda_graphs`): on an H200 a third of a second.
    """
    step = 1 << max(0, (rows - 1).bit_length() - 3)
    return -(-rows // step) * step


def _follow_losses(
    model: LoadedModel, states: Sequence[RequestState], table: Tensor, x: Tensor, x0: Tensor, chunk: int
) -> tuple[Tensor, tuple[dict[str, float], ...]]:
    """Move each x against the gradient of the losses that are due for it. Returns x and the losses' values."""
    values: list[dict[str, float]] = [{} for _ in states]
    due = [index for index, state in enumerate(states) if state.losses_due]
    if not due:
        return x, tuple(values)
    moved = x.clone()
    for start in range(0, len(due), chunk):
        part = due[start : start + chunk]
        terms: list[tuple[WeightedLoss, ...]] = [states[index].losses_due for index in part]
        moments = [_moment(states[index], table[index], x[index]) for index in part]
        gradient, part_values = latents.loss_gradient(model.vae, x0[part], terms, moments)
        moved[part] -= _coefficient(table[part], Coefficient.GRAD_SCALE) * gradient
        for index, job_terms, job_values in zip(part, terms, part_values, strict=True):
            values[index] = _by_name(job_terms, job_values)
    return moved, tuple(values)


def _moment(state: RequestState, coefficients: Tensor, x: Tensor) -> Moment:
    """What losses may look at of a job, before its step."""
    timestep = coefficients[Coefficient.TIMESTEP].view(1)
    return Moment(x[None], timestep, state.prompt.embedding, state.request.spec.conditioning.prompts)


def _by_name(terms: Sequence[WeightedLoss], values: Sequence[float]) -> dict[str, float]:
    """Values by loss; a loss that a job has more than once is numbered."""
    named: dict[str, float] = {}
    for term, value in zip(terms, values, strict=True):
        count = sum(name.partition(" ")[0] == term.name for name in named)
        named[f"{term.name} {count + 1}" if count else term.name] = value
    return named


def _add_noise(states: Sequence[RequestState], table: Tensor, x: Tensor) -> Tensor:
    drawn = [state.fresh_noise() for state in states]
    noisy = [index for index, noise in enumerate(drawn) if noise is not None]
    if noisy:
        fresh = to_device(torch.stack([noise for noise in drawn if noise is not None]), x.device)
        which = to_device(torch.tensor(noisy), x.device)
        x = x.index_add(0, which, _coefficient(table[which], Coefficient.NOISE) * fresh)
    return x


def _reached(states: Sequence[RequestState], x: Tensor) -> Tensor:
    """x, or where the first evaluation of a step led where something was put back since."""
    reached = {index: state.reached for index, state in enumerate(states) if state.reached is not None}
    if not reached:
        return x
    which = to_device(torch.tensor(list(reached)), x.device)
    return x.index_copy(0, which, torch.stack([tensor for tensor in reached.values() if tensor is not None]))


def _put_back(states: Sequence[RequestState], table: Tensor, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """x with the pictures' own latents where jobs keep them, and what x was there before, by the jobs' indices."""
    kept = {index: state.kept for index, state in enumerate(states) if state.kept is not None}
    if not kept:
        return x, {}
    which = to_device(torch.tensor(list(kept)), x.device)
    mask, own, noise = (
        torch.stack([getattr(one, name) for one in kept.values()]) for name in ("mask", "latents", "noise")
    )
    levels = (_coefficient(table[which], column) for column in (Coefficient.KEPT_ALPHA, Coefficient.KEPT_SIGMA))
    return x.index_copy(0, which, put_back(x[which], mask, own, noise, *levels)), {index: x[index] for index in kept}


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device, on its way while the host goes on: only pinned memory is copied like that."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _coefficient(table: Tensor, column: Coefficient) -> Tensor:
    """One coefficient a job, shaped to multiply latents."""
    return table[:, column].view(-1, 1, 1, 1)

"""A UNet compiled for a few shapes; forwards of all others run as they are.

`torch.compile` makes kernels for one shape at a time. So rows are padded to one of at most seven numbers, for the
model's own picture size alone. All of them are compiled before the worker takes its first job, and nothing is ever
compiled while jobs wait: a model that was dropped to free memory and is loaded again runs as it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.diffusion.conditioning import Conditioning
from worker.models.model import LoadedModel, pad_rows, to_channels_last
from worker.models.undisturbed import undisturbed

_log = logging.getLogger(__name__)

_MOST_NUMBERS = 7
_MOST_GRAPHS = 64
"""Dynamo counts compiled shapes by code, not by module: room for seven of several models."""


def numbers_of_rows(most: int) -> tuple[int, ...]:
    """The numbers of rows to compile for: `most`, and the powers of two below it that leave at most seven."""
    powers = [2**exponent for exponent in range(most.bit_length()) if 2**exponent < most]
    return (*powers[-(_MOST_NUMBERS - 1) :], most)


class CompiledUNet:
    """The forwards of a model's UNet, compiled for the given numbers of rows."""

    def __init__(self, model: LoadedModel, conditioning: Conditioning, numbers: Sequence[int]) -> None:
        """`conditioning` is any row's."""
        self.module: Any = torch.compile(model.unet, dynamic=False)
        self._numbers = sorted(numbers)
        self._shape = model.row_shape
        self._device, self._dtype = model.device, model.dtype
        self._any = conditioning

    def fits(self, rows: Tensor, conditioning: Conditioning) -> bool:
        """Whether rows [N, 4, h, w] can be padded to a shape that is compiled, under such a conditioning."""
        is_compiled = tuple(rows.shape[1:]) == self._shape and conditioning.shape == self._any.shape
        return is_compiled and len(rows) <= self._numbers[-1]

    def __call__(self, rows: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's output for rows that fit, timesteps [N] and what they are conditioned on."""
        padded = partial(pad_rows, number=next(number for number in self._numbers if number >= len(rows)))
        with undisturbed(), torch.compiler.set_stance("eager_on_recompile"):
            out = self._forward(padded(rows), padded(timesteps), conditioning.each(padded))
        return out[: len(rows)]

    @torch.no_grad()
    def warm_up(self) -> None:
        """Compile every shape. Raises what the compiler raises, of many kinds."""
        torch._dynamo.config.recompile_limit = _MOST_GRAPHS
        for number in self._numbers:
            began = time.monotonic()
            rows = torch.zeros((number, *self._shape), device=self._device, dtype=self._dtype)
            given = rows, torch.zeros(number, device=self._device), Conditioning.stacked([self._any] * number)
            with torch.compiler.set_stance("force_eager"):
                self._forward(*given)  # steady layers find out which of them must go row by row (see `steady`)
            self._forward(*given)
            if torch.are_deterministic_algorithms_enabled():
                self._check_rows(number)
            _log.info("compiled for %d rows in %.0f s", number, time.monotonic() - began)

    def _check_rows(self, number: int) -> None:
        """Raise `RuntimeError` if equal rows become unequal: the kernels are others than those of the layers."""
        row = torch.randn((1, *self._shape), generator=torch.Generator().manual_seed(0))
        rows = row.expand(number, -1, -1, -1).to(self._device, self._dtype)
        timesteps = torch.full((number,), 500.0, device=self._device)
        out = self._forward(rows, timesteps, Conditioning.stacked([self._any] * number))
        if not bool((out == out[:1]).all()):
            raise RuntimeError("compiled, rows depend on their places, which deterministic mode rules out")

    def _forward(self, rows: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        out: Tensor = self.module(to_channels_last(rows), timesteps, **conditioning.arguments).sample
        return out


def compiled(model: LoadedModel, numbers: Sequence[int]) -> CompiledUNet | None:
    """The model's UNet, compiled; None, and a warning, where that cannot be done, such as without a C++ compiler."""
    unet = CompiledUNet(model, model.conditioned(model.prompts.encode("")), numbers)
    shown = ", ".join(map(str, numbers))
    _log.info("compiling the model '%s' for %s rows: minutes the first time, seconds afterwards", model.name, shown)
    try:
        unet.warm_up()
    except Exception as error:  # Dynamo, Inductor and Triton each have their own, and the farm can do without them
        _log.warning("the model '%s' cannot be compiled here, so it runs as it is: %s", model.name, _reason(error))
        return None
    return unet


def _reason(error: Exception) -> str:
    """What a compiler says, in a line: how it begins, and the first complaint further down."""
    if " " in torch.__file__:
        return f"torch cannot call a compiler from a path with a space in it ({Path(torch.__file__).parent})"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    complaint = next((line for line in lines[1:] if "error:" in line), None)
    return f"{lines[0]}: {complaint}" if complaint else lines[0]

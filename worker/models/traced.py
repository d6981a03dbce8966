"""A UNet's forwards on a CPU without the Python of its modules, and parts of a batch side by side on its cores.

Half of a small forward is Python that decides which kernels to run, and while one thread does that under the
interpreter's lock no other can. TorchScript records the kernels once and runs them without it. So every core takes its
own rows through the whole UNet alone, which needs no waiting for one another at every kernel.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from worker.models.components import first_line

if TYPE_CHECKING:
    from worker.models.loader import LoadedModel

_log = logging.getLogger(__name__)

_RECORDED_ROWS, _TRIED_ROWS = 2, 3
_TOLERANCE = 1e-3
"""Of the largest number of an output. Another order of sums makes 1e-6 of it, a kernel recorded wrongly all of it."""


class TracedUNet(nn.Module):
    """The forwards of a UNet, recorded. Rows are dealt to lanes, at most `cores`, that run at the same time."""

    def __init__(self, unet: nn.Module, text: Tensor, *, channels: int, multiple: int, cores: int) -> None:
        """`text` [tokens, width] is any prompt's; sides of latents must be multiples of `multiple`.

        Raises what torch raises, of many kinds, if the UNet cannot be recorded.
        """
        super().__init__()
        self._cores = cores
        self.multiple = multiple
        self._width = text.shape[-1]
        example = text.new_zeros((_RECORDED_ROWS, channels, multiple, multiple))
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `torch.jit.trace` is deprecated, and warns of every `if` of the model
            self._recorded = torch.jit.trace(
                _Positional(unet),
                (example, example.new_zeros(_RECORDED_ROWS), torch.stack([text] * _RECORDED_ROWS)),
                check_trace=False,
            )

    def fits(self, rows: Tensor, texts: Tensor) -> bool:
        """Whether rows [N, 4, h, w] and texts [N, tokens, width] are such as were recorded, whatever N, h and w."""
        return texts.shape[-1] == self._width and all(side % self.multiple == 0 for side in rows.shape[2:])

    def forward(self, rows: Tensor, timesteps: Tensor, texts: Tensor) -> Tensor:
        """The UNet's output [N, 4, h, w] for timesteps [N]. The bits of a row depend on how many share its lane."""
        lanes = min(len(rows), self._cores)
        each = self._cores // lanes
        first, *others = zip(*(tensor.tensor_split(lanes) for tensor in (rows, timesteps, texts)), strict=True)
        with _threads(each, afterwards=self._cores):
            running = [_lanes(self._cores).submit(self._run, each, *part) for part in others]
            try:
                done = self.in_one_lane(*first)
            finally:
                wait(running)
        return torch.cat([done, *(lane.result() for lane in running)])

    def _run(self, threads: int, *part: Tensor) -> Tensor:
        torch.set_num_threads(threads)
        return self.in_one_lane(*part)

    @torch.no_grad()
    def in_one_lane(self, *part: Tensor) -> Tensor:
        """The same, all on this thread, which keeps the number of threads that it has."""
        # Optimised, the first calls of a shape take ten times as long, and later ones as long as these.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # torch does not export it
            out: Tensor = self._recorded(*part)
        return out


class _Positional(nn.Module):
    """The UNet as what can be recorded: tensors in, a tensor out."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, rows: Tensor, timesteps: Tensor, texts: Tensor) -> Tensor:
        out: Tensor = self.unet(rows, timesteps, encoder_hidden_states=texts, return_dict=False)[0]
        return out


def traced(model: LoadedModel, cores: int) -> TracedUNet | None:
    """The model's UNet, recorded and tried; None where that has no use, or, with a warning, where it does not work."""
    if model.device.type != "cpu":
        return None
    text = model.text_memory.of(model.prompts.encode("").embedding[0])
    try:
        unet = TracedUNet(
            model.unet,
            text,
            channels=model.unet.config["in_channels"],
            multiple=2 ** (len(model.unet.config["block_out_channels"]) - 1),
            cores=cores,
        )
        error = _largest_error(unet, model, text)
    except Exception as failure:  # whatever a model of strange parts makes of it, it can be rendered without
        _log.warning("the model '%s' cannot be recorded and runs as it is: %s", model.name, first_line(failure))
        return None
    if error > _TOLERANCE:
        _log.warning("the model '%s' runs as it is: recorded, it differs by %.1g of its output", model.name, error)
        return None
    return unet


@torch.no_grad()
def _largest_error(unet: TracedUNet, model: LoadedModel, text: Tensor) -> float:
    """How far from the truth it is for other shapes than it was recorded with, as a part of the largest number.

    In one lane, for other models may be rendering while this one is loaded.
    """
    channels, side = model.unet.config["in_channels"], 2 * unet.multiple
    rows = torch.linspace(-1, 1, _TRIED_ROWS * channels * side * side).view(_TRIED_ROWS, channels, side, side)
    given = rows, torch.linspace(1, 900, _TRIED_ROWS), torch.stack([text] * _TRIED_ROWS)
    truth = _Positional(model.unet)(*given)
    return float((unet.in_one_lane(*given) - truth).abs().max() / truth.abs().max())


@cache
def _lanes(cores: int) -> ThreadPoolExecutor:
    """The threads of the other lanes: all models' share them, for one forward runs at a time."""
    return ThreadPoolExecutor(max(1, cores - 1), thread_name_prefix="lane")


@contextmanager
def _threads(count: int, *, afterwards: int) -> Iterator[None]:
    """Let this thread compute with so many threads. torch tells MKL too, which has one number for the whole process: so
    nobody but the engine's thread may do this, and its other lanes must be done before it is undone."""
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(afterwards)

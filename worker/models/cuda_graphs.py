"""A UNet's forwards on CUDA without the host: its kernels are launched once for each number of rows, and then replayed.

Launching the thousand kernels of a small forward takes the host longer than it takes the GPU to run them. A CUDA graph
keeps them, with their addresses, and one call runs them all. See
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from worker.diffusion.conditioning import Conditioning
from worker.models.disguises import first_line
from worker.models.model import LoadedModel

_log = logging.getLogger(__name__)

_MOST_ROWS = 128
_SHARE = 0.02
"""Of the device's memory, for the activations of a model's graphs, which stay allocated. A forward that needs more
keeps the GPU busy for so long that the host is not waited for: on an H100, 16 rows of Stable Diffusion gain 7 % and 32
rows 2 %, where 2 rows take a fifth."""
_replaying = Lock()


@dataclass(frozen=True)
class _Graph:
    graph: Any  # torch's stubs have no annotations for `torch.cuda.CUDAGraph`
    out: Tensor


class GraphedUNet(nn.Module):
    """The forwards of a model's UNet at its own picture size. The second one of a number of rows becomes a graph.

    The graphs share their memory, for one is replayed at a time.
    """

    def __init__(self, model: LoadedModel, conditioning: Conditioning, *, most: int) -> None:
        """`conditioning` is any row's; forwards of more than `most` rows are launched as they come."""
        super().__init__()
        self._launch: Callable[[Tensor, Tensor, Conditioning], Tensor] = model.predict
        self._shape, self._conditioned_on = model.row_shape, conditioning.shape
        rows = torch.zeros((most, *model.row_shape), device=model.device, dtype=model.dtype)
        self._rows = rows.contiguous(memory_format=torch.channels_last)
        self._timesteps = torch.zeros(most, device=model.device)
        self._conditioning = conditioning.each(lambda tensor: tensor.new_zeros((most, *tensor.shape[1:])))
        self._most = most
        # Of this model's alone: PyTorch gives up a pool with the last graph in it, and cannot take it up again.
        self._pool = torch.cuda.graph_pool_handle()
        self._seen: set[int] = set()
        self._graphs: dict[int, _Graph] = {}

    @property
    def module(self) -> nn.Module:
        return self

    def fits(self, rows: Tensor, conditioning: Conditioning) -> bool:
        """Whether rows [N, 4, h, w] and their conditioning are of the model's own size."""
        return tuple(rows.shape[1:]) == self._shape and conditioning.shape == self._conditioned_on

    def forward(self, rows: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's output [N, 4, h, w] for timesteps [N]."""
        with _replaying, torch.cuda.device(self._rows.device):
            graph = self._graph_for(len(rows))
            if graph is not None:
                self._give(rows, timesteps, conditioning)
                graph.graph.replay()
                return graph.out.clone()
        return self._launch(rows, timesteps, conditioning)

    def _graph_for(self, number: int) -> _Graph | None:
        """The graph of so many rows; None at their first forward, in which kernels are chosen and loaded."""
        if number > self._most or number not in self._seen:
            self._seen.add(number)
            return None
        if number not in self._graphs:
            try:
                self._graphs[number] = self._captured(number)
            except Exception as error:  # of many kinds, and the model can do without
                _log.warning(
                    "forwards are launched as they come, for %d rows made no graph: %s", number, first_line(error)
                )
                self._most = 0
                return None
        return self._graphs[number]

    @torch.no_grad()
    def _captured(self, number: int) -> _Graph:
        graph = torch.cuda.CUDAGraph()
        given = self._rows[:number], self._timesteps[:number], self._conditioning.each(lambda tensor: tensor[:number])
        # Other threads may load models meanwhile: only what this one does must be of the graph.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = self._launch(*given)
        return _Graph(graph, out)

    def _give(self, rows: Tensor, timesteps: Tensor, conditioning: Conditioning) -> None:
        """Copy what a forward is given to where the graphs read it."""
        number = len(rows)
        self._rows[:number].copy_(rows)
        self._timesteps[:number].copy_(timesteps)
        for own, given in zip(self._conditioning.tensors, conditioning.tensors, strict=True):
            own[:number].copy_(given)


def with_graphs(model: LoadedModel) -> LoadedModel:
    """The model, whose forwards on CUDA are replayed from graphs; elsewhere the model as it is."""
    model = replace(model, graphed=None)
    if model.device.type != "cuda" or model.memory is None:
        return model
    room = _SHARE * torch.cuda.get_device_properties(model.device).total_memory
    most = min(_MOST_ROWS, int(room / model.memory.row))
    if not most:
        return model
    conditioning = model.conditioned(model.prompts.encode(""))
    return replace(model, graphed=GraphedUNet(model, conditioning, most=most))

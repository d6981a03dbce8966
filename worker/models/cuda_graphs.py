"""A UNet's forwards on CUDA without the host: its kernels are launched once for each number of rows, and then replayed.

Launching the thousand kernels of a small forward takes the host longer than it takes the GPU to run them. A CUDA graph
keeps them, with their addresses, and one call runs them all. See
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from worker.diffusion.adapting import Slots
from worker.diffusion.additions import Additions, Layout
from worker.diffusion.conditioning import Conditioning
from worker.models.disguises import first_line
from worker.models.model import LoadedModel
from worker.models.undisturbed import undisturbed

_log = logging.getLogger(__name__)

_MOST_ROWS = 128
_SHARE = 0.02
"""Of the device's memory, for the activations of a model's graphs, which stay allocated. A forward that needs more
keeps the GPU busy for so long that the host is not waited for: on an H100, 16 rows of Stable Diffusion gain 7 % and 32
rows 2 %, where 2 rows take a fifth."""
_SHARE_OF_ADAPTERS = 0.01
"""The same for those of one layout of adapters, and as much again for their factors."""
_MOST_LAYOUTS, _IN_USE = 4, 64
"""Of adapters, and for how many forwards with some a layout counts as in use: where more take turns than there are
places, the others are launched."""
_MOST_FAILURES = 3
_replaying = Lock()


@dataclass(frozen=True)
class _Graph:
    graph: Any  # torch's stubs have no annotations for `torch.cuda.CUDAGraph`
    out: Tensor


class _Graphs:
    """The graphs of one kind of forwards, by their number of rows. The second of a number becomes one.

    They share their memory, for one is replayed at a time.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        # Of these alone: PyTorch gives up a pool with the last graph in it, and cannot take it up again.
        self._pool = torch.cuda.graph_pool_handle()
        self._seen: set[int] = set()
        self._graphs: dict[int, _Graph] = {}
        self._failures = 0

    @property
    def numbers(self) -> Sequence[int]:
        """Of rows, for which there are graphs."""
        return [*self._graphs]

    def run(self, number: int, launch: Callable[[], Tensor]) -> Tensor:
        """What `launch` computes, which reads the same addresses whenever it has this number of rows."""
        graph = self._graph_for(number, launch)
        if graph is None:
            return launch()
        graph.graph.replay()
        return graph.out.clone()

    def _graph_for(self, number: int, launch: Callable[[], Tensor]) -> _Graph | None:
        """None at the first forward of a number, in which kernels are chosen and loaded."""
        if number > self.most or number not in self._seen:
            self._seen.add(number)
            return None
        if number not in self._graphs:
            try:
                self._graphs[number] = self._captured(launch)
            except Exception as error:  # of many kinds, and the model can do without
                _log.warning(
                    "forwards are launched as they come, for %d rows made no graph: %s", number, first_line(error)
                )
                self._failures += 1
                self.most = 0 if self._failures == _MOST_FAILURES else self.most
                return None
        return self._graphs[number]

    @torch.no_grad()
    def _captured(self, launch: Callable[[], Tensor]) -> _Graph:
        graph = torch.cuda.CUDAGraph()
        # Other threads may load models meanwhile: only what this one does must be of the graph.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = launch()
        return _Graph(graph, out)


@dataclass
class _Adding:
    """What forwards with adapters of one layout have, and which forward with some used it last."""

    slots: Slots
    graphs: _Graphs
    used: int = 0


class GraphedUNet(nn.Module):
    """The forwards of a model's UNet at its own picture size, and with adapters those of the latest few layouts."""

    def __init__(self, model: LoadedModel, conditioning: Conditioning, *, most: int, room: int) -> None:
        """`conditioning` is any row's; forwards of more than `most` rows are launched as they come, and with adapters
        those of more than half of that, or whose factors take more than `room` bytes."""
        super().__init__()
        self._model = model
        self._shape, self._conditioned_on = model.row_shape, conditioning.shape
        rows = torch.zeros((most, *model.row_shape), device=model.device, dtype=model.dtype)
        self._rows = rows.contiguous(memory_format=torch.channels_last)
        self._timesteps = torch.zeros(most, device=model.device)
        self._conditioning = conditioning.each(lambda tensor: tensor.new_zeros((most, *tensor.shape[1:])))
        self._room = room
        self._graphs = _Graphs(most)
        self._adding: OrderedDict[Layout, _Adding] = OrderedDict()
        self._forwards = 0

    @property
    def module(self) -> nn.Module:
        return self

    @property
    def numbers(self) -> Sequence[int]:
        """Of rows, for which there are graphs."""
        return self._graphs.numbers

    @property
    def numbers_adding(self) -> Sequence[int]:
        """The same of those with adapters, for each layout."""
        return [number for adding in self._adding.values() for number in adding.graphs.numbers]

    def fits(self, rows: Tensor, conditioning: Conditioning) -> bool:
        """Whether rows [N, 4, h, w] and their conditioning are of the model's own size, and not too many."""
        is_own = tuple(rows.shape[1:]) == self._shape and conditioning.shape == self._conditioned_on
        return is_own and len(rows) <= self._graphs.most

    def adds(self, additions: Sequence[Additions | None]) -> bool:
        """Whether it can add what rows have. Not in deterministic mode: graphs come and go, and they add zero to rows
        without adapters, which forwards without graphs do not touch."""
        layout = self._model.adapting.layout(additions)
        if layout is None:
            return True
        return not torch.are_deterministic_algorithms_enabled() and len(additions) <= self._most_adding(layout)

    def forward(
        self, rows: Tensor, timesteps: Tensor, conditioning: Conditioning, additions: Sequence[Additions | None] = ()
    ) -> Tensor:
        """The UNet's output [N, 4, h, w] for timesteps [N], with what is added for each row."""
        number, layout = len(rows), self._model.adapting.layout(additions)
        # Whoever takes a turn between two operators (see `worker.engine.beats`) must not do so amid a recording.
        with _replaying, torch.cuda.device(self._rows.device), undisturbed():
            self._give(rows, timesteps, conditioning)
            given = self._rows[:number], self._timesteps[:number], self._conditioning.each(lambda all: all[:number])
            if layout is None:
                return self._graphs.run(number, lambda: self._model.predict(*given))
            adding = self._of(layout)
            if adding is None:
                (gathered,) = self._model.adapting.gathered([additions], layout)
                return self._model.launch(*given, gathered)
            added = adding.slots.put(additions)
            return adding.graphs.run(number, lambda: self._model.launch(*given, added))

    def _of(self, layout: Layout) -> _Adding | None:
        """The slots and the graphs of a layout, made if there is a place and room for them."""
        self._forwards += 1
        if layout not in self._adding:
            if len(self._adding) == _MOST_LAYOUTS:
                oldest = next(iter(self._adding.values()))
                if self._forwards - oldest.used < _IN_USE:
                    return None
                self._adding.popitem(last=False)
            most = self._most_adding(layout)
            try:
                self._adding[layout] = _Adding(Slots(layout, most), _Graphs(most))
            except torch.OutOfMemoryError:
                return None
        self._adding.move_to_end(layout)
        self._adding[layout].used = self._forwards
        return self._adding[layout]

    def _most_adding(self, layout: Layout) -> int:
        return min(len(self._rows) // 2, self._room // layout.size)

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
    memory = torch.cuda.get_device_properties(model.device).total_memory
    most = min(_MOST_ROWS, int(_SHARE * memory / model.memory.row))
    if not most:
        return model
    conditioning = model.conditioned(model.prompts.encode(""))
    room = int(_SHARE_OF_ADAPTERS * memory)
    return replace(model, graphed=GraphedUNet(model, conditioning, most=most, room=room))

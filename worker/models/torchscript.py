"""A UNet's forwards on a CPU without the Python of its modules, and parts of a batch side by side on its cores.

Half of a small forward is Python that decides which kernels to run, and while one thread does that under the
interpreter's lock no other can. TorchScript records the kernels once and runs them without it. So every core takes its
own rows through the whole UNet alone, which needs no waiting for one another at every kernel.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from worker.diffusion.conditioning import Conditioning
from worker.models.disguises import first_line
from worker.models.memory_profile import is_out_of_memory
from worker.models.model import LoadedModel, pad_rows

_log = logging.getLogger(__name__)

_RECORDED_ROWS, _TRIED_ROWS = 2, 3
_TOLERANCE = 1e-3
"""Of the largest number of an output. Another order of sums makes 1e-6 of it, a kernel recorded wrongly all of it."""

Recording = Callable[..., Tensor]
"""The kernels of a UNet's forward, without its weights: called with rows, timesteps, the tensors of a conditioning, and
all of these."""

_recordings: dict[str, Recording] = {}
_recording = Lock()
"""TorchScript keeps what it has recorded until the process ends, and records one thing at a time. So there is one
recording for all UNets of a configuration, and it holds no weights."""


class RecordedUNet(nn.Module):
    """The forwards of a UNet, recorded. Rows are dealt to lanes, at most `cores`, that run at the same time."""

    def __init__(
        self, unet: nn.Module, conditioning: Conditioning, *, channels: int, multiple: int, cores: int
    ) -> None:
        """`conditioning` is any row's; sides of latents must be multiples of `multiple`.

        Raises what torch raises, of many kinds, if the UNet cannot be recorded.
        """
        super().__init__()
        self.multiple = multiple
        self._cores = cores
        self._conditioned_on = _but_for_tokens(conditioning)
        self._weights = list(unet.parameters())
        rows = conditioning.text.new_zeros((_RECORDED_ROWS, channels, multiple, multiple))
        self._recording = _recording_of(unet, conditioning, rows)

    @property
    def module(self) -> nn.Module:
        return self

    def fits(self, rows: Tensor, conditioning: Conditioning) -> bool:
        """Whether rows [N, 4, h, w] and their conditioning are such as were recorded, whatever N, h and w, and however
        many tokens their prompts have."""
        is_alike = _but_for_tokens(conditioning) == self._conditioned_on
        return is_alike and all(side % self.multiple == 0 for side in rows.shape[2:])

    def forward(self, rows: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's output [N, 4, h, w] for timesteps [N].

        All lanes have as many rows, the last one padded, so that a row's bits depend on N but not on its place.
        """
        share = math.ceil(len(rows) / self._cores)
        lanes = math.ceil(len(rows) / share)
        given = rows, timesteps, *conditioning.tensors
        dealt = (pad_rows(tensor, lanes * share).split(share) for tensor in given)
        first, *others = zip(*dealt, strict=True)
        threads = self._cores // lanes
        running: list[Future[Tensor]] = []
        with _threads(threads, afterwards=self._cores):
            try:
                for number, part in enumerate(others):
                    running.append(_lane(number).submit(self._with, threads, *part))
                done = self.in_one_lane(*first)
            finally:
                wait(running)
        return torch.cat([done, *(lane.result() for lane in running)])[: len(rows)]

    def _with(self, threads: int, *part: Tensor) -> Tensor:
        torch.set_num_threads(threads)
        return self.in_one_lane(*part)

    @torch.no_grad()
    def in_one_lane(self, rows: Tensor, timesteps: Tensor, *conditioning: Tensor) -> Tensor:
        """The same, all on this thread, which keeps the number of threads that it has."""
        # Optimised, the first calls of a shape take ten times as long, and later ones as long as these.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # torch does not export it
            return self._recording(rows, timesteps, *conditioning, *self._weights)


def recorded(model: LoadedModel, cores: int) -> RecordedUNet | None:
    """The model's UNet, recorded and tried; None where that has no use, or, with a warning, if it does not work.

    Raises what torch raises if memory runs out: whether a model is recorded must not depend on that.
    """
    if model.device.type != "cpu":
        return None
    conditioning = model.conditioned(model.prompts.encode(""))
    multiple = 2 ** (len(model.unet.config["block_out_channels"]) - 1)
    if any(side % multiple for side in model.latent_shape[1:]):
        return None
    try:
        channels = model.unet.config["in_channels"]
        unet = RecordedUNet(model.unet, conditioning, channels=channels, multiple=multiple, cores=cores)
        error = _largest_error(unet, model, conditioning)
    except Exception as failure:  # whatever a model of strange parts makes of it, it can be rendered without
        if is_out_of_memory(failure):
            raise
        _log.warning("the model '%s' cannot be recorded, so it runs as it is: %s", model.name, first_line(failure))
        return None
    if not error <= _TOLERANCE:  # so put that NaN is refused
        _log.warning("the model '%s' runs as it is: recorded, it differs by %.1g of its output", model.name, error)
        return None
    return unet


def _recording_of(unet: Any, conditioning: Conditioning, rows: Tensor) -> Recording:
    """The recording of the UNet's configuration, made with it if there is none."""
    kind = json.dumps([dict(unet.config), conditioning.shape], default=str, sort_keys=True)
    with _recording:
        if kind not in _recordings:
            _recordings[kind] = _record(unet, rows, Conditioning.stacked([conditioning] * len(rows)))
        return _recordings[kind]


@torch.no_grad()
def _record(unet: nn.Module, rows: Tensor, conditioning: Conditioning) -> Recording:
    names = [name for name, _ in unet.named_parameters()]
    held = [unet]  # TorchScript keeps the function that it records, so that must not keep the UNet
    kind, count = type(conditioning), len(conditioning.tensors)

    def forward(rows: Tensor, timesteps: Tensor, *given: Tensor) -> Tensor:
        with _given(held[0], dict(zip(names, given[count:], strict=True))):
            return _plain(held[0], rows, timesteps, kind(*given[:count]))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `torch.jit.trace` is deprecated, and warns of every `if` of the model
            example = rows, rows.new_zeros(len(rows)), *conditioning.tensors, *unet.parameters()
            recording: Recording = torch.jit.trace(forward, example, check_trace=False)
    finally:
        held.clear()
    return recording


@contextmanager
def _given(unet: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the UNet compute with these tensors instead of its parameters, by name."""
    own: list[tuple[nn.Module, str, nn.Parameter]] = []
    for name, tensor in weights.items():
        path, _, last = name.rpartition(".")
        module = unet.get_submodule(path)
        own.append((module, last, getattr(module, last)))
        delattr(module, last)
        setattr(module, last, tensor)
    try:
        yield
    finally:
        for module, last, parameter in own:
            delattr(module, last)
            setattr(module, last, parameter)


def _plain(unet: Any, rows: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
    out: Tensor = unet(rows, timesteps, **conditioning.arguments, return_dict=False)[0]
    return out


@torch.no_grad()
def _largest_error(unet: RecordedUNet, model: LoadedModel, conditioning: Conditioning) -> float:
    """How far from the truth it is for other shapes than it was recorded with, as a part of the largest number.

    In one lane, for other models may be rendering while this one is loaded.
    """
    channels, side = model.unet.config["in_channels"], 2 * unet.multiple
    rows = torch.linspace(-1, 1, _TRIED_ROWS * channels * side * side).view(_TRIED_ROWS, channels, side, side)
    timesteps, together = (
        torch.linspace(1, 900, _TRIED_ROWS),
        Conditioning.stacked([_longer(conditioning)] * _TRIED_ROWS),
    )
    truth = _plain(model.unet, rows, timesteps, together)
    found = unet.in_one_lane(rows, timesteps, *together.tensors)
    return float((found - truth).abs().max() / truth.abs().max())


def _but_for_tokens(conditioning: Conditioning) -> tuple[torch.Size, ...]:
    text, *others = conditioning.shape
    return text[1:], *others


def _longer(conditioning: Conditioning) -> Conditioning:
    """A row's conditioning on a prompt of twice as many tokens."""
    text, *others = conditioning.tensors
    return type(conditioning)(torch.cat([text, text.flip(1)], dim=1), *others)


@cache
def _lane(number: int) -> ThreadPoolExecutor:
    """The one thread of a lane. All models' forwards share it, and its own team of threads is of one size, mostly."""
    return ThreadPoolExecutor(1, thread_name_prefix=f"lane {number}")


@contextmanager
def _threads(count: int, *, afterwards: int) -> Iterator[None]:
    """Let this thread compute with this many threads.

    Threads that compute something for the first time meanwhile would keep that number too: see `ModelLoader.load`.
    """
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(afterwards)

"""A UNet's forwards on a CPU without the Python of its modules, and parts of a batch side by side on its cores.

Half of a small forward is Python that decides which kernels to run, and while one thread does that under the
interpreter's lock no other can. TorchScript records the kernels once and runs them without it. So every core takes its
own rows through the whole UNet alone, which needs no waiting for one another at every kernel.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, partial
from threading import RLock

import torch
from torch import Tensor, nn

from worker.diffusion.adapting import Adapting, Gathered
from worker.diffusion.additions import Additions, Kind
from worker.diffusion.conditioning import Conditioning
from worker.models.disguises import first_line
from worker.models.memory_profile import is_out_of_memory
from worker.models.model import LoadedModel, pad_rows
from worker.models.recording import RECORDED_ROWS, TRIED_ROWS, Original, Recording, recording_of

_log = logging.getLogger(__name__)

_RECORDED_RANK, _TRIED_RANK = 4, 6
_TOLERANCE = 1e-3
"""Of the largest number of an output. Another order of sums makes 1e-6 of it, a kernel recorded wrongly all of it."""


class RecordedUNet(nn.Module):
    """The forwards of a UNet, recorded. Rows are dealt to lanes, at most `cores`, that run at the same time.

    One thread may call it while others let it `get_ready`.
    """

    def __init__(self, original: Original, adapting: Adapting, *, cores: int) -> None:
        """Sides of latents must be multiples of the original's; `adapting` is the model's.

        Raises what torch raises, of many kinds, if the UNet cannot be recorded.
        """
        super().__init__()
        self.multiple = original.side
        self._cores = cores
        self._conditioned_on = _but_for_tokens(original.conditioning)
        self._weights = list(original.unet.parameters())
        self._original = original
        self._adapting = adapting
        self._recording = recording_of(original, None)
        self._adapted: dict[Kind, Recording | None] = {}
        self._getting_ready = RLock()

    @property
    def module(self) -> nn.Module:
        return self

    def fits(self, rows: Tensor, conditioning: Conditioning) -> bool:
        """Whether rows [N, 4, h, w] and their conditioning are such as were recorded, whatever N, h and w, and however
        many tokens their prompts have."""
        is_alike = _but_for_tokens(conditioning) == self._conditioned_on
        return is_alike and all(side % self.multiple == 0 for side in rows.shape[2:])

    def adds(self, additions: Sequence[Additions | None]) -> bool:
        """Whether it can add what rows have. That is recorded and tried now if nobody had it get ready."""
        layout = self._adapting.layout(additions)
        return layout is None or self._recording_adding(layout.kind) is not None

    def get_ready(self, kind: Kind) -> None:
        """Record and try forwards that add what is of a kind, by itself and beside all that it got ready for before.

        On one core, for others compute meanwhile. Where memory runs out it is left to whoever asks whether it `adds`.
        """
        with self._getting_ready, _threads(1, afterwards=self._cores):
            try:
                for each in (kind, *(Kind.of_all([kind, known]) for known in tuple(self._adapted))):
                    self._recording_adding(each)
            except Exception as failure:
                if not is_out_of_memory(failure):
                    raise

    def forward(
        self, rows: Tensor, timesteps: Tensor, conditioning: Conditioning, additions: Sequence[Additions | None] = ()
    ) -> Tensor:
        """The UNet's output [N, 4, h, w] for timesteps [N]. For each row is added what its adapters say, if it has any.

        All lanes have as many rows, the last one padded, so that a row's bits depend on N but not on its place.
        """
        share = math.ceil(len(rows) / self._cores)
        lanes = math.ceil(len(rows) / share)
        given = rows, timesteps, *conditioning.tensors
        dealt = (pad_rows(tensor, lanes * share).split(share) for tensor in given)
        first, *others = zip(*dealt, strict=True)
        mine, *theirs = self._dealt(additions, share, lanes)
        threads = self._cores // lanes
        running: list[Future[Tensor]] = []
        with _threads(threads, afterwards=self._cores):
            try:
                for number, (part, added) in enumerate(zip(others, theirs, strict=True)):
                    running.append(_lane(number).submit(self._with, threads, added, *part))
                done = self._adding(mine, *first)
            finally:
                wait(running)
        return torch.cat([done, *(lane.result() for lane in running)])[: len(rows)]

    def _dealt(self, additions: Sequence[Additions | None], share: int, lanes: int) -> Sequence[Gathered | None]:
        """What is added in each lane; None where nothing is."""
        layout = self._adapting.layout(additions)
        if layout is None:
            return [None] * lanes
        padded = [*additions, *[additions[0]] * (lanes * share - len(additions))]
        parts = [padded[begin : begin + share] for begin in range(0, len(padded), share)]
        return self._adapting.gathered(parts, layout)

    def _with(self, threads: int, added: Gathered | None, *part: Tensor) -> Tensor:
        torch.set_num_threads(threads)
        return self._adding(added, *part)

    def _adding(self, added: Gathered | None, *part: Tensor) -> Tensor:
        if added is None:
            return self.in_one_lane(*part)
        recording = self._adapted[added.kind]
        assert recording is not None, "whoever calls has asked whether it can"
        return self._run_adding(recording, added, *part)

    def _run_adding(self, recording: Recording, added: Gathered | None, *part: Tensor) -> Tensor:
        return self._run(recording, *part, *self._weights, *(added.tensors if added else ()))

    def in_one_lane(self, rows: Tensor, timesteps: Tensor, *conditioning: Tensor) -> Tensor:
        """The same without adapters, all on this thread, which keeps the number of threads that it has."""
        return self._run(self._recording, rows, timesteps, *conditioning, *self._weights)

    @torch.no_grad()
    def _run(self, recording: Recording, *given: Tensor) -> Tensor:
        # Optimised, the first calls of a shape take ten times as long, and later ones as long as these.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # torch does not export it
            return recording(*given)

    def largest_error(self) -> float:
        """How far from the truth it is for other shapes than it was recorded with, as a part of the largest number.

        In one lane, for other models may be rendering while this one is loaded.
        """
        return self._error(self.in_one_lane, None)

    def _error(self, forward: Callable[..., Tensor], added: Gathered | None) -> float:
        rows, timesteps, conditioning = self._original.tried()
        truth = self._original.forward(rows, timesteps, conditioning, added)
        found = forward(rows, timesteps, *conditioning.tensors)
        return float((found - truth).abs().max() / truth.abs().max())

    def _recording_adding(self, kind: Kind) -> Recording | None:
        """The recording of forwards that add what is of a kind, made now if there is none; None if that did not
        work."""
        if kind not in self._adapted:
            with self._getting_ready:
                if kind not in self._adapted:
                    self._adapted[kind] = self._recorded_adding(kind)
        return self._adapted[kind]

    def _recorded_adding(self, kind: Kind) -> Recording | None:
        """The same, made and tried; None, with a warning, if that does not work."""
        example = partial(self._original.adapting.example, kind)
        try:
            recording = recording_of(self._original, example(RECORDED_ROWS, [1], rank=_RECORDED_RANK))
            some, every = (
                example(TRIED_ROWS, rows, rank=_TRIED_RANK) for rows in ([0, TRIED_ROWS - 1], range(TRIED_ROWS))
            )
            error = max(self._error(partial(self._run_adding, recording, added), added) for added in (some, every))
        except Exception as failure:  # as in `recorded`
            if is_out_of_memory(failure):
                raise
            _log.warning("forwards with adapters cannot be recorded, so they run as they are: %s", first_line(failure))
            return None
        if not error <= _TOLERANCE:
            _log.warning("forwards with adapters run as they are: recorded, they differ by %.1g of the output", error)
            return None
        return recording


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
        unet = RecordedUNet(Original.of(model, conditioning, multiple), model.adapting, cores=cores)
        error = unet.largest_error()
    except Exception as failure:  # whatever a model of strange parts makes of it, it can be rendered without
        if is_out_of_memory(failure):
            raise
        _log.warning("the model '%s' cannot be recorded, so it runs as it is: %s", model.name, first_line(failure))
        return None
    if not error <= _TOLERANCE:  # so put that NaN is refused
        _log.warning("the model '%s' runs as it is: recorded, it differs by %.1g of its output", model.name, error)
        return None
    return unet


def _but_for_tokens(conditioning: Conditioning) -> tuple[torch.Size, ...]:
    text, *others = conditioning.shape
    return text[1:], *others


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

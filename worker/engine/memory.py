"""How many rows fit into memory together: by what is free and what a row takes, and learnt from running out of it."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from worker.host.memory import in_container
from worker.models.model import LoadedModel, MemoryProfile

_FIRST_PROBATION = 64
_LONGEST_PROBATION = 4_096
_SHARE = 0.7
"""Of what is free: the rest is for what operators use inside, for jobs' own tensors, and for other processes."""
_FRESH_SECONDS = 5.0
_MEMINFO = Path("/proc/meminfo")

FreeBytes = Callable[[], int | None]


@dataclass
class Budget:
    """How many rows and pictures of a size fit into what is free, as `free` tells in bytes (None: unknown)."""

    free: FreeBytes
    _known: int | None = None
    _asked: float = float("-inf")

    def rows(self, model: LoadedModel, shape: Sequence[int], most: int, *, besides: int = 0) -> int:
        """At most `most` rows of latents of that shape [4, h, w], and at least one; each takes `besides` so many bytes
        for its prompt."""
        return max(1, self._fitting(model, shape, most, lambda profile: profile.row, besides))

    def pictures(self, model: LoadedModel, shape: Sequence[int], most: int) -> int:
        """At most `most` pictures to decode together; 0 if not even one fits whole."""
        return self._fitting(model, shape, most, lambda profile: profile.picture)

    def gradients(self, model: LoadedModel, shape: Sequence[int], most: int) -> int:
        """At most `most` pictures to differentiate losses of together, and at least one."""
        return max(1, self._fitting(model, shape, most, lambda profile: profile.gradient))

    def _fitting(
        self,
        model: LoadedModel,
        shape: Sequence[int],
        most: int,
        bytes_of_one: Callable[[MemoryProfile], int],
        besides: int = 0,
    ) -> int:
        if time.monotonic() - self._asked > _FRESH_SECONDS:
            self._known, self._asked = self.free(), time.monotonic()
        if model.memory is None or self._known is None:
            return most
        # activations grow with the area, as attention is computed in parts
        area = shape[-2] * shape[-1] / (model.latent_shape[-2] * model.latent_shape[-1])
        return min(most, int(_SHARE * self._known / (bytes_of_one(model.memory) * area + besides)))


def free_bytes(device: torch.device) -> int | None:
    """What tensors on the device may still take, or None where the system does not tell."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu" or not _MEMINFO.exists():
        return None
    lines = (line.split() for line in _MEMINFO.read_text(encoding="utf-8").splitlines())
    available = next((1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:"), None)
    container = in_container()
    limits = [limit for limit in (available, container.left if container else None) if limit is not None]
    return min(limits, default=None)


@dataclass
class _Cap:
    """At most `rows` together; after `probation` steps that fitted, twice as many are tried again."""

    rows: int
    probation: int
    fitted: int = 0


@dataclass
class RowCaps:
    """The caps of the batch keys in flight. One that never ran out of memory has none."""

    _caps: dict[Hashable, _Cap] = field(default_factory=dict)

    def of(self, batch_key: Hashable) -> int | None:
        """The most rows to take together, or None without a limit."""
        cap = self._caps.get(batch_key)
        return cap.rows if cap else None

    def ran_out(self, batch_key: Hashable, rows: int) -> None:
        """A step of this many rows did not fit: take half, and for longer the more often that happens."""
        probation = _FIRST_PROBATION
        if (known := self._caps.get(batch_key)) is not None:
            probation = min(2 * known.probation, _LONGEST_PROBATION)
        self._caps[batch_key] = _Cap(max(1, rows // 2), probation)

    def fitted(self, batch_key: Hashable, *, most: int) -> None:
        """A step fitted. What took the memory may be gone, so grow back in time, to `most` rows."""
        cap = self._caps.get(batch_key)
        if cap is None:
            return
        cap.fitted += 1
        if cap.fitted >= cap.probation:
            cap.rows, cap.fitted = min(2 * cap.rows, most), 0

    def keep_only(self, batch_keys: Collection[Hashable]) -> None:
        """A cap goes with the last job of its batch key."""
        self._caps = {batch_key: cap for batch_key, cap in self._caps.items() if batch_key in batch_keys}


def release(error: BaseException) -> None:
    """Give up what the failed step still holds: the tensors in the frames of its traceback, and the device's cache."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()  # earlier errors may be held by cycles, and hold tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

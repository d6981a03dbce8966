"""How many rows of a group fit into memory, learnt from running out of it."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field

import torch

_FIRST_PATIENCE = 64
_LONGEST_PATIENCE = 4_096


@dataclass
class _Cap:
    """At most `rows` together; after `patience` steps that fitted, twice as many are tried again."""

    rows: int
    patience: int
    fitted: int = 0


@dataclass
class RowCaps:
    """The caps of the groups in flight. A group that never ran out of memory has none."""

    _caps: dict[Hashable, _Cap] = field(default_factory=dict)

    def of(self, group: Hashable) -> int | None:
        """The most rows to take of a group, or None without a limit."""
        cap = self._caps.get(group)
        return cap.rows if cap else None

    def ran_out(self, group: Hashable, rows: int) -> None:
        """A step of so many rows did not fit: take half, for the longer the more often it happened."""
        patience = _FIRST_PATIENCE
        if (known := self._caps.get(group)) is not None:
            patience = min(2 * known.patience, _LONGEST_PATIENCE)
        self._caps[group] = _Cap(max(2, rows // 2), patience)

    def fitted(self, group: Hashable, *, most: int) -> None:
        """A step of the group fitted. What took the memory may be gone, so grow back in time, to `most` rows."""
        cap = self._caps.get(group)
        if cap is None:
            return
        cap.fitted += 1
        if cap.fitted >= cap.patience:
            cap.rows, cap.fitted = min(2 * cap.rows, most), 0

    def keep_only(self, groups: Collection[Hashable]) -> None:
        """A cap goes with the last job of its group."""
        self._caps = {group: cap for group, cap in self._caps.items() if group in groups}


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def release(error: BaseException) -> None:
    """Give up what the failed step still holds: the tensors in the frames of its traceback, and the device's cache."""
    traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

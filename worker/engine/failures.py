"""What went wrong in the engine, as people are told of it."""

from __future__ import annotations

import logging

from farm.errors import FarmError, RenderError
from worker.engine.memory import release
from worker.engine.request import Cancelled
from worker.models.memory_profile import is_out_of_memory

_log = logging.getLogger(__name__)


def told(error: Exception, doing: str) -> Exception:
    """`error` as one to tell the user; one that nobody foresaw is logged with its traceback."""
    if isinstance(error, (FarmError, Cancelled)):
        return error
    if is_out_of_memory(error):
        release(error)
        hint = "use a smaller width and height, or run a deterministic worker with fewer rows"
        return RenderError("memory", f"out of memory while {doing}", hint=hint)
    _log.error("unexpected error while %s", doing, exc_info=error)
    return RenderError("internal", f"unexpected error while {doing}: {type(error).__name__}: {error}")

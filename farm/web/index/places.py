"""Places in the index: whole numbers that sort as pictures were finished, so that the newest are found without sorting.

The milliseconds of a place are in its upper bits; the lower ones tell pictures of one millisecond apart.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime

_LOWER_BITS = 21
_MOST_MILLISECONDS = 2**42 - 1
"""Until the year 2109; a result may say what it likes."""
LAST = (_MOST_MILLISECONDS + 1 << _LOWER_BITS) - 1


def first_of(time: datetime) -> int:
    """The first place of the millisecond in which `time` is."""
    milliseconds = (time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000
    return min(max(int(milliseconds), 0), _MOST_MILLISECONDS) << _LOWER_BITS


def wanted(finished: datetime, job: str) -> int:
    """The place of a job that was finished then, unless another has it."""
    return first_of(finished) | zlib.crc32(job.encode()) & (1 << _LOWER_BITS) - 1

"""Where a worker keeps what outlives it: in the farm's home, if that can be trusted, and for itself alone otherwise."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path

from farm import settings
from farm.errors import HomeRefused
from farm.host import homes

_log = logging.getLogger(__name__)
_OTHERS_WRITE = 0o022


def settle_home() -> Path:
    """The farm's home, made if need be; else a folder of this worker's own, gone when the worker ends.

    Nothing that a worker makes from now on can be written by others, whatever the umask it was started with.
    """
    os.umask(os.umask(_OTHERS_WRITE) | _OTHERS_WRITE)
    try:
        home = settings.home()
        homes.prepare(home)
    except HomeRefused as error:
        folder = Path(tempfile.mkdtemp(prefix="farm-worker-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _log.warning("what this worker keeps is lost when it ends: %s", error)
        return folder
    return home

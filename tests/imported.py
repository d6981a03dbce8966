"""Imports all that a worker does, as it does, and all commands: what the fork server of `tests.launching` loads.

It also makes a client of the bucket, which reads botocore's large files, and loads the tiny model once, as most workers
under test do first of all: what libraries do when they are first used is then done, and there is a recording of its
forwards, which all models of its configuration share.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest.mock import patch

from worker.host.runtime import importing, settle

settle()
with importing():
    import torch

    import farm.web.server  # noqa: F401
    import worker.app  # noqa: F401
    from farm.bucket.storage import Storage
    from farm.cli.main import SECTIONS
    from farm.settings import Settings

    for commands in SECTIONS.values():
        for command in commands.values():
            command.load()
    Storage(Settings("redis://127.0.0.1:1/0", s3_endpoint="http://127.0.0.1:1", s3_access_key="a", s3_secret_key="b"))


def _load_a_model() -> None:
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    from tests.tiny import build_tiny_model
    from worker.models.device import place
    from worker.models.loader import ModelLoader
    from worker.models.registry import LocalDirectory

    for library in (of_diffusers, of_transformers):
        library.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        directory = build_tiny_model(Path(folder, "tiny"))
        ModelLoader(place("cpu"), cache=Path(folder, "cache")).load("tiny", LocalDirectory(directory))


# A process with threads cannot be forked safely, so this must start none; with several cores, computing would.
if torch.get_num_threads() == 1:
    with patch.dict(os.environ, TOKENIZERS_PARALLELISM="false"):
        _load_a_model()
    _threads = Path("/proc/self/task")
    assert not _threads.is_dir() or len(list(_threads.iterdir())) == 1, "the fork server has threads"

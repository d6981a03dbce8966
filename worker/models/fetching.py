"""Models kept in a bucket: downloading every object below a prefix."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from farm.errors import ModelError
from farm.keys import PICKLED_WEIGHTS
from farm.settings import Settings
from farm.storage import Storage

_MAX_OBJECTS = 10_000


def bucket_fetcher(where: Settings) -> Callable[[str, Path], None]:
    """A function that downloads all of an `s3://BUCKET/PREFIX`, on the farm's S3 server, into a directory.

    It raises `StorageError`, and `ModelError` for a prefix without objects or with a key that leaves it.
    """

    def fetch(url: str, directory: Path) -> None:
        parts = urlsplit(url)
        prefix = parts.path.strip("/") + "/"
        storage = Storage(replace(where, s3_bucket=parts.netloc))
        # An empty object whose name ends in a slash is how some tools show a folder. Pickled weights are never read.
        objects = [
            stored
            for stored in itertools.islice(storage.list(prefix), _MAX_OBJECTS)
            if not stored.key.lower().endswith(("/", *PICKLED_WEIGHTS))
        ]
        if not objects:
            raise ModelError(f"{url} holds no objects", hint="it should hold model_index.json, unet/, vae/, …")
        free = shutil.disk_usage(directory).free
        if (size := sum(stored.size for stored in objects)) > free:
            raise ModelError(f"{url} has {size:,} bytes, and {directory} has room for {free:,}")
        try:
            for stored in objects:
                storage.download(stored.key, _place(directory, stored.key.removeprefix(prefix)), limit=stored.size)
        except (OSError, ValueError) as error:
            raise ModelError(f"{url} cannot be kept in {directory}: {error}") from error

    return fetch


def _place(directory: Path, name: str) -> Path:
    """The file that an object of this name becomes, in a folder that is there."""
    target = (directory / name).resolve()
    if not target.is_relative_to(directory.resolve()):
        raise ModelError(f"{name!r:.200} would be written outside of the model's directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target

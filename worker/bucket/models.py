"""Models kept in a bucket: downloading what is loaded of them."""

from __future__ import annotations

import errno
import itertools
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from farm.bucket.storage import Storage, StoredObject
from farm.errors import ModelError, ModelUnavailable
from farm.keys import WEIGHTS
from farm.layouts import STEMS, weights_among
from farm.settings import Settings

_MAX_OBJECTS = 10_000
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TEXTS = (".json", "/merges.txt")
"""How the names of configurations and vocabularies end."""


def bucket_fetcher(where: Settings) -> Callable[[str, Path], None]:
    """A function that downloads what is loaded of an `s3://BUCKET/PREFIX`, on the farm's S3 server, into a directory.

    It raises `StorageError`, `ModelUnavailable` where there is no room for it, and `ModelError` for a prefix without a
    model or with a key that leaves it.
    """

    def fetch(url: str, directory: Path) -> None:
        parts = urlsplit(url)
        prefix = parts.path.strip("/") + "/"
        storage = Storage(replace(where, s3_bucket=parts.netloc))
        objects = _worth_fetching(itertools.islice(storage.list(prefix), _MAX_OBJECTS), prefix)
        if not objects:
            raise ModelError(f"{url} does not hold a model", hint="it should hold model_index.json, unet/, vae/, …")
        free = shutil.disk_usage(directory).free
        if (size := sum(stored.size for stored in objects)) > free:
            raise ModelUnavailable(f"{url} has {size:,} bytes, but {directory} has room for only {free:,}")
        try:
            for stored in objects:
                storage.download(stored.key, _place(directory, stored.key.removeprefix(prefix)), limit=stored.size)
        except (OSError, ValueError) as error:
            is_full = isinstance(error, OSError) and error.errno in _FULL
            kind = ModelUnavailable if is_full else ModelError
            raise kind(f"{url} cannot be kept in {directory}: {error}") from error

    return fetch


def _worth_fetching(objects: Iterable[StoredObject], prefix: str) -> list[StoredObject]:
    """Configurations, vocabularies, and weights in one precision each.

    Of a component without weights that could be loaded, what there is in their place: the loader says what is wrong.
    """
    by_name = {stored.key.removeprefix(prefix): stored for stored in objects}
    weights = set(weights_among(by_name))
    lacking = tuple(f"{component}/" for component in STEMS.keys() - {name.partition("/")[0] for name in weights})
    return [
        stored
        for name, stored in by_name.items()
        if name in weights or name.endswith(_TEXTS) or (name.endswith(WEIGHTS) and name.startswith(lacking))
    ]


def _place(directory: Path, name: str) -> Path:
    """The file that an object of this name becomes, in a folder that is there."""
    target = (directory / name).resolve()
    if not target.is_relative_to(directory.resolve()):
        raise ModelError(f"{name!r:.200} would be written outside the model's directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target

"""Models kept in a bucket: downloading every object below a prefix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from farm.errors import ModelError
from farm.settings import Settings
from farm.storage import Storage


def bucket_fetcher(where: Settings) -> Callable[[str, Path], None]:
    """A function that downloads all of an `s3://BUCKET/PREFIX`, on the farm's S3 server, into a directory.

    It raises `StorageError`, and `ModelError` for a prefix without objects or with a key that leaves it.
    """

    def fetch(url: str, directory: Path) -> None:
        parts = urlsplit(url)
        prefix = parts.path.strip("/") + "/"
        storage = Storage(replace(where, s3_bucket=parts.netloc))
        objects = list(storage.list(prefix))
        if not objects:
            raise ModelError(f"{url} holds no objects", hint="it should hold model_index.json, unet/, vae/, …")
        for stored in objects:
            target = (directory / stored.key.removeprefix(prefix)).resolve()
            if not target.is_relative_to(directory.resolve()):
                raise ModelError(f"{stored.key} in {url} would be written outside of the model's directory")
            target.parent.mkdir(parents=True, exist_ok=True)
            storage.download(stored.key, target)

    return fetch
